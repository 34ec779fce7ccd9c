"""The words of an assignment: what we know, what may happen to it, and what follows. Pure values."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from shared.event import Event, Status
from worker.policy import Decision

OrderBy = Literal["event_id", "event_timestamp"]
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


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


GONE_STATES: Final = frozenset({State.LOST, State.CLOSED, State.RELEASED})


class Mode(StrEnum):
    """How far a customer lets the policy go."""

    OBSERVE = "observe"
    SUGGEST = "suggest"
    AUTOMATIC = "automatic"


class Call(StrEnum):
    """A call of VectorCare's API that answers an offer."""

    ACCEPT = "accept"
    DECLINE = "decline"
    PROPOSE = "propose"


class Answered(StrEnum):
    """What is known after a call. Only TAKEN is a yes; after UNKNOWN the call may have taken effect or not."""

    TAKEN = "taken"
    GONE = "gone"  # 403 and 404: not available to us
    NOT_PERMITTED = "not_permitted"  # 403 with a public_api: code
    INVALID = "invalid"  # 400
    THROTTLED = "throttled"  # 429
    NO_TOKEN = "no_token"  # noqa: S105 - no token to be had, or refused again after renewal
    NOT_SENT = "not_sent"  # the connection could not be made, or it was too late to begin
    UNKNOWN = "unknown"  # sent, and no answer, or one that says nothing


WITHOUT_EFFECT: Final = frozenset({Answered.NO_TOKEN, Answered.NOT_SENT, Answered.THROTTLED})
PERMISSION_DENIED: Final = "members:permission_denied"


@dataclass(frozen=True, slots=True)
class Answer:
    """A call's answer. `retry_after` is seconds; `code` is VectorCare's own, fit for logs."""

    kind: Answered
    status: int | None = None
    code: str | None = None
    retry_after: float = 0.0


class Gap(StrEnum):
    """What proves that a webhook was lost, or has not come (the command `missed`)."""

    OFFER = "offer"  # something newer came of a request that was never offered to us
    ASSIGNMENT = "assignment"  # completed, and we never heard that it was ours
    CONFIRMATION = "confirmation"  # our accept was taken, and its webhook has not come
    ANSWER = "answer"  # an accept was sent; neither its answer nor a webhook has come


@dataclass(frozen=True, slots=True)
class Particulars:
    """What the store must be able to search for in a request. `pickup_at` is Unix seconds, `level` the policy's word
    for the level of service, `collection` a digest of the standing order's id. None where the request does not say."""

    pickup_at: float | None = None
    level: str | None = None
    collection: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What we know of one service request for one customer.

    `newest` orders events; `settled` is the offer whose handling has ended. An intent is written before its call and is
    the lease on making it; none is made before `not_before`. `uncertain_since` is set while an accept's effect is not
    known. `ours` is whether the trip is ours as far as we know, `confirmed` whether VectorCare's webhook has said so;
    `accepted_event_id` is the offer whose accept was taken; `last_accept_at` counts against the limits, and falls back
    to `accept_before` where the call never reached VectorCare. `hold_until` is when an unanswered hold is decided
    again. `asked_by` is the person's command (its id) that was last acted on, `actor` who gave it.
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
    pickup_at: float | None = None
    level: str | None = None
    other_leg_lost: bool = False
    collection: str | None = None
    first_offered_at: float | None = None
    times_seen: int = 0
    proposals: int = 0
    hold_until: float | None = None
    asked_by: str | None = None
    actor: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def other_leg(self) -> str | None:
        """The round trip's other request; None where this one names none."""
        named = (self.request or {}).get("round_trip_other_service_request_id")
        return named if isinstance(named, str) and _REQUEST_ID.fullmatch(named) else None


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
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settle:
    """What becomes of the delivery: done, handed back for `after` seconds, or parked for `reason`."""

    after: float | None = None
    counted: bool = True
    reason: str | None = None


ACK: Final = Settle()


Ending = Literal["done", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Result:
    """The one result of a command (docs/events.md, command-result/1): how it ended, a code, a sentence without values,
    and VectorCare's own code where it refused."""

    ending: Ending
    code: str
    sentence: str
    vectorcare_code: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What follows: the new knowledge, what to publish, whether to make the intent's call, and how to settle.

    `decision` is what the policy said, where it was asked; `result` answers a person's command, None while it is not
    known; `opens` and `closes` are the gaps that this proves and mends.
    """

    known: Assignment
    note: str
    outcomes: tuple[Outcome, ...] = ()
    settle: Settle = ACK
    call: Call | None = None
    notes: str | None = None
    propose_at: datetime | None = None
    decision: Decision | None = None
    result: Result | None = None
    opens: tuple[Gap, ...] = ()
    closes: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the house, in seconds: how long an intent binds, and how long a confirmation may take."""

    lease: float
    confirm_within: float
    order_by: OrderBy = "event_id"


@dataclass(frozen=True, slots=True)
class Counsel:
    """What the deciding of an offer may ask, each at most once and only if it must: the store answers within the
    transaction that writes the intent.

    `decide` is the customer's policy; `limit` says which limit one more accept would pass, as a sentence; `paused`
    whether the customer is; `other_leg_is_missing` whether the round trip's other leg was never seen, which is waited
    for `other_leg_seconds` after the first offer.
    """

    mode: Mode
    particulars: Particulars
    decide: Callable[[Assignment], Decision]
    limit: Callable[[Assignment], str | None]
    paused: Callable[[], bool]
    other_leg_is_missing: Callable[[Assignment], bool] = lambda _: False
    other_leg_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person (or a dispatch system for one) wants of an offer. `command_id` names it among the customer's
    commands, `not_after` is Unix seconds."""

    command_id: str
    call: Call
    actor: str
    notes: str | None = field(default=None, repr=False)
    propose_at: datetime | None = None
    expected_revision: int | None = None
    not_after: float | None = None


def order_of(event: Event) -> Order:
    """Where an event stands among those of its request."""
    return Order(event.event_id, f"{event.sent_at.timestamp():020.6f}", 0 if event.status is Status.AVAILABLE else 1)


def disagrees(known: Assignment, event: Event) -> bool:
    """Whether id and timestamp tell different stories about which of two events is newer."""
    mine, newest = order_of(event), known.newest
    if newest is None or mine.event_id == newest.event_id or mine.sent_at == newest.sent_at:
        return False
    return (mine.event_id > newest.event_id) != (mine.sent_at > newest.sent_at)
