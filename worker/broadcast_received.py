"""An offer (AVAILABLE): decide it by the customer's policy, write the intent, call VectorCare, record the answer."""

import functools
import time
import uuid

from shared import metrics, topics
from shared.broker import Delivery
from shared.event import Event, Status
from worker import assignment
from worker.assignment import Assignment, Counsel, Particulars, Step
from worker.calling import Errand, carry_out
from worker.consume import Handled
from worker.customers import Customer
from worker.desk import Desk, handled
from worker.facts import NOTHING_KNOWN, Facts
from worker.inquiry import UNSEEN, Inquiry
from worker.ledger import Offered
from worker.particulars import particulars
from worker.policy import Decision


async def handle(desk: Desk, delivery: Delivery) -> Handled:
    """See the module. A crash between any two steps is mended by the delivery coming again."""
    event = desk.admit(delivery, Status.AVAILABLE)
    if isinstance(event, Handled):
        return event
    customer = desk.customers[event.customer_id]
    about = particulars(customer.policy, event.data)
    intent_id = uuid.uuid4().hex
    began = time.monotonic()
    hearing = _Hearing(customer, event)

    def offered(known: Assignment, inquiry: Inquiry, now: float) -> Step:
        return assignment.offered(
            known,
            event,
            hearing.counsel(about, inquiry, now),
            rules=desk.rules,
            intent_id=intent_id,
            attempts=delivery.attempts,
            now=now,
        )

    received = topics.received_at(delivery.message.headers)
    step = await desk.hear(event, offered, Offered(event, received, customer.mode, lambda: hearing.facts))
    if step.decision is not None:
        rule = step.decision.rule or "default"
        metrics.DECISIONS.labels(customer.customer_id, step.decision.verdict, rule).inc()
    if step.call is None:
        return handled(event, step)
    errand = Errand(
        customer,
        event.service_request_id,
        event,
        intent_id,
        delivery.attempts,
        began,
        hearing.looked_at,
        received,
    )
    _, step = await carry_out(desk, errand, step)
    return handled(event, step)


class _Hearing:
    """One offer before the policy: what was asked of the store, and when it was looked whether the customer is paused.
    A transaction that the database makes again is heard again."""

    def __init__(self, customer: Customer, event: Event) -> None:
        self._customer = customer
        self._event = event
        self.facts: Facts = NOTHING_KNOWN
        self.looked_at = 0.0

    def counsel(self, about: Particulars, inquiry: Inquiry, now: float) -> Counsel:
        return Counsel(
            self._customer.mode,
            about,
            decide=functools.partial(self._decide, inquiry, now),
            limit=functools.partial(limit_reached, self._customer, inquiry),
            paused=functools.partial(self._paused, inquiry),
            other_leg_is_missing=lambda known: inquiry.other_leg(known) == UNSEEN,
            other_leg_seconds=self._customer.policy.other_leg_seconds,
        )

    def _decide(self, inquiry: Inquiry, now: float, known: Assignment) -> Decision:
        self.facts = inquiry.facts(known, self._customer.policy)
        return self._customer.policy.decide(self._event, now, self.facts)

    def _paused(self, inquiry: Inquiry) -> bool:
        self.looked_at = time.monotonic()
        return inquiry.paused()


def limit_reached(customer: Customer, inquiry: Inquiry, known: Assignment) -> str | None:
    """Which of the customer's limits one more accept would pass, as a sentence; None where none."""
    limits = customer.limits
    if limits.max_open is None and limits.max_accepts_per_hour is None:
        return None
    open_now, last_hour = inquiry.open_and_last_hour(known)
    if limits.max_open is not None and open_now >= limits.max_open:
        return f"max_open ({limits.max_open}) is reached"
    if limits.max_accepts_per_hour is not None and last_hour >= limits.max_accepts_per_hour:
        return f"max_accepts_per_hour ({limits.max_accepts_per_hour}) is reached"
    return None
