"""The rest of a request's life: UNAVAILABLE, COMPLETED, and whatever VectorCare may call OTHER some day."""

from collections.abc import Callable

from shared.broker import Delivery
from shared.event import Status
from worker import assignment
from worker.assignment import Assignment, Step
from worker.consume import Handled
from worker.desk import Desk, handled
from worker.ledger import Load


async def handle(desk: Desk, delivery: Delivery) -> Handled:
    """See the module. An OTHER is seen and logged, and changes nothing: its meaning is not known."""
    event = desk.admit(delivery, Status.UNAVAILABLE, Status.COMPLETED, Status.OTHER)
    if isinstance(event, Handled):
        return event

    def lived(known: Assignment, _: Callable[[], Load], __: float) -> Step:
        if event.status is Status.UNAVAILABLE:
            return assignment.ended(known, event, rules=desk.rules)
        if event.status is Status.COMPLETED:
            return assignment.completed(known, event, rules=desk.rules)
        return Step(known, "unknown_status")

    return handled(event, await desk.step(event, lived))
