"""What every handler works with: the customers, the ledger, the API, the outbox, and the numbers of the house."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from shared import metrics
from shared.broker import Delivery
from shared.event import Event, Status
from worker import assignment
from worker.admission import Refusal, admit
from worker.assignment import Assignment, Rules, Settle, Step
from worker.consume import Handled
from worker.customers import Customer
from worker.ledger import Ledger, Load, Transition
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

    async def step(self, event: Event, transition: Transition) -> Step:
        """Apply a transition to the event's assignment, and have its outcomes published."""

        def watched(known: Assignment, load: Callable[[], Load], now: float) -> Step:
            if assignment.disagrees(known, event):
                metrics.SET_ASIDE.labels(event.customer_id, "id_and_time_disagree").inc()
                _log.warning("id_and_time_disagree", **ids(event))
            return transition(known, load, now)

        step = await self.ledger.step(event.customer_id, event.service_request_id, watched)
        if step.note in _SET_ASIDE:
            metrics.SET_ASIDE.labels(event.customer_id, step.note).inc()
        if step.outcomes:
            self.outbox.publish_soon()
        return step


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


def since_received(delivery: Delivery) -> float | None:
    """Seconds since the ingress received this webhook; None where the header does not say."""
    try:
        received = datetime.fromisoformat(delivery.message.headers["ce-receivedtime"])
    except (KeyError, ValueError):
        return None
    return max(0.0, time.time() - received.timestamp())
