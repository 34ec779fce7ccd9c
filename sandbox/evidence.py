"""Says what a Receiver did wrong, as a pure function of a record.

A Receiver is accused only of what it could have known and done better: what trouble did to it is not held
against it, and what the guide leaves open is allowed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from sandbox.record import ApiCall, Deed, Entry, WebhookAttempt

WORD = re.compile(rb"[A-Za-z0-9_-]{1,64}")

UNSENT = ("lost", "cut", "unreachable")
"""Errors of attempts that can't have reached the Receiver."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is expected of a Receiver. Times are seconds.

    `answer_within`: an answer to a webhook that takes longer is late. `grace`: how long after its 2xx a
    Receiver may still act as if it had not read that webhook (it may sit in its queue). `react_within`: an
    offer that is open for longer without any answer is a fault; None, since an offer may be left to expire
    on purpose. `every_attempt`: each attempt must be answered 2xx; False: one of an event's attempts is
    enough. `order_by`: what tells which event is newer, `event_id` or `event_timestamp`.
    """

    answer_within: float = 10.0
    grace: float = 5.0
    react_within: float | None = None
    every_attempt: bool = True
    order_by: str = "event_id"


@dataclass(frozen=True, slots=True)
class Finding:
    """One wrong: its name, whose it is, which request it is about, when it happened, and a sentence."""

    wrong: str
    receiver: str
    request_id: str
    at: float
    sentence: str


@dataclass
class Case:
    """All that happened between one Receiver and VectorCare about one service request, oldest first."""

    receiver: str
    request_id: str
    webhooks: list[WebhookAttempt] = field(default_factory=list)
    calls: list[ApiCall] = field(default_factory=list)
    by_hand: list[Deed] = field(default_factory=list)
    mentioned: bool = False
    """Whether a rightly signed body that is not as documented names the request."""

    def finding(self, wrong: str, at: float, sentence: str) -> Finding:
        """A finding about this case."""
        return Finding(wrong, self.receiver, self.request_id, at, sentence)

    def named(self, *calls: str) -> list[ApiCall]:
        """The calls of these names."""
        return [c for c in self.calls if c.call in calls]


@dataclass(frozen=True)
class Evidence:
    """A record, sorted out."""

    cases: list[Case]
    webhooks: list[WebhookAttempt]
    calls: list[ApiCall]
    end: float


def ended(entry: WebhookAttempt | ApiCall) -> float:
    """When it was over, Unix seconds."""
    return entry.at + entry.seconds


def reached(attempt: WebhookAttempt) -> bool:
    """Whether a Receiver can have read it, and had a right signature to trust it by."""
    return attempt.signed and attempt.error not in UNSENT


def sort_out(entries: Iterable[Entry]) -> Evidence:
    """Groups a record by Receiver and service request."""
    cases: dict[tuple[str, str], Case] = {}
    webhooks: list[WebhookAttempt] = []
    calls: list[ApiCall] = []
    end = 0.0

    def case(receiver: str, request_id: str) -> Case:
        return cases.setdefault((receiver, request_id), Case(receiver, request_id))

    for entry in sorted(entries, key=lambda e: e.at):
        if isinstance(entry, Deed):
            end = max(end, entry.at)
            if entry.what.endswith("_by_hand"):
                for name in entry.receivers:
                    case(name, entry.request_id).by_hand.append(entry)
            continue
        end = max(end, ended(entry))
        if isinstance(entry, WebhookAttempt):
            webhooks.append(entry)
            if entry.request_id:
                case(entry.receiver, entry.request_id).webhooks.append(entry)
        else:
            calls.append(entry)
            if entry.request_id and entry.receiver:
                case(entry.receiver, entry.request_id).calls.append(entry)
    odd = {word.decode() for w in webhooks if w.signed and not w.event_id for word in WORD.findall(w.body)}
    for each in cases.values():
        each.mentioned = each.request_id in odd
    return Evidence(list(cases.values()), webhooks, calls, end)
