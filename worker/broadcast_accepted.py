"""A trip that is ours (ASSIGNED): whether we accepted it, a person did, or the requester gave it to us."""

from shared import traces
from shared.broker import Delivery
from shared.event import Status
from worker import assignment
from worker.assignment import Assignment, Call, Step
from worker.consume import Handled
from worker.desk import Desk, handled
from worker.inquiry import Inquiry
from worker.particulars import particulars
from worker.policy import Verdict


async def handle(desk: Desk, delivery: Delivery) -> Handled:
    """See the module."""
    event = desk.admit(delivery, Status.ASSIGNED)
    if isinstance(event, Handled):
        return event
    policy = desk.customers[event.customer_id].policy
    about = particulars(policy, event.data)
    confirms = False

    def assigned(known: Assignment, inquiry: Inquiry, now: float) -> Step:
        nonlocal confirms
        confirms = _accepting(known)

        def wanted(changed: Assignment) -> bool:
            return policy.decide(event, now, inquiry.facts(changed, policy)).verdict is Verdict.ACCEPT

        return assignment.assigned(known, event, about, wanted=wanted, rules=desk.rules)

    step = await desk.hear(event, assigned)
    if confirms and traces.here() is not None:
        traces.running().link(await desk.ledger.accepted_in(event.customer_id, event.service_request_id))
    return handled(event, step)


def _accepting(known: Assignment) -> bool:
    """Whether an accept of ours waits for its confirmation: this webhook is it, and belongs to that accept's trace."""
    if known.confirmed:
        return False
    return known.ours or known.intent_call is Call.ACCEPT or known.uncertain_since is not None
