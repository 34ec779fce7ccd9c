"""What a person's wish does to an offer: the same intents, calls and answers as a rule's, and one result. Pure."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from shared.event import Status
from worker.assignment.offers import call_forgotten, intend, looked_after, unconfirmed
from worker.assignment.telling import PERSON
from worker.assignment.time import LOOK_AGAIN, left
from worker.assignment.values import (
    Answer,
    Answered,
    Assignment,
    Call,
    Result,
    Rules,
    Settle,
    State,
    Step,
    Wish,
)

_DONE: Final = {
    Call.ACCEPT: Result("done", "accepted", "VectorCare took the accept"),
    Call.DECLINE: Result("done", "declined", "VectorCare took the decline"),
    Call.PROPOSE: Result("done", "proposed", "VectorCare took the proposal"),
}
_FAILED: Final = {
    Answered.GONE: Result("failed", "not_available", "VectorCare says that the request is not available to us"),
    Answered.NOT_PERMITTED: Result("failed", "not_permitted", "VectorCare does not permit us to do this"),
    Answered.INVALID: Result("failed", "invalid", "VectorCare called it invalid"),
    Answered.UNKNOWN: Result("failed", "unknown", "VectorCare's answer is not known"),
    Answered.THROTTLED: Result("failed", "unreachable", "VectorCare asks us to wait, and goes on asking"),
    Answered.NO_TOKEN: Result("failed", "unreachable", "no access token can be had"),
    Answered.NOT_SENT: Result("failed", "unreachable", "VectorCare can't be reached"),
}
_UNCONFIRMED: Final = Result(
    "failed", "unconfirmed_accept", "the accept was sent and neither its answer nor a webhook came"
)


def wished(
    known: Assignment, wish: Wish, *, paused: Callable[[], bool], rules: Rules, intent_id: str, now: float
) -> Step:
    """A person's command, the first time or again. A result ends it; without one it comes again.

    The customer's limits do not bind a person, who may have been asked because one was reached; a pause does.
    """
    began = known.asked_by == wish.command_id
    if known.intent_call is not None and now < known.intent_deadline:
        wait = min(known.intent_deadline - now, LOOK_AGAIN)
        return Step(known, "call_under_way", settle=Settle(wait, counted=False))
    known = call_forgotten(known)
    if began and (ending := _came_to_an_end(known, wish, rules, now)):
        return ending
    if not began and (refusal := _refusal(known, wish, now)):
        return Step(known, f"refused_{refusal.code}", result=refusal)
    if _is_too_late(wish, now) and not (began and known.uncertain_since is not None):
        return _refused(known, "expired", "its not_after has passed")
    if not (began and wish.call is Call.ACCEPT) and (unknown := _of_an_unknown_accept(known, wish, rules, now)):
        return unknown
    if wish.call is not Call.DECLINE and paused():
        if began and known.uncertain_since is not None:
            # It may have been taken: this command stays to see what became of it.
            return Step(known, "not_repeated", settle=Settle(left(known, rules, now), counted=False))
        return _refused(known, "paused", "accepting is paused; resume first")
    if now < known.not_before:
        return Step(known, "too_soon", settle=Settle(known.not_before - now, counted=False))
    known = replace(known, decided_by=PERSON, actor=wish.actor, asked_by=wish.command_id)
    known = intend(known, wish.call, rules, intent_id, now)
    note = f"{wish.call}_intended"
    return Step(known, note, call=wish.call, notes=wish.notes, propose_at=wish.propose_at)


def wish_answered(step: Step, call: Call, answer: Answer) -> Step:
    """The step of an answer (`worker.assignment.answers`), with the result of the command that made the call."""
    if step.note == "refused_while_ours" or answer.kind is Answered.TAKEN:
        return replace(step, result=_DONE[call])
    if step.settle.after is not None:
        return step
    if step.note == "superseded" and not _is_open(step.known):
        return replace(step, result=_gone(call))
    return replace(step, result=replace(_FAILED[answer.kind], vectorcare_code=answer.code))


def wish_looked_after(known: Assignment, wish: Wish, *, rules: Rules, now: float) -> Step:
    """A command that has its result comes by again, to see whether its accept was confirmed."""
    if wish.call is Call.ACCEPT and known.ours and known.asked_by == wish.command_id:
        return looked_after(known, rules, now)
    return Step(known, "seen_through")


def _came_to_an_end(known: Assignment, wish: Wish, rules: Rules, now: float) -> Step | None:
    """What this command began has ended meanwhile, by a webhook or by silence."""
    if wish.call is not Call.ACCEPT:
        return None if _is_open(known) else Step(known, "gone_meanwhile", result=_gone(wish.call))
    if known.ours:
        return replace(looked_after(known, rules, now), result=_DONE[Call.ACCEPT])
    if not _is_open(known) or (known.state is State.LOST and known.settled == known.newest):
        return Step(known, "gone_meanwhile", result=_gone(wish.call))
    if known.uncertain_since is not None and left(known, rules, now) <= 0:
        if known.settled == known.newest:
            return Step(known, "told_already", result=_UNCONFIRMED)
        return replace(unconfirmed(known, None), result=_UNCONFIRMED)
    return None


def _of_an_unknown_accept(known: Assignment, wish: Wish, rules: Rules, now: float) -> Step | None:
    """Who sent an accept whose effect is not known waits for it. Two persons who took it from each other would never
    end, and a decline would end the wait; in a rule's place a person may accept. Where its time is up, whoever comes
    first tells of it."""
    if known.uncertain_since is None or known.settled == known.newest:
        return None
    again = Settle(LOOK_AGAIN, counted=False)
    if left(known, rules, now) <= 0:
        return replace(unconfirmed(known, None), settle=again)
    if wish.call is Call.ACCEPT and known.decided_by != PERSON:
        return None
    return Step(known, "call_under_way", settle=again)


def _refusal(known: Assignment, wish: Wish, now: float) -> Result | None:
    if known.newest is None:
        return Result("refused", "unknown_request", "no such request is known here")
    if wish.expected_revision is not None and wish.expected_revision != known.revision:
        return Result("refused", "stale_revision", f"the revision is {known.revision} by now")
    if known.ours:
        return Result("refused", "already_ours", "the trip is ours already")
    if not _is_open(known):
        return Result("refused", "not_open", "it is not offered to us")
    return None


def _gone(call: Call) -> Result:
    """The offer went away meanwhile, which is what a decline wants."""
    return _DONE[call] if call is Call.DECLINE else _FAILED[Answered.GONE]


def _is_too_late(wish: Wish, now: float) -> bool:
    return wish.not_after is not None and now > wish.not_after


def _is_open(known: Assignment) -> bool:
    return known.newest_status is Status.AVAILABLE


def _refused(known: Assignment, code: str, sentence: str) -> Step:
    return Step(known, f"refused_{code}", result=Result("refused", code, sentence))
