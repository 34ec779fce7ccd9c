"""Carries an intent out: makes its call of VectorCare's API, unless paused meanwhile, and records the answer."""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Final

from shared import metrics
from shared.errors import Unavailable
from shared.event import Event
from worker import assignment
from worker.assignment import Answer, Answered, Assignment, Call, Step
from worker.calls import answer_offer
from worker.customers import Customer
from worker.desk import Desk
from worker.inquiry import Inquiry
from worker.ledger import Transition

_LOOK_IS_GOOD_FOR: Final = 0.8  # seconds after a look at the pause in which a call may begin; promised is 1
_MOST_LOOKS: Final = 5
_RECORD_AGAIN: Final = 0.5  # seconds between tries to record an answer


@dataclass(frozen=True, slots=True)
class Errand:
    """Who calls for what. `event` is the offer, None for a person's command; `began` and `looked_at` are monotonic
    seconds: when handling began, and when the transaction of the intent found that the customer is not paused;
    `received_at` is Unix seconds, when the ingress had the webhook."""

    customer: Customer
    service_request_id: str
    event: Event | None
    intent_id: str
    attempts: int
    began: float
    looked_at: float
    received_at: float | None = None


async def carry_out(desk: Desk, errand: Errand, step: Step) -> tuple[Answer, Step]:
    """Make the call that `step` intends, and apply its answer."""
    call = step.call
    assert call is not None
    answer = await _call(desk, errand, step, call)
    if answer.kind is not Answered.NOT_SENT and call is Call.ACCEPT and errand.received_at is not None:
        metrics.TIME_TO_ANSWER.observe(max(0.0, time.time() - errand.received_at))

    def answered(known: Assignment, inquiry: Inquiry, now: float) -> Step:
        if answer.kind is Answered.TAKEN:
            inquiry.forget_refusals()
        return assignment.answered(
            known,
            errand.event,
            call,
            answer,
            refusals=inquiry.count_refusal,
            rules=desk.rules,
            intent_id=errand.intent_id,
            attempts=errand.attempts,
            now=now,
        )

    return answer, await _recorded(desk, errand, answered)


async def _recorded(desk: Desk, errand: Errand, answered: Transition) -> Step:
    """An answer that is known must not become one that is not because the store is away for a moment: it is tried again
    while the intent still binds. Applied twice, where a commit's own answer was lost, it changes nothing more."""
    while True:
        try:
            return await desk.step(errand.customer.customer_id, errand.service_request_id, answered)
        except Unavailable:
            if time.monotonic() - errand.began > desk.rules.lease - _RECORD_AGAIN:
                raise
            await asyncio.sleep(_RECORD_AGAIN)


async def _call(desk: Desk, errand: Errand, step: Step, call: Call) -> Answer:
    customer = errand.customer
    # A pause is for accepting, and what a rule does; a person may decline all the same.
    always = call is Call.DECLINE and errand.event is None
    start_by = math.inf if always else await _may_start_until(desk, errand)
    if start_by is None or time.monotonic() - errand.began > desk.rules.lease - desk.call_seconds:
        # It was paused meanwhile; or this process stood still so long that another may hold the intent by then.
        return Answer(Answered.NOT_SENT)
    if call is Call.ACCEPT and errand.received_at is not None:
        metrics.TIME_TO_ACCEPT.observe(max(0.0, time.time() - errand.received_at))
    request = answer_offer(call, step.notes, step.propose_at)
    return await desk.vectorcare.send(customer, errand.service_request_id, request, start_by=start_by)


async def _may_start_until(desk: Desk, errand: Errand) -> float | None:
    """Until when (monotonic) the call may begin; None where the customer is paused."""
    looked_at = errand.looked_at
    for _ in range(_MOST_LOOKS):
        if time.monotonic() - looked_at < _LOOK_IS_GOOD_FOR / 2:
            break
        # The commit took long. What was true then may not be now.
        looked_at = time.monotonic()
        if await desk.ledger.is_paused(errand.customer.customer_id):
            return None
    return looked_at + _LOOK_IS_GOOD_FOR
