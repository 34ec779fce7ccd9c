"""What every handler works with: the customers, the ledger, the API, the outbox, and the numbers of the house."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog

from shared import metrics
from shared.broker import Delivery
from shared.event import Event, Status
from worker import assignment
from worker.admission import Refusal, admit
from worker.assignment import GONE_STATES, Assignment, Rules, Settle, Step
from worker.consume import Handled
from worker.customers import Customer
from worker.inquiry import Inquiry
from worker.ledger import Ledger, Offered, Transition
from worker.outbox import Outbox
from worker.vectorcare import VectorCare

_log = structlog.get_logger("worker")
_SET_ASIDE = frozenset({"older", "duplicate", "offered_while_ours", "superseded", "refused_while_ours"})


@dataclass(frozen=True, slots=True)
class Desk:
    """Shared by all handlers of a process."""

    customers: Mapping[str, Customer]
    disabled: Collection[str]
    ledger: Ledger
    outbox: Outbox
    vectorcare: VectorCare
    rules: Rules
    call_seconds: float

    def admit(self, delivery: Delivery, *statuses: Status) -> Event | Handled:
        """The event of a delivery, or how to settle one that may not be acted on."""
        found = admit(delivery.message, self.customers, self.disabled, statuses)
        if isinstance(found, Refusal):
            return Handled(Settle(reason=found.value), found.value, {})
        return found

    async def hear(self, event: Event, transition: Transition, offered: Offered | None = None) -> Step:
        """Apply what an event does to its assignment, and have its outcomes published."""

        def watched(known: Assignment, inquiry: Inquiry, now: float) -> Step:
            if assignment.disagrees(known, event):
                metrics.SET_ASIDE.labels(event.customer_id, "id_and_time_disagree").inc()
                _log.warning("id_and_time_disagree", **ids(event))
            return transition(known, inquiry, now)

        step = await self.step(event.customer_id, event.service_request_id, watched, offered)
        if step.note in _SET_ASIDE:
            metrics.SET_ASIDE.labels(event.customer_id, step.note).inc()
        return step

    async def step(
        self, customer_id: str, service_request_id: str, transition: Transition, offered: Offered | None = None
    ) -> Step:
        """Apply a transition, and have its outcomes published; then see to the round trip's other leg."""
        step = await self.ledger.step(customer_id, service_request_id, transition, offered)
        told = bool(step.outcomes)
        if step.known.other_leg is not None and (step.known.ours or step.known.state in GONE_STATES):
            told |= await self._see_to_legs(step.known)
        if told:
            self.outbox.publish_soon()
        return step

    async def _see_to_legs(self, known: Assignment) -> bool:
        """Whoever has one leg of a round trip is told that the other can't be had. It is looked at whenever either leg
        is handled, also again: a crash in between is mended by the delivery coming again."""
        assert known.other_leg is not None
        ours, other = known.service_request_id, known.other_leg
        if not known.ours:
            ours, other = other, ours
            if not (await self.ledger.look(known.customer_id, ours)).ours:
                return False  # and no row is made for a request of which we have only been told

        def looked(mine: Assignment, inquiry: Inquiry, _: float) -> Step:
            return assignment.other_leg_ended(mine, self.ledger.peek(inquiry.connection, known.customer_id, other))

        return bool((await self.ledger.step(known.customer_id, ours, looked)).outcomes)


def ids(event: Event) -> dict[str, str]:
    """What names an event in a log line."""
    return {
        "customer": event.customer_id,
        "event_id": event.event_id,
        "request": event.service_request_id,
        "action": event.action,
        "status": event.status.value,
    }


def handled(event: Event, step: Step) -> Handled:
    """The end of handling an event."""
    named = {name: value for name, value in ids(event).items() if name != "customer"}
    return Handled(step.settle, step.note, named)
