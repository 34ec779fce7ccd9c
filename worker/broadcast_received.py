"""An offer (AVAILABLE): decide it by the customer's policy, write the intent, call VectorCare, record the answer."""

import time
import uuid
from collections.abc import Callable

from shared import metrics
from shared.broker import Delivery
from shared.event import Event, Status
from worker import assignment
from worker.assignment import Answer, Answered, Assignment, Call, Step
from worker.consume import Handled
from worker.customers import Customer
from worker.desk import Desk, handled, since_received
from worker.ledger import Load
from worker.policy import Decision


async def handle(desk: Desk, delivery: Delivery) -> Handled:
    """See the module. A crash between any two steps is mended by the delivery coming again."""
    event = desk.admit(delivery, Status.AVAILABLE)
    if isinstance(event, Handled):
        return event
    customer = desk.customers[event.customer_id]
    intent_id = uuid.uuid4().hex
    began = time.monotonic()

    def offered(known: Assignment, load: Callable[[], Load], now: float) -> Step:
        return assignment.offered(
            known,
            event,
            lambda: _decide(customer, event, now),
            lambda: limit_reached(customer, load),
            mode=customer.mode,
            rules=desk.rules,
            intent_id=intent_id,
            attempts=delivery.attempts,
            now=now,
        )

    step = await desk.step(event, offered)
    if step.call is None:
        return handled(event, step)
    return await _call(desk, delivery, event, step, intent_id, began)


async def _call(desk: Desk, delivery: Delivery, event: Event, step: Step, intent_id: str, began: float) -> Handled:
    call = step.call
    assert call is not None
    customer = desk.customers[event.customer_id]
    if time.monotonic() - began > desk.rules.lease - desk.call_seconds:
        # This process stood still so long that another may hold the intent by the time the call is made.
        answer = Answer(Answered.NOT_SENT)
    else:
        waited = since_received(delivery)
        if call is Call.ACCEPT and waited is not None:
            metrics.TIME_TO_ACCEPT.observe(waited)
        answer = await desk.vectorcare.call(customer, event.service_request_id, call, step.notes)

    def answered(known: Assignment, _: Callable[[], Load], now: float) -> Step:
        return assignment.answered(
            known,
            event,
            call,
            answer,
            intent_id=intent_id,
            attempts=delivery.attempts,
            rules=desk.rules,
            now=now,
        )

    return handled(event, await desk.step(event, answered))


def _decide(customer: Customer, event: Event, now: float) -> Decision:
    decision = customer.policy.decide(event, now)
    metrics.DECISIONS.labels(customer.customer_id, decision.verdict).inc()
    return decision


def limit_reached(customer: Customer, count: Callable[[], Load]) -> str | None:
    """Which of the customer's limits one more accept would pass, as a sentence; None where none. Counts only if it
    must: it goes through all that is kept of the customer."""
    limits = customer.limits
    if limits.max_open is None and limits.max_accepts_per_hour is None:
        return None
    load = count()
    if limits.max_open is not None and load.open >= limits.max_open:
        return f"max_open ({limits.max_open}) is reached"
    if limits.max_accepts_per_hour is not None and load.last_hour >= limits.max_accepts_per_hour:
        return f"max_accepts_per_hour ({limits.max_accepts_per_hour}) is reached"
    return None
