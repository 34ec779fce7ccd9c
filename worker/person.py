"""A person's decision about an offer, from a command: the same intents, calls and guarantees as a rule's."""

import time
import uuid

from shared.broker import Delivery
from worker import assignment
from worker.assignment import Assignment, Step, Wish
from worker.calling import Errand, carry_out
from worker.customers import Customer
from worker.desk import Desk
from worker.inquiry import Inquiry


async def decide(desk: Desk, delivery: Delivery, customer: Customer, service_request_id: str, wish: Wish) -> Step:
    """Do what the wish says. The step's `result` ends the command; without one the delivery comes again by its
    `settle`. A result and a `settle` with a delay: the command is answered, and its accept is looked after
    (`look_after`) until VectorCare's webhook has confirmed it."""
    intent_id = uuid.uuid4().hex
    began = looked_at = time.monotonic()

    def wished(known: Assignment, inquiry: Inquiry, now: float) -> Step:
        def paused() -> bool:
            nonlocal looked_at
            looked_at = time.monotonic()
            return inquiry.paused()

        return assignment.wished(known, wish, paused=paused, rules=desk.rules, intent_id=intent_id, now=now)

    step = await desk.step(customer.customer_id, service_request_id, wished)
    if step.call is None:
        return step
    errand = Errand(customer, service_request_id, None, intent_id, delivery.attempts, began, looked_at)
    answer, answered = await carry_out(desk, errand, step)
    return assignment.wish_answered(answered, wish.call, answer)


async def look_after(desk: Desk, customer: Customer, service_request_id: str, wish: Wish) -> Step:
    """A command that has its result comes by again: somebody is told where no webhook has confirmed its accept."""

    def looked(known: Assignment, _: Inquiry, now: float) -> Step:
        return assignment.wish_looked_after(known, wish, rules=desk.rules, now=now)

    return await desk.step(customer.customer_id, service_request_id, looked)
