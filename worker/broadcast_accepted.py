"""A trip that is ours (ASSIGNED): whether we accepted it, a person did, or the requester gave it to us."""

from shared.broker import Delivery
from shared.event import Status
from worker import assignment
from worker.assignment import Assignment, Step
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

    def assigned(known: Assignment, inquiry: Inquiry, now: float) -> Step:
        def wanted(changed: Assignment) -> bool:
            return policy.decide(event, now, inquiry.facts(changed, policy)).verdict is Verdict.ACCEPT

        return assignment.assigned(known, event, about, wanted=wanted, rules=desk.rules)

    return handled(event, await desk.hear(event, assigned))
