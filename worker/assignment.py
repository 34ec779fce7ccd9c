"""The state machine of an assignment: what we know, what just happened, now → what we know, and what to do.

Pure. Nothing here reads a clock, a socket or a table; `worker.ledger` keeps what it returns and the handlers carry it
out. docs/flow.md draws it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from shared.event import Event, Status
from worker.policy import Decision, Verdict

OrderBy = Literal["event_id", "event_timestamp"]


class Order(NamedTuple):
    """What places an event among those of its request; kept whole, so that `order_by` may change any day.

    `sent_at` is Unix seconds in a form that sorts as text; `rank` is 0 for an offer, which loses a tie, else 1.
    """

    event_id: str
    sent_at: str
    rank: int

    def is_before(self, other: "Order | None", order_by: OrderBy) -> bool:
        """Whether `other` is newer. The same event is not, whatever a retry has restamped it with."""
        if other is None or (self.event_id, self.rank) == (other.event_id, other.rank):
            return False
        if order_by == "event_id":
            return (self.event_id, self.rank) < (other.event_id, other.rank)
        return (self.sent_at, self.rank, self.event_id) < (other.sent_at, other.rank, other.event_id)

    def is_same(self, other: "Order | None") -> bool:
        """Whether it is the same event."""
        return other is not None and (self.event_id, self.rank) == (other.event_id, other.rank)


class State(StrEnum):
    """The published states (docs/events.md)."""

    HELD = "held"
    ACCEPTING = "accepting"
    DECLINING = "declining"
    PROPOSING = "proposing"
    LOST = "lost"
    ASSIGNED = "assigned"
    UPDATED = "updated"
    RELEASED = "released"
    CLOSED = "closed"
    COMPLETED = "completed"
    FAILED = "failed"


class Mode(StrEnum):
    """How far a customer lets the policy go."""

    OBSERVE = "observe"
    SUGGEST = "suggest"
    AUTOMATIC = "automatic"


class Call(StrEnum):
    """A call of VectorCare's API that decides an offer."""

    ACCEPT = "accept"
    DECLINE = "decline"


class Answered(StrEnum):
    """What is known after a call. Only TAKEN is a yes; after UNKNOWN the call may have taken effect or not."""

    TAKEN = "taken"
    GONE = "gone"  # 403 and 404: not available to us
    NOT_PERMITTED = "not_permitted"  # 403 with a public_api: code
    INVALID = "invalid"  # 400
    THROTTLED = "throttled"  # 429
    NO_TOKEN = "no_token"  # noqa: S105 - no token to be had, or refused again after renewal
    NOT_SENT = "not_sent"  # the connection could not be made
    UNKNOWN = "unknown"  # sent, and no answer, or one that says nothing


@dataclass(frozen=True, slots=True)
class Answer:
    """A call's answer. `retry_after` is seconds; `code` is VectorCare's own, fit for logs."""

    kind: Answered
    status: int | None = None
    code: str | None = None
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """What we know of one service request for one customer.

    `newest` orders events; `settled` is the offer whose handling has ended. An intent is written before its call and is
    the lease on making it; none is made before `not_before`. `uncertain_since` is set while an accept's effect is not
    known. `ours` is whether the trip is ours as far as we know, `confirmed` whether VectorCare's webhook has said so;
    `accepted_event_id` is the offer whose accept was taken; `last_accept_at` counts against the limits, and falls back
    to `accept_before` where the call never reached VectorCare.
    """

    customer_id: str
    service_request_id: str
    state: State | None = None
    revision: int = 0
    newest: Order | None = None
    newest_status: Status | None = None
    settled: Order | None = None
    ours: bool = False
    confirmed: bool = False
    intent_id: str | None = None
    intent_call: Call | None = None
    intent_deadline: float = 0.0
    not_before: float = 0.0
    uncertain_since: float | None = None
    accepted_at: float | None = None
    accepted_event_id: str | None = None
    last_accept_at: float | None = None
    accept_before: float | None = None
    decided_by: str | None = None
    request: dict[str, Any] | None = field(default=None, repr=False)
    request_event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One published transition. `reason` is a sentence without values; `changed` are paths of fields."""

    state: State
    previous_state: State | None
    revision: int
    reason_code: str
    reason: str
    confirmed: bool | None = None
    changed: tuple[str, ...] = ()
    needs_attention: bool = False
    decided_by: str | None = None
    actor: str | None = None
    suggested: str | None = None
    event_id: str | None = None
    action: str | None = None
    request_event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Settle:
    """What becomes of the delivery: done, handed back for `after` seconds, or parked for `reason`."""

    after: float | None = None
    counted: bool = True
    reason: str | None = None


ACK: Final = Settle()


@dataclass(frozen=True, slots=True)
class Step:
    """What follows: the new knowledge, what to publish, whether to make the intent's call, and how to settle."""

    known: Assignment
    note: str
    outcomes: tuple[Outcome, ...] = ()
    settle: Settle = ACK
    notes: str | None = None
    call: Call | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the house, in seconds: how long an intent binds, and how long a confirmation may take."""

    lease: float
    confirm_within: float
    order_by: OrderBy = "event_id"


_BACKOFF: Final = (1.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_MOST_ATTEMPTS: Final = 12  # of a call that never reached VectorCare; then a person is told
_LOOK_AGAIN: Final = 2.0  # how soon a delivery asks after a call that another one is making
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


def order_of(event: Event) -> Order:
    """Where an event stands among those of its request."""
    return Order(event.event_id, f"{event.sent_at.timestamp():020.6f}", 0 if event.status is Status.AVAILABLE else 1)


def disagrees(known: Assignment, event: Event) -> bool:
    """Whether id and timestamp tell different stories about which of two events is newer."""
    mine, newest = order_of(event), known.newest
    if newest is None or mine.event_id == newest.event_id or mine.sent_at == newest.sent_at:
        return False
    return (mine.event_id > newest.event_id) != (mine.sent_at > newest.sent_at)


def offered(
    known: Assignment,
    event: Event,
    decide: Callable[[], Decision],
    limit: Callable[[], str | None],
    *,
    mode: Mode,
    rules: Rules,
    intent_id: str,
    attempts: int,
    now: float,
) -> Step:
    """An AVAILABLE webhook. `decide` and `limit` are asked only if there is something to decide."""
    order = order_of(event)
    if known.ours and event.event_id == known.accepted_event_id:
        return _looked_after(known, rules, now)
    if order.is_before(known.newest, rules.order_by):
        return Step(known, "seen_through" if event.event_id == known.accepted_event_id else "older")
    if known.intent_call is not None and now < known.intent_deadline:
        wait = min(known.intent_deadline - now, _LOOK_AGAIN)
        return Step(known, "call_under_way", settle=Settle(wait, counted=False))
    if known.intent_call is not None:
        known = _call_forgotten(known)
    if known.ours:
        return _while_ours(known, event, attempts)
    if order.is_same(known.settled):
        return Step(known, "duplicate")
    unknown = known.uncertain_since is not None and known.settled != known.newest
    if unknown and _left(known, rules, now) <= 0:
        if order.is_same(known.newest):
            return _unconfirmed(known, event)
        unknown = False  # offered anew long after our accept: it was not taken
    if now < known.not_before:
        # Another delivery must not call before VectorCare said that it may; a newer offer counts from now on.
        if not order.is_same(known.newest):
            known = replace(_heard(known, event, order), request=event.data, request_event_id=event.event_id)
        wait = min(known.not_before - now, _left(known, rules, now))
        return Step(known, "too_soon", settle=Settle(wait, counted=False))
    if unknown:
        return _again(known, event, decide, mode=mode, rules=rules, intent_id=intent_id, now=now)
    decision = decide()
    known = replace(_heard(known, event, order), request=event.data, request_event_id=event.event_id)
    known = replace(known, decided_by=decision.rule, uncertain_since=None)
    return _decided(known, event, decision, limit, mode=mode, rules=rules, intent_id=intent_id, now=now)


def answered(
    known: Assignment,
    event: Event,
    call: Call,
    answer: Answer,
    *,
    intent_id: str,
    attempts: int,
    rules: Rules,
    now: float,
) -> Step:
    """The API's answer to the `call` of the intent `intent_id`, made for the offer in `event`."""
    mine = known.intent_id == intent_id
    if mine:
        known = replace(known, intent_id=None, intent_call=None, intent_deadline=0.0)
    if call is Call.ACCEPT and answer.kind is Answered.TAKEN:
        return _taken(known, event, rules, now)
    if known.ours:
        # Two calls overlapped, because a process stood still; the other one was taken.
        return Step(known, "refused_while_ours", settle=Settle(rules.confirm_within, counted=False))
    if not mine:
        return Step(known, "superseded")  # a webhook has told the end of it already
    if answer.kind in {Answered.NO_TOKEN, Answered.NOT_SENT, Answered.THROTTLED}:
        return _not_reached(known, event, answer, attempts, rules, now)
    if call is Call.DECLINE:
        return _declined(known, event, answer, attempts)
    if answer.kind is Answered.UNKNOWN:
        since = now if known.uncertain_since is None else known.uncertain_since
        known = replace(known, uncertain_since=since)
        return Step(known, "accept_unknown", settle=Settle(_backoff(attempts)))
    if known.uncertain_since is not None:
        # Perhaps it is we who have it: a refusal after an accept that may have been taken proves nothing.
        wait = min(_backoff(attempts), _left(known, rules, now))
        return Step(known, "refused_while_unknown", settle=Settle(max(1.0, wait)))
    known = replace(known, settled=known.newest)
    if answer.kind is Answered.GONE:
        return _tell(known, event, State.LOST, "taken_by_other", "VectorCare refused our accept")
    if answer.kind is Answered.NOT_PERMITTED:
        return _tell(known, event, State.HELD, "not_permitted", "VectorCare does not permit us to accept")
    return _tell(known, event, State.HELD, "other", "VectorCare called our accept invalid")


def assigned(known: Assignment, event: Event, *, wanted: Callable[[], bool], rules: Rules) -> Step:
    """An ASSIGNED webhook: the trip is ours. `wanted` says whether the policy would take it as it is now."""
    order = order_of(event)
    if order.is_before(known.newest, rules.order_by):
        return Step(known, "older")
    if order.is_same(known.newest) and known.confirmed:
        return Step(known, "duplicate")
    before = known
    known = replace(
        _heard(known, event, order),
        intent_id=None,
        intent_call=None,
        intent_deadline=0.0,
        uncertain_since=None,
        accepted_at=None,
        ours=True,
        confirmed=True,
        settled=order,
        request=before.request if event.data is None else event.data,
        request_event_id=before.request_event_id if event.data is None else event.event_id,
    )
    if before.ours and before.confirmed:
        return _changed(before, known, event, wanted)
    accepting = before.intent_call is Call.ACCEPT or before.uncertain_since is not None
    if accepting and not before.ours:
        # The webhook overtook the answer of our call, or is the only answer that there will be.
        step = _tell(known, event, State.ACCEPTING, "rule", "our accept was taken", confirmed=False)
        return _then(step, _tell(step.known, event, State.ASSIGNED, "rule", "it is ours", confirmed=True))
    if before.ours:
        return _tell(known, event, State.ASSIGNED, "rule", "it is ours", confirmed=True)
    return _assigned_by_others(known, event)


def ended(known: Assignment, event: Event, *, rules: Rules) -> Step:
    """An UNAVAILABLE webhook: whatever it was, it is over for us."""
    order = order_of(event)
    if order.is_before(known.newest, rules.order_by):
        return Step(known, "older")
    if order.is_same(known.newest):
        return Step(known, "duplicate")
    before = known
    known = replace(_heard(known, event, order), settled=order)
    known = replace(known, intent_id=None, intent_call=None, intent_deadline=0.0, uncertain_since=None)
    known = replace(known, ours=False, confirmed=False, accepted_at=None)
    code = _ENDS.get(event.action, "other")
    if before.ours:
        return _tell(known, event, State.RELEASED, code, "it is no longer ours")
    if before.intent_call is Call.DECLINE and code == "declined_by_us":
        step = _tell(known, event, State.DECLINING, "rule", "our decline was taken")
        return _then(step, _tell(step.known, event, State.CLOSED, code, "it is no longer offered"))
    tried = before.intent_call is Call.ACCEPT or before.uncertain_since is not None
    if tried:
        # Whichever comes first, this webhook or the refusal of our call, the same is told.
        code = "taken_by_other" if code == "other" else code
        return _tell(known, event, State.LOST, code, "it went away while we were accepting it")
    if before.state in {State.LOST, State.CLOSED, State.RELEASED, State.COMPLETED}:
        return Step(known, "ended_already")
    return _tell(known, event, State.CLOSED, code, "it is no longer offered")


def completed(known: Assignment, event: Event, *, rules: Rules) -> Step:
    """A COMPLETED webhook: the trip is fulfilled."""
    order = order_of(event)
    if order.is_before(known.newest, rules.order_by):
        return Step(known, "older")
    if known.state is State.COMPLETED:
        return Step(known, "duplicate")
    known = replace(_heard(known, event, order), settled=order, ours=False)
    known = replace(known, intent_id=None, intent_call=None, intent_deadline=0.0, uncertain_since=None)
    if event.data is not None:
        known = replace(known, request=event.data, request_event_id=event.event_id)
    return _tell(known, event, State.COMPLETED, "other", "VectorCare says that it is completed")


def failed(known: Assignment, event: Event, reason: str) -> Step:
    """Handling an event failed and it was parked: somebody must look."""
    return _tell(known, event, State.FAILED, "dead_lettered", f"an event was parked: {reason}", needs_attention=True)


def _decided(
    known: Assignment,
    event: Event,
    decision: Decision,
    limit: Callable[[], str | None],
    *,
    mode: Mode,
    rules: Rules,
    intent_id: str,
    now: float,
) -> Step:
    if mode is not Mode.AUTOMATIC:
        return _hold(known, event, decision, suggested=decision.verdict.value)
    if decision.verdict is Verdict.HOLD:
        return _hold(known, event, decision)
    if decision.verdict is Verdict.ACCEPT and (reached := limit()):
        return _tell(replace(known, settled=known.newest), event, State.HELD, "limit", reached)
    call = Call.ACCEPT if decision.verdict is Verdict.ACCEPT else Call.DECLINE
    return _intend(known, call, rules, intent_id, now, decision.notes)


def _looked_after(known: Assignment, rules: Rules, now: float) -> Step:
    """The offer that we took comes by again, to see whether it was confirmed."""
    if known.accepted_at is None or known.confirmed:
        return Step(known, "seen_through")
    wait = known.accepted_at + rules.confirm_within - now
    if wait > 0:
        return Step(known, "awaiting_confirmation", settle=Settle(wait, counted=False))
    reason = "VectorCare took our accept, but its webhook has not come"
    known = replace(known, accepted_at=None)
    return _tell(known, None, State.ASSIGNED, "rule", reason, confirmed=False, needs_attention=True)


def _while_ours(known: Assignment, event: Event, attempts: int) -> Step:
    """Another offer of what is ours."""
    if order_of(event).is_same(known.settled):
        return Step(known, "duplicate")
    if attempts < len(_BACKOFF):
        # The webhook that takes it from us may be on its way still; what is ours is never decided.
        return Step(known, "offered_while_ours", settle=Settle(_backoff(attempts)))
    known = replace(known, settled=order_of(event))
    reason = "VectorCare offers it again although it is ours"
    return _tell(known, event, State.UPDATED, "other", reason, confirmed=known.confirmed, needs_attention=True)


def _again(
    known: Assignment,
    event: Event,
    decide: Callable[[], Decision],
    *,
    mode: Mode,
    rules: Rules,
    intent_id: str,
    now: float,
) -> Step:
    """An accept may have been taken: repeat it while the policy still wants the trip and a webhook may yet come."""
    order = order_of(event)
    if not order.is_same(known.newest):
        known = replace(_heard(known, event, order), request=event.data, request_event_id=event.event_id)
    if mode is Mode.AUTOMATIC and decide().verdict is Verdict.ACCEPT:
        return _intend(known, Call.ACCEPT, rules, intent_id, now, None)
    return Step(known, "not_repeated", settle=Settle(_left(known, rules, now), counted=False))


def _unconfirmed(known: Assignment, event: Event) -> Step:
    known = replace(known, settled=known.newest)
    reason = "an accept was sent and neither its answer nor a webhook came"
    return _tell(known, event, State.HELD, "unconfirmed_accept", reason, needs_attention=True)


def _call_forgotten(known: Assignment) -> Assignment:
    """The process that was making a call is gone: an accept may have been taken, a decline does no harm twice."""
    since = known.uncertain_since
    if known.intent_call is Call.ACCEPT and since is None:
        since = known.intent_deadline
    return replace(known, intent_id=None, intent_call=None, intent_deadline=0.0, uncertain_since=since)


def _intend(known: Assignment, call: Call, rules: Rules, intent_id: str, now: float, notes: str | None) -> Step:
    known = replace(known, intent_id=intent_id, intent_call=call, intent_deadline=now + rules.lease)
    known = replace(known, accept_before=known.last_accept_at)
    if call is Call.ACCEPT:
        known = replace(known, last_accept_at=now)
    return Step(known, f"{call}_intended", call=call, notes=notes)


def _hold(known: Assignment, event: Event, decision: Decision, *, suggested: str | None = None) -> Step:
    known = replace(known, settled=known.newest)
    code = decision.reason_code.value
    if suggested is not None and decision.verdict is not Verdict.HOLD:
        code = "suggested"
    return _tell(known, event, State.HELD, code, decision.reason, suggested=suggested)


def _taken(known: Assignment, event: Event, rules: Rules, now: float) -> Step:
    if known.confirmed:
        return Step(known, "confirmed_already")
    if known.newest_status in {Status.UNAVAILABLE, Status.COMPLETED}:
        reason = "VectorCare took our accept after it had said that the request is gone"
        return _tell(known, event, State.RELEASED, "other", reason, needs_attention=True)
    if known.ours:
        return Step(known, "taken_already", settle=Settle(rules.confirm_within, counted=False))
    known = replace(known, ours=True, accepted_at=now, uncertain_since=None, settled=known.newest)
    known = replace(known, accepted_event_id=event.event_id)
    step = _tell(known, event, State.ACCEPTING, "rule", "our accept was taken", confirmed=False)
    return replace(step, settle=Settle(rules.confirm_within, counted=False))


def _declined(known: Assignment, event: Event, answer: Answer, attempts: int) -> Step:
    if answer.kind is Answered.UNKNOWN and attempts < _MOST_ATTEMPTS:
        return Step(known, "decline_unknown", settle=Settle(_backoff(attempts)))
    known = replace(known, settled=known.newest)
    if answer.kind is Answered.TAKEN:
        return _tell(known, event, State.DECLINING, "rule", "our decline was taken")
    if answer.kind is Answered.GONE:
        return Step(known, "decline_refused")  # it is gone anyway; its webhook says how
    code = "not_permitted" if answer.kind is Answered.NOT_PERMITTED else "other"
    return _tell(known, event, State.HELD, code, "VectorCare did not take our decline")


def _not_reached(known: Assignment, event: Event, answer: Answer, attempts: int, rules: Rules, now: float) -> Step:
    """The call had no effect. It is made again, unless that has been tried for long."""
    wait = max(answer.retry_after, _backoff(attempts))
    known = replace(known, not_before=now + wait, last_accept_at=known.accept_before)
    if known.uncertain_since is not None:
        wait = max(1.0, min(wait, _left(known, rules, now)))
        return Step(known, answer.kind.value, settle=Settle(wait))
    if attempts < _MOST_ATTEMPTS:
        return Step(known, answer.kind.value, settle=Settle(wait))
    known = replace(known, settled=known.newest)
    return _tell(known, event, State.HELD, "other", f"VectorCare can't be reached: {answer.kind}")


def _changed(before: Assignment, known: Assignment, event: Event, wanted: Callable[[], bool]) -> Step:
    changed = tuple(sorted(_differences(before.request, known.request)))
    code = _CHANGES.get(event.action, "data_changed")
    if not changed and code == "data_changed":
        return Step(known, "unchanged")
    return _tell(
        known,
        event,
        State.UPDATED,
        code,
        "its data changed" if changed else "VectorCare answered a change request",
        confirmed=True,
        changed=changed,
        needs_attention=bool(changed) and not wanted(),
    )


def _assigned_by_others(known: Assignment, event: Event) -> Step:
    if event.action == "PROPOSAL_ACCEPTED":
        code, by = "proposal_accepted", "requester"
    elif event.action == "BROADCAST_ACCEPTED":
        code, by = "person", "person"  # accepted in VectorCare's own interface
    else:
        code, by = "direct_assignment", "requester"
    known = replace(known, decided_by=by)
    return _tell(known, event, State.ASSIGNED, code, "it was given to us", confirmed=True)


def _heard(known: Assignment, event: Event, order: Order) -> Assignment:
    return replace(known, newest=order, newest_status=event.status)


def _tell(
    known: Assignment,
    event: Event | None,
    state: State,
    code: str,
    reason: str,
    *,
    confirmed: bool | None = None,
    changed: tuple[str, ...] = (),
    needs_attention: bool = False,
    suggested: str | None = None,
) -> Step:
    outcome = Outcome(
        state,
        known.state,
        known.revision + 1,
        code,
        reason,
        confirmed=confirmed,
        changed=changed,
        needs_attention=needs_attention,
        decided_by=known.decided_by,
        suggested=suggested,
        event_id=event.event_id if event else None,
        action=event.action if event else None,
        request_event_id=known.request_event_id,
    )
    return Step(replace(known, state=state, revision=outcome.revision), state.value, outcomes=(outcome,))


def _then(first: Step, second: Step) -> Step:
    """Two transitions at once, told in their order."""
    return replace(second, outcomes=first.outcomes + second.outcomes)


def _left(known: Assignment, rules: Rules, now: float) -> float:
    """Seconds in which a webhook may yet tell what became of an accept whose answer is not known."""
    return (known.uncertain_since or now) + rules.confirm_within - now


def _backoff(attempts: int) -> float:
    return _BACKOFF[min(attempts, len(_BACKOFF) - 1)]


def _differences(before: Any, after: Any, path: str = "") -> set[str]:
    """The paths of the fields that differ, to the depth of objects; lists count as one field."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {
            inner
            for name in before.keys() | after.keys()
            for inner in _differences(before.get(name), after.get(name), f"{path}.{name}" if path else name)
        }
    return set() if before == after else {path or "request"}
