"""What an answer of VectorCare's API does to an assignment (docs/assignment.md holds the whole table). Pure."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from shared.event import Event, Status
from worker.assignment.offers import unconfirmed
from worker.assignment.telling import decider, tell, without_intent
from worker.assignment.time import MOST_ATTEMPTS, backoff, left
from worker.assignment.values import (
    PERMISSION_DENIED,
    WITHOUT_EFFECT,
    Answer,
    Answered,
    Assignment,
    Call,
    Gap,
    Rules,
    Settle,
    State,
    Step,
    order_of,
)

MOST_REFUSALS: Final = 5  # in a row for lack of permission: that is no lost race any more
_WEBHOOKS_CATCH_UP: Final = 2.0  # seconds


def answered(
    known: Assignment,
    event: Event | None,
    call: Call,
    answer: Answer,
    *,
    refusals: Callable[[], int],
    rules: Rules,
    intent_id: str,
    attempts: int,
    now: float,
) -> Step:
    """The API's answer to the `call` of the intent `intent_id`. `event` is the offer that it was made for, None for a
    person's; `refusals` counts this one among those for lack of permission and says how many there are in a row."""
    mine = known.intent_id == intent_id
    if mine:
        known = without_intent(known)
    if call is Call.ACCEPT and answer.kind is Answered.TAKEN:
        return _taken(known, event, rules, now)
    if known.ours:
        # Two calls overlapped, because a process stood still; the other one was taken.
        return Step(known, "refused_while_ours", settle=Settle(rules.confirm_within, counted=False))
    if not mine and not _was_given_up(known, event):
        return Step(known, "superseded")
    if not mine and known.uncertain_since is not None:
        # Its answer may not be the last one's; whoever made it looks after it, as after an unknown one.
        return Step(known, "given_up_meanwhile", settle=_watch(known, rules, intent_id, attempts, now))
    if answer.kind in WITHOUT_EFFECT:
        unknown = call is Call.ACCEPT and known.uncertain_since is not None
        watched = left(known, rules, now) if unknown else 0.0
        return _not_reached(known, event, answer, watched, intent_id, attempts, now)
    if call is Call.DECLINE:
        return _declined(known, event, answer, intent_id, attempts)
    if call is Call.PROPOSE:
        return _proposed(known, event, answer)
    return _accept_answered(
        known,
        event,
        answer,
        refusals=refusals,
        rules=rules,
        intent_id=intent_id,
        attempts=attempts,
        now=now,
    )


def _was_given_up(known: Assignment, event: Event | None) -> bool:
    """Whether an intent that is gone was given up (`call_forgotten`), because this process stood still for longer than
    it binds, and nobody has another or has told anybody since; else a webhook has told the end of it."""
    of_newest = event is None or order_of(event).is_same(known.newest)
    return known.intent_call is None and known.settled != known.newest and of_newest


def _accept_answered(
    known: Assignment,
    event: Event | None,
    answer: Answer,
    *,
    refusals: Callable[[], int],
    rules: Rules,
    intent_id: str,
    attempts: int,
    now: float,
) -> Step:
    """Unknown or refused: a refusal is a lost race only where nothing uncertain came before it."""
    unknown = answer.kind is Answered.UNKNOWN
    if unknown or known.uncertain_since is not None:
        # Perhaps it is we who have it: a refusal after an accept that may have been taken proves nothing.
        known = replace(known, uncertain_since=known.uncertain_since or now)
        if left(known, rules, now) <= 0:
            return unconfirmed(known, event)
        note = "accept_unknown" if unknown else "refused_while_unknown"
        return Step(known, note, settle=_watch(known, rules, intent_id, attempts, now))
    if answer.kind is Answered.GONE and answer.code == PERMISSION_DENIED and refusals() >= MOST_REFUSALS:
        return _not_permitted(known, event, attempts)
    known = replace(known, settled=known.newest)
    if answer.kind is Answered.GONE:
        return tell(known, event, State.LOST, "taken_by_other", "VectorCare refused our accept")
    if answer.kind is Answered.NOT_PERMITTED:
        return tell(known, event, State.HELD, "not_permitted", "VectorCare does not permit us to accept")
    return tell(known, event, State.HELD, "other", "VectorCare called our accept invalid")


def _watch(known: Assignment, rules: Rules, intent_id: str, attempts: int, now: float) -> Settle:
    """Until the next try, or until somebody must be told that what became of the accept is not known."""
    return Settle(max(1.0, min(backoff(attempts, intent_id), left(known, rules, now))))


def _not_permitted(known: Assignment, event: Event | None, attempts: int) -> Step:
    """Refused like those before it, and no webhook has said of any that another was faster. In a burst of races those
    webhooks may be on their way, so it is tried once more before a person is told."""
    if attempts == 0:
        known = replace(known, last_accept_at=known.accept_before)
        return Step(known, "refused_again_and_again", settle=Settle(_WEBHOOKS_CATCH_UP))
    reason = f"VectorCare has refused {MOST_REFUSALS} accepts in a row for lack of permission"
    known = replace(known, settled=known.newest)
    return tell(known, event, State.HELD, "not_permitted", reason, needs_attention=True)


def _taken(known: Assignment, event: Event | None, rules: Rules, now: float) -> Step:
    if known.confirmed or known.newest_status is Status.COMPLETED:
        return Step(known, "confirmed_already")
    if known.newest_status is Status.UNAVAILABLE:
        reason = "VectorCare took our accept after it had said that the request is gone"
        return tell(known, event, State.RELEASED, "other", reason, needs_attention=True)
    if known.ours:
        return Step(known, "taken_already", settle=Settle(rules.confirm_within, counted=False))
    closes = _answer_gap(known)
    accepted = event.event_id if event else known.newest.event_id if known.newest else None
    known = replace(
        known,
        ours=True,
        accepted_at=now,
        accepted_event_id=accepted,
        uncertain_since=None,
        settled=known.newest,
        other_leg_lost=False,
    )
    step = tell(known, event, State.ACCEPTING, decider(known), "our accept was taken", confirmed=False)
    return replace(step, settle=Settle(rules.confirm_within, counted=False), closes=closes)


def _declined(known: Assignment, event: Event | None, answer: Answer, intent_id: str, attempts: int) -> Step:
    if answer.kind is Answered.UNKNOWN and attempts < MOST_ATTEMPTS:
        return Step(known, "decline_unknown", settle=Settle(backoff(attempts, intent_id)))
    known = replace(known, settled=known.newest)
    if answer.kind is Answered.TAKEN:
        step = tell(_still_open(known), event, State.DECLINING, decider(known), "our decline was taken")
        return replace(step, closes=_answer_gap(known))
    if answer.kind is Answered.GONE:
        return Step(known, "decline_refused")  # it is gone anyway; its webhook says how
    code = "not_permitted" if answer.kind is Answered.NOT_PERMITTED else "other"
    return tell(known, event, State.HELD, code, "VectorCare did not take our decline")


def _still_open(known: Assignment) -> Assignment:
    """VectorCare took what it takes of an open offer only: no accept of ours was taken before."""
    return replace(known, uncertain_since=None)


def _answer_gap(known: Assignment) -> tuple[Gap, ...]:
    return () if known.uncertain_since is None else (Gap.ANSWER,)


def _proposed(known: Assignment, event: Event | None, answer: Answer) -> Step:
    known = replace(known, settled=known.newest)
    if answer.kind is Answered.TAKEN:
        known = replace(known, proposals=known.proposals + 1)
        step = tell(_still_open(known), event, State.PROPOSING, decider(known), "our proposal was taken")
        return replace(step, closes=_answer_gap(known))
    if answer.kind is Answered.UNKNOWN:
        # Never repeated: two proposals by a rule for one request would be one too many.
        known = replace(known, proposals=known.proposals + 1)
        reason = "a time was proposed and VectorCare's answer is not known"
        return tell(known, event, State.HELD, "other", reason, needs_attention=True)
    if answer.kind is Answered.GONE:
        return Step(known, "proposal_refused")  # it is gone; its webhook says how
    code = "not_permitted" if answer.kind is Answered.NOT_PERMITTED else "other"
    return tell(known, event, State.HELD, code, "VectorCare did not take our proposal")


def _not_reached(
    known: Assignment, event: Event | None, answer: Answer, watched: float, intent_id: str, attempts: int, now: float
) -> Step:
    """The call had no effect. It is made again, unless that has been tried for long. For `watched` seconds yet a
    webhook may tell of an earlier one whose effect is not known."""
    wait = max(answer.retry_after, backoff(attempts, intent_id))
    known = replace(known, not_before=now + wait, last_accept_at=known.accept_before)
    if watched > 0:
        return Step(known, answer.kind.value, settle=Settle(max(1.0, min(wait, watched))))
    if attempts < MOST_ATTEMPTS:
        return Step(known, answer.kind.value, settle=Settle(wait))
    known = replace(known, settled=known.newest)
    return tell(known, event, State.HELD, "other", f"VectorCare can't be reached: {answer.kind}")
