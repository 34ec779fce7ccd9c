"""What the other webhooks do: ASSIGNED makes a trip ours, UNAVAILABLE and COMPLETED end it. Pure."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from shared.event import Event
from worker.assignment.telling import PERSON, decider, described, differences, heard, overtaken, tell, then
from worker.assignment.values import GONE_STATES, Assignment, Call, Gap, Particulars, Rules, State, Step, order_of

_ENDS: Final = {
    "BROADCAST_CANCELED": "canceled_by_requester",
    "BROADCAST_EXPIRED": "expired",
    "BROADCAST_DECLINED": "declined_by_us",
    "PROPOSAL_DECLINED": "proposal_declined",
}
_CHANGES: Final = {
    "CHANGE_REQUEST_ACCEPTED": "change_accepted",
    "CHANGE_REQUEST_DECLINED": "change_declined",
}
_OUR_GAPS: Final = (Gap.CONFIRMATION, Gap.ANSWER)


def assigned(
    known: Assignment, event: Event, particulars: Particulars, *, wanted: Callable[[Assignment], bool], rules: Rules
) -> Step:
    """An ASSIGNED webhook: the trip is ours. `wanted` says whether the policy would take it as it is now."""
    order = order_of(event)
    if order.is_before(known.newest, rules.order_by):
        return Step(known, "older", closes=(Gap.ASSIGNMENT,))
    if order.is_same(known.newest) and known.confirmed:
        return Step(known, "duplicate")
    before = known
    known = described(heard(overtaken(known), event, order), event, particulars)
    known = replace(known, uncertain_since=None, accepted_at=None, ours=True, confirmed=True, settled=order)
    closes = _open_gaps(before)
    if before.ours and before.confirmed:
        return _changed(before, known, event, wanted)
    accepting = before.intent_call is Call.ACCEPT or before.uncertain_since is not None
    if accepting and not before.ours:
        # The webhook overtook the answer of our call, or is the only answer that there will be.
        step = tell(known, event, State.ACCEPTING, decider(known), "our accept was taken", confirmed=False)
        told = tell(step.known, event, State.ASSIGNED, decider(known), "it is ours", confirmed=True)
        return replace(then(step, told), closes=closes)
    if before.ours:
        return replace(tell(known, event, State.ASSIGNED, decider(known), "it is ours", confirmed=True), closes=closes)
    step = _assigned_by_others(replace(known, other_leg_lost=False), event)
    never_offered = before.newest is None and event.action == "BROADCAST_ACCEPTED"
    return replace(step, opens=(Gap.OFFER,) if never_offered else ())


def ended(known: Assignment, event: Event, *, rules: Rules) -> Step:
    """An UNAVAILABLE webhook: whatever it was, it is over for us."""
    order = order_of(event)
    if order.is_before(known.newest, rules.order_by):
        return Step(known, "older")
    if order.is_same(known.newest):
        return Step(known, "duplicate")
    before = known
    known = heard(overtaken(known), event, order)
    known = replace(known, settled=order, uncertain_since=None, ours=False, confirmed=False, accepted_at=None)
    step = _ended(before, known, event)
    opens = (Gap.OFFER,) if before.newest is None else ()
    return replace(step, opens=opens, closes=_open_gaps(before))


def completed(known: Assignment, event: Event, particulars: Particulars, *, rules: Rules) -> Step:
    """A COMPLETED webhook: the trip is fulfilled."""
    order = order_of(event)
    if order.is_before(known.newest, rules.order_by):
        return Step(known, "older")
    if known.state is State.COMPLETED:
        return Step(known, "duplicate")
    before = known
    known = described(heard(overtaken(known), event, order), event, particulars)
    known = replace(known, settled=order, ours=False, uncertain_since=None, accepted_at=None)
    step = tell(known, event, State.COMPLETED, "other", "VectorCare says that it is completed")
    opens = () if before.ours else (Gap.ASSIGNMENT,)
    return replace(step, opens=opens, closes=_open_gaps(before))


def failed(known: Assignment, event: Event, reason: str) -> Step:
    """Handling an event failed and it was parked: somebody must look."""
    return tell(known, event, State.FAILED, "dead_lettered", f"an event was parked: {reason}", needs_attention=True)


def _ended(before: Assignment, known: Assignment, event: Event) -> Step:
    code = _ENDS.get(event.action, "other")
    if before.ours:
        return tell(known, event, State.RELEASED, code, "it is no longer ours")
    if before.intent_call is Call.DECLINE and code == "declined_by_us":
        step = tell(known, event, State.DECLINING, decider(known), "our decline was taken")
        return then(step, tell(step.known, event, State.CLOSED, code, "it is no longer offered"))
    tried = before.intent_call is Call.ACCEPT or before.uncertain_since is not None
    if tried:
        # Whichever comes first, this webhook or the refusal of our call, the same is told.
        code = "taken_by_other" if code == "other" else code
        return tell(known, event, State.LOST, code, "it went away while we were accepting it")
    if before.state in GONE_STATES | {State.COMPLETED}:
        return Step(known, "ended_already")
    return tell(known, event, State.CLOSED, code, "it is no longer offered")


def _open_gaps(before: Assignment) -> tuple[Gap, ...]:
    """The gaps of ours that this webhook closes, if there may be any."""
    silent = before.ours and not before.confirmed and before.accepted_at is None
    return _OUR_GAPS if silent or before.uncertain_since is not None else ()


def _changed(before: Assignment, known: Assignment, event: Event, wanted: Callable[[Assignment], bool]) -> Step:
    changed = tuple(sorted(differences(before.request, known.request)))
    code = _CHANGES.get(event.action, "data_changed")
    if not changed and code == "data_changed":
        return Step(known, "unchanged")
    return tell(
        known,
        event,
        State.UPDATED,
        code,
        "its data changed" if changed else "VectorCare answered a change request",
        confirmed=True,
        changed=changed,
        needs_attention=bool(changed) and not wanted(known),
    )


def _assigned_by_others(known: Assignment, event: Event) -> Step:
    if event.action == "PROPOSAL_ACCEPTED":
        code, by = "proposal_accepted", "requester"
    elif event.action == "BROADCAST_ACCEPTED":
        code, by = "person", PERSON  # accepted in VectorCare's own interface
    else:
        code, by = "direct_assignment", "requester"
    known = replace(known, decided_by=by, actor=None)
    return tell(known, event, State.ASSIGNED, code, "it was given to us", confirmed=True)
