"""VectorCare as the property test plays it: who has which request, the webhooks that say so, and each call's effect.

Written from VectorCare's documentation alone and apart from the product, which is judged by it. Every webhook that is
made waits in `mail` until the test delivers it or loses it.
"""

import functools
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from shared.broker import Message
from shared.topics import rfc3339
from tests.webhooks import envelope, sign

AVAILABLE: Final = "AVAILABLE"
ASSIGNED: Final = "ASSIGNED"
UNAVAILABLE: Final = "UNAVAILABLE"
COMPLETED: Final = "COMPLETED"
QUEUES: Final = {
    AVAILABLE: "receiver.broadcast-received",
    ASSIGNED: "receiver.broadcast-accepted",
    UNAVAILABLE: "receiver.lifecycle",
    COMPLETED: "receiver.lifecycle",
}


@dataclass(frozen=True)
class Webhook:
    """One event for one customer."""

    number: int
    customer: str
    request: str
    status: str
    action: str
    kind: str
    message: Message = field(repr=False)

    @property
    def event_id(self) -> str:
        return f"{self.number:032d}"


@dataclass
class Taking:
    """An accept that VectorCare took: when, whether for a rule, and when the customer had the trip no more."""

    at: float
    by_rule: bool
    ended_at: float | None = None


@dataclass
class Party:
    """What VectorCare knows of one request for one customer."""

    customer: str
    request: str
    status: str = ""
    events: list[Webhook] = field(default_factory=list)
    takings: list[Taking] = field(default_factory=list)
    proposed: bool = False
    spells: int = 0  # how often it became this customer's
    lost: set[int] = field(default_factory=set)
    wronged: bool = False  # the API refused since the last webhook, without a reason

    @property
    def taken(self) -> Taking | None:
        """The accept by which the customer has the trip now."""
        return self.takings[-1] if self.takings and self.takings[-1].ended_at is None else None


@dataclass
class Request:
    """A service request: its data, and those to whom it was sent."""

    name: str
    kind: str
    pickup_at: float
    other_leg: str | None = None
    age: int = 7
    parties: dict[str, Party] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """The complete request, as webhooks carry it."""
        return {
            "pickup_date_time": rfc3339(self.pickup_at),
            "patient_age": self.age,
            "notes": self.kind,
            "round_trip_other_service_request_id": self.other_leg,
        }


@functools.cache
def _signature(customer: str, body: bytes) -> str:
    return sign("acme", body)  # one key for all: two customers may share VectorCare's


class VectorCare:
    """See the module. `accepts_again`: an accept of what one has is answered with 201 (not documented either way)."""

    def __init__(self, accepts_again: bool) -> None:
        self.accepts_again = accepts_again
        self.requests: dict[str, Request] = {}
        self.mail: list[Webhook] = []
        self.count = 0

    @property
    def parties(self) -> list[Party]:
        return [party for request in self.requests.values() for party in request.parties.values()]

    def broadcast(self, request: Request, customers: list[str], now: float) -> None:
        """Offer it, the first time or again."""
        self.requests.setdefault(request.name, request)
        for customer in customers:
            party = request.parties.setdefault(customer, Party(customer, request.name))
            if party.status in {"", UNAVAILABLE} and self._holder(request) is None:
                self._say(party, AVAILABLE, "BROADCAST_RECEIVED", now)

    def change(self, request: Request, kind: str, now: float) -> None:
        """Its data changed."""
        request.kind = kind
        request.age += 1
        for party in request.parties.values():
            if party.status in {AVAILABLE, ASSIGNED}:
                self._say(party, party.status, "REQUEST_UPDATED", now)

    def end(self, request: Request, action: str, now: float) -> None:
        """Canceled for all, or expired or taken by a stranger for those that it is offered to."""
        for party in request.parties.values():
            if party.status == AVAILABLE or (party.status == ASSIGNED and action == "BROADCAST_CANCELED"):
                self._say(party, UNAVAILABLE, action, now)

    def give(self, party: Party, action: str, now: float) -> None:
        """It is this customer's: assigned directly, accepted by a person in VectorCare's own interface, or proposed."""
        request = self.requests[party.request]
        for other in request.parties.values():
            if other is not party and other.status in {AVAILABLE, ASSIGNED}:
                self._say(other, UNAVAILABLE, "REQUEST_ASSIGNED", now)
        self._say(party, ASSIGNED, action, now)

    def complete(self, party: Party, now: float) -> None:
        """The trip is over."""
        if party.status == ASSIGNED:
            self._say(party, COMPLETED, "REQUEST_COMPLETED", now)

    def answer_proposal(self, party: Party, how: str, now: float) -> None:
        """The requester takes the proposed time, refuses it, or names another."""
        if not party.proposed or party.status != AVAILABLE:
            return
        party.proposed = False
        if how == "accept":
            self.give(party, "PROPOSAL_ACCEPTED", now)
        elif how == "decline":
            self._say(party, UNAVAILABLE, "PROPOSAL_DECLINED", now)
        else:
            self.requests[party.request].pickup_at += 600
            self._say(party, AVAILABLE, "PROPOSAL_COUNTERED", now)

    def call(self, customer: str, name: str, call: str, now: float, *, by_rule: bool) -> bool:
        """A call's effect, and whether the answer is yes; a no is a 403."""
        request = self.requests.get(name)
        party = request.parties.get(customer) if request else None
        if party is None:
            return False
        if call == "accept" and party.status == ASSIGNED:
            return self.accepts_again
        if party.status != AVAILABLE:
            return False
        if call == "accept":
            self.give(party, "BROADCAST_ACCEPTED", now)
            party.takings.append(Taking(now, by_rule))
        elif call == "decline":
            self._say(party, UNAVAILABLE, "BROADCAST_DECLINED", now)
        else:
            party.proposed = True
        return True

    def lose(self, webhook: Webhook) -> None:
        """All attempts to deliver it failed."""
        self.mail.remove(webhook)
        self.requests[webhook.request].parties[webhook.customer].lost.add(webhook.number)

    def _holder(self, request: Request) -> Party | None:
        return next((each for each in request.parties.values() if each.status in {ASSIGNED, COMPLETED}), None)

    def _say(self, party: Party, status: str, action: str, now: float) -> None:
        if party.taken is not None and status not in {ASSIGNED, COMPLETED}:
            party.taken.ended_at = now
        party.spells += status == ASSIGNED and party.status != ASSIGNED
        party.status = status
        party.wronged = False
        self.count += 1
        request = self.requests[party.request]
        body = orjson.dumps(
            envelope(
                event_id=f"{self.count:032d}",
                event_timestamp=rfc3339(now + self.count / 1000),
                service_request_id=party.request,
                request_status=status,
                action=action,
                data=None if status == UNAVAILABLE and self.count % 2 else request.data(),
            )
        )
        headers = {"ce-customerid": party.customer, "ce-signature": _signature(party.customer, body)}
        message = Message(f"{action}.{status}.{party.customer}", headers, body)
        webhook = Webhook(self.count, party.customer, party.request, status, action, request.kind, message)
        party.events.append(webhook)
        self.mail.append(webhook)
