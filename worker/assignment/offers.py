"""What an AVAILABLE webhook does: an offer is decided, waited for, set aside, or looked after. Pure."""

from dataclasses import replace

from shared.event import Event
from worker.assignment.telling import decider, described, heard, tell, without_intent
from worker.assignment.time import BACKOFF, LOOK_AGAIN, backoff, is_over, left
from worker.assignment.values import (
    Assignment,
    Call,
    Counsel,
    Gap,
    Mode,
    Rules,
    Settle,
    State,
    Step,
    order_of,
)
from worker.policy import Decision, Verdict

_CALLS = {Verdict.ACCEPT: Call.ACCEPT, Verdict.DECLINE: Call.DECLINE, Verdict.PROPOSE: Call.PROPOSE}
_OTHER_LEG_AGAIN = 1.0  # seconds


def offered(
    known: Assignment,
    event: Event,
    counsel: Counsel,
    *,
    rules: Rules,
    intent_id: str,
    attempts: int,
    now: float,
) -> Step:
    """An AVAILABLE webhook, the first time or again. `intent_id` is fresh, `attempts` the delivery's own."""
    order = order_of(event)
    if known.ours and event.event_id == known.accepted_event_id:
        return looked_after(known, rules, now)
    if order.is_before(known.newest, rules.order_by):
        note = "seen_through" if event.event_id == known.accepted_event_id else "older"
        return Step(known, note, closes=(Gap.OFFER,))
    if known.intent_call is not None and now < known.intent_deadline:
        wait = min(known.intent_deadline - now, LOOK_AGAIN)
        return Step(known, "call_under_way", settle=Settle(wait, counted=False))
    known = call_forgotten(known)
    if known.ours:
        return _while_ours(known, event, attempts, intent_id)
    if order.is_same(known.settled):
        return _settled(known, event, counsel, rules=rules, intent_id=intent_id, now=now)
    unknown = known.uncertain_since is not None and known.settled != known.newest
    if unknown and left(known, rules, now) <= 0:
        if order.is_same(known.newest):
            return unconfirmed(known, event)
        unknown = False  # offered anew long after our accept: it was not taken
    if now < known.not_before:
        # Another delivery must not call before VectorCare said that it may; a newer offer counts from now on.
        known = _taken_in(known, event, counsel, now)
        wait = min(known.not_before - now, left(known, rules, now))
        return Step(known, "too_soon", settle=Settle(wait, counted=False))
    known = _taken_in(known, event, counsel, now)
    if unknown:
        return _again(known, event, counsel, rules=rules, intent_id=intent_id, now=now)
    closes = () if known.uncertain_since is None else (Gap.ANSWER,)  # offered anew: that is an answer
    known = replace(known, uncertain_since=None)
    if is_over(known, now):
        step = _too_old(known, event)
    elif _awaits_other_leg(known, counsel, now):
        step = Step(known, "awaiting_other_leg", settle=Settle(_OTHER_LEG_AGAIN, counted=False))
    else:
        step = _decided(known, event, counsel, rules=rules, intent_id=intent_id, now=now)
    return replace(step, closes=closes)


def looked_after(known: Assignment, rules: Rules, now: float) -> Step:
    """Whatever took our trip comes by again, to see whether it was confirmed."""
    if known.accepted_at is None or known.confirmed:
        return Step(known, "seen_through")
    wait = known.accepted_at + rules.confirm_within - now
    if wait > 0:
        return Step(known, "awaiting_confirmation", settle=Settle(wait, counted=False))
    reason = "VectorCare took our accept, but its webhook has not come"
    known = replace(known, accepted_at=None)
    step = tell(known, None, State.ASSIGNED, decider(known), reason, confirmed=False, needs_attention=True)
    return replace(step, opens=(Gap.CONFIRMATION,))


def unconfirmed(known: Assignment, event: Event | None) -> Step:
    """An accept was sent, and nothing has told what became of it for as long as anything could."""
    known = replace(known, settled=known.newest)
    reason = "an accept was sent and neither its answer nor a webhook came"
    step = tell(known, event, State.HELD, "unconfirmed_accept", reason, needs_attention=True)
    return replace(step, opens=(Gap.ANSWER,))


def call_forgotten(known: Assignment) -> Assignment:
    """The process that was making a call is gone: an accept may have been taken, a proposal counts as made, a decline
    does no harm twice."""
    if known.intent_call is None:
        return known
    since = known.uncertain_since
    if known.intent_call is Call.ACCEPT and since is None:
        since = known.intent_deadline
    proposals = known.proposals + (known.intent_call is Call.PROPOSE)
    return replace(without_intent(known), uncertain_since=since, proposals=proposals)


def intend(known: Assignment, call: Call, rules: Rules, intent_id: str, now: float) -> Assignment:
    """The intent, which is the lease on making the call."""
    known = replace(
        without_intent(known),
        intent_id=intent_id,
        intent_call=call,
        intent_deadline=now + rules.lease,
        accept_before=known.last_accept_at,
        settled=None,
    )
    return replace(known, last_accept_at=now) if call is Call.ACCEPT else known


def _taken_in(known: Assignment, event: Event, counsel: Counsel, now: float) -> Assignment:
    """This offer is the one that counts now."""
    order = order_of(event)
    if order.is_same(known.newest):
        return known
    known = described(heard(known, event, order), event, counsel.particulars)
    first = known.first_offered_at if known.first_offered_at is not None else now
    return replace(known, first_offered_at=first, times_seen=known.times_seen + 1, hold_until=None)


def _settled(known: Assignment, event: Event, counsel: Counsel, *, rules: Rules, intent_id: str, now: float) -> Step:
    """The same offer again. Its handling has ended, unless it is held for a person until some time."""
    if known.state is not State.HELD or known.hold_until is None:
        return Step(known, "duplicate")
    if now < known.hold_until:
        return Step(known, "held_until", settle=Settle(known.hold_until - now, counted=False))
    known = replace(known, hold_until=None)
    if is_over(known, now):
        return Step(known, "held_too_long")
    return _decided(known, event, counsel, rules=rules, intent_id=intent_id, now=now, nobody_answered=True)


def _too_old(known: Assignment, event: Event) -> Step:
    known = replace(known, settled=known.newest, decided_by=None, actor=None)
    return tell(known, event, State.HELD, "offer_too_old", "its pickup's time has passed")


def _awaits_other_leg(known: Assignment, counsel: Counsel, now: float) -> bool:
    if known.other_leg is None or known.first_offered_at is None or counsel.mode is not Mode.AUTOMATIC:
        return False
    return now < known.first_offered_at + counsel.other_leg_seconds and counsel.other_leg_is_missing(known)


def _decided(
    known: Assignment,
    event: Event,
    counsel: Counsel,
    *,
    rules: Rules,
    intent_id: str,
    now: float,
    nobody_answered: bool = False,
) -> Step:
    decision = counsel.decide(known)
    known = replace(known, decided_by=decision.rule, actor=None, tags=decision.tags, settled=known.newest)
    step = _done(known, event, decision, counsel, rules=rules, intent_id=intent_id, now=now, again=nobody_answered)
    return replace(step, decision=decision)


def _done(
    known: Assignment,
    event: Event,
    decision: Decision,
    counsel: Counsel,
    *,
    rules: Rules,
    intent_id: str,
    now: float,
    again: bool,
) -> Step:
    verdict = decision.verdict
    if again and verdict is Verdict.HOLD:
        if decision.then_after is None:
            return Step(known, "held_on")
        verdict = decision.then_after
    if counsel.mode is not Mode.AUTOMATIC:
        return _hold(known, event, decision, suggested=verdict.value)
    if verdict is Verdict.HOLD:
        return _hold(known, event, decision, until=now + decision.answer_within if decision.answer_within else None)
    if verdict is Verdict.IGNORE:
        return Step(known, "ignored")
    if counsel.paused():
        return tell(known, event, State.HELD, "paused", "accepting is paused")
    if verdict is Verdict.PROPOSE and known.proposals:
        return tell(known, event, State.HELD, "rule", "a time was proposed already")
    if verdict is Verdict.ACCEPT and (reached := counsel.limit(known)):
        return tell(known, event, State.HELD, "limit", reached)
    call = _CALLS[verdict]
    intended = intend(known, call, rules, intent_id, now)
    notes, propose_at = decision.notes, decision.propose_at
    return Step(intended, f"{call}_intended", call=call, notes=notes, propose_at=propose_at)


def _hold(
    known: Assignment, event: Event, decision: Decision, *, suggested: str | None = None, until: float | None = None
) -> Step:
    code = decision.reason_code.value
    if suggested is not None and suggested != Verdict.HOLD:
        code = "suggested"
    step = tell(replace(known, hold_until=until), event, State.HELD, code, decision.reason, suggested=suggested)
    if until is None:
        return step
    return replace(step, settle=Settle(decision.answer_within, counted=False))


def _while_ours(known: Assignment, event: Event, attempts: int, intent_id: str) -> Step:
    """Another offer of what is ours."""
    if order_of(event).is_same(known.settled):
        return Step(known, "duplicate")
    if attempts < len(BACKOFF):
        # The webhook that takes it from us may be on its way still; what is ours is never decided.
        return Step(known, "offered_while_ours", settle=Settle(backoff(attempts, intent_id)))
    known = replace(known, settled=order_of(event))
    reason = "VectorCare offers it again although it is ours"
    return tell(known, event, State.UPDATED, "other", reason, confirmed=known.confirmed, needs_attention=True)


def _again(known: Assignment, event: Event, counsel: Counsel, *, rules: Rules, intent_id: str, now: float) -> Step:
    """An accept may have been taken: repeat it while policy and limits want the trip and a webhook may yet come."""
    wanted = counsel.mode is Mode.AUTOMATIC and not is_over(known, now) and not counsel.paused()
    if wanted and counsel.decide(known).verdict is Verdict.ACCEPT and counsel.limit(known) is None:
        return Step(intend(known, Call.ACCEPT, rules, intent_id, now), "accept_intended", call=Call.ACCEPT)
    return Step(known, "not_repeated", settle=Settle(left(known, rules, now), counted=False))
