"""The rest of a request's life: UNAVAILABLE, COMPLETED, and whatever VectorCare may call OTHER some day."""

from shared.broker import Delivery
from shared.event import Status
from worker import assignment
from worker.assignment import Assignment, State, Step
from worker.consume import Handled
from worker.desk import Desk, handled
from worker.inquiry import Inquiry
from worker.particulars import particulars


async def handle(desk: Desk, delivery: Delivery) -> Handled:
    """See the module. An OTHER is seen and logged, and changes nothing: its meaning is not known."""
    event = desk.admit(delivery, Status.UNAVAILABLE, Status.COMPLETED, Status.OTHER)
    if isinstance(event, Handled):
        return event
    about = particulars(desk.customers[event.customer_id].policy, event.data)

    def lived(known: Assignment, inquiry: Inquiry, _: float) -> Step:
        if event.status is Status.UNAVAILABLE:
            if known.state is State.LOST:
                inquiry.forget_refusals()  # another was faster: that refusal was no lack of permission
            return assignment.ended(known, event, rules=desk.rules)
        if event.status is Status.COMPLETED:
            return assignment.completed(known, event, about, rules=desk.rules)
        return Step(known, "unknown_status")

    return handled(event, await desk.hear(event, lived))
