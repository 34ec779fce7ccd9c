"""A trip that is ours (ASSIGNED): whether we accepted it, a person did, or the requester gave it to us."""

from collections.abc import Callable

from shared.broker import Delivery
from shared.event import Status
from worker import assignment
from worker.assignment import Assignment, Step
from worker.consume import Handled
from worker.desk import Desk, handled
from worker.ledger import Load
from worker.policy import Verdict


async def handle(desk: Desk, delivery: Delivery) -> Handled:
    """See the module."""
    event = desk.admit(delivery, Status.ASSIGNED)
    if isinstance(event, Handled):
        return event
    customer = desk.customers[event.customer_id]

    def assigned(known: Assignment, _: Callable[[], Load], now: float) -> Step:
        def wanted() -> bool:
            return customer.policy.decide(event, now).verdict is Verdict.ACCEPT

        return assignment.assigned(known, event, wanted=wanted, rules=desk.rules)

    return handled(event, await desk.step(event, assigned))
