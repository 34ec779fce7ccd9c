"""The life of a service request as pure functions: who is assigned, and what webhook follows what.

Each function takes a ServiceRequest and returns a Step: the request as it is afterwards, and the notices that
its Receivers get. What can't be done raises NotAvailable. Nothing here knows of time, HTTP or files.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sandbox.options import Options, Status

COMPETITOR = "(another provider)"
"""Stands in `assigned_to` for a provider who is no organization of this sandbox."""

STATES = ("en_route", "arrived", "on_board", "arrived_at_destination", "completed")
ENDS = ("canceled", "dry_run")


class NotAvailable(Exception):
    """The request is not available to that organization, or not in a state where this can happen."""


class Stage(StrEnum):
    """Where a service request is, as its Requester sees it."""

    OPEN = "open"
    ASSIGNED = "assigned"
    COMPLETED = "completed"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Offer:
    """A service request as one Receiver may see it. Times are ISO 8601 strings as they were sent.

    `offered`: how many times it was broadcast to it.
    """

    status: Status
    offered: int = 0
    accepts_taken: int = 0
    proposed: str | None = None
    change_asked: str | None = None
    states: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """What VectorCare knows of one service request. `data` has every documented field."""

    id: str
    requester: str
    data: Mapping[str, Any]
    offers: Mapping[str, Offer] = field(default_factory=dict)
    stage: Stage = Stage.OPEN
    assigned_to: str | None = None

    @property
    def accepts_taken(self) -> dict[str, int]:
        """How many accepts of each Receiver were taken."""
        return {name: offer.accepts_taken for name, offer in self.offers.items()}

    def status_for(self, receiver: str) -> Status | None:
        """What the Receiver was last told, or None if it never saw the request."""
        offer = self.offers.get(receiver)
        return offer.status if offer else None


@dataclass(frozen=True, slots=True)
class Notice:
    """One webhook that a Receiver is to get. The body carries `data` unless the status is UNAVAILABLE."""

    receiver: str
    action: str
    status: Status


@dataclass(frozen=True, slots=True)
class Step:
    """What became of the request, and who is told what."""

    request: ServiceRequest
    notices: tuple[Notice, ...] = ()


def _offered(request: ServiceRequest, receiver: str, *statuses: Status) -> Offer:
    offer = request.offers.get(receiver)
    if offer is None or offer.status not in statuses:
        raise NotAvailable(f"{request.id} is not available to {receiver}")
    return offer


def _with(request: ServiceRequest, receiver: str, offer: Offer) -> ServiceRequest:
    return replace(request, offers={**request.offers, receiver: offer})


def _tell(
    request: ServiceRequest, receivers: Iterable[str], action: str, status: Status
) -> tuple[ServiceRequest, tuple[Notice, ...]]:
    offers = dict(request.offers)
    notices = []
    for name in receivers:
        before = offers.get(name, Offer(status))
        offers[name] = replace(before, status=status, proposed=None, change_asked=None)
        notices.append(Notice(name, action, status))
    return replace(request, offers=offers), tuple(notices)


def holders(request: ServiceRequest, *statuses: Status) -> list[str]:
    """The Receivers whose offer has one of the statuses, in the order in which they were broadcast to."""
    return [name for name, offer in request.offers.items() if offer.status in statuses]


def broadcast(request: ServiceRequest, receivers: Iterable[str]) -> Step:
    """Offers the request to the Receivers; once more to those who have seen it before."""
    if request.stage is not Stage.OPEN:
        raise NotAvailable(f"{request.id} is {request.stage}, and can't be broadcast")
    request, notices = _tell(request, receivers, "BROADCAST_RECEIVED", Status.AVAILABLE)
    for notice in notices:
        offer = request.offers[notice.receiver]
        request = _with(request, notice.receiver, replace(offer, offered=offer.offered + 1))
    return Step(request, notices)


def _assign(request: ServiceRequest, winner: str, action: str, options: Options, *, accepted: bool = False) -> Step:
    others = [n for n in holders(request, Status.AVAILABLE, Status.ASSIGNED) if n != winner]
    request, lost = _tell(request, others, options.action("taken_by_other"), Status.UNAVAILABLE)
    won: tuple[Notice, ...] = ()
    if winner != COMPETITOR:
        request, won = _tell(request, [winner], action, Status.ASSIGNED)
        if accepted:
            offer = request.offers[winner]
            request = _with(request, winner, replace(offer, accepts_taken=offer.accepts_taken + 1))
    return Step(replace(request, stage=Stage.ASSIGNED, assigned_to=winner), won + lost)


def accept(request: ServiceRequest, receiver: str, options: Options) -> Step:
    """The first Receiver to accept is assigned; for the others the request is UNAVAILABLE."""
    if options.idempotent_accept and request.assigned_to == receiver:
        return Step(request)
    _offered(request, receiver, Status.AVAILABLE)
    return _assign(request, receiver, "BROADCAST_ACCEPTED", options, accepted=True)


def decline(request: ServiceRequest, receiver: str) -> Step:
    """The request is UNAVAILABLE to the Receiver; nobody else notices."""
    _offered(request, receiver, Status.AVAILABLE)
    return Step(*_tell(request, [receiver], "BROADCAST_DECLINED", Status.UNAVAILABLE))


def competitor_accepts(request: ServiceRequest, options: Options) -> Step:
    """A provider who is not of this sandbox was faster."""
    if request.stage is not Stage.OPEN:
        raise NotAvailable(f"{request.id} is {request.stage}")
    return _assign(request, COMPETITOR, "", options)


def assign(request: ServiceRequest, receiver: str, options: Options) -> Step:
    """The Requester assigns the request to a Receiver, broadcast to it or not; who had it before loses it."""
    if request.stage not in (Stage.OPEN, Stage.ASSIGNED) or request.assigned_to == receiver:
        raise NotAvailable(f"{request.id} is {request.stage}")
    return _assign(request, receiver, options.action("assigned_directly"), options)


def cancel(request: ServiceRequest) -> Step:
    """The Requester cancels: all who still see the request are told."""
    if request.stage not in (Stage.OPEN, Stage.ASSIGNED):
        raise NotAvailable(f"{request.id} is {request.stage}")
    told = holders(request, Status.AVAILABLE, Status.ASSIGNED)
    request, notices = _tell(request, told, "BROADCAST_CANCELED", Status.UNAVAILABLE)
    return Step(replace(request, stage=Stage.CANCELED, assigned_to=None), notices)


def withdraw(request: ServiceRequest, receivers: Iterable[str]) -> Step:
    """The Requester takes broadcast or assignment back from these Receivers; the request stays open."""
    gone = [n for n in receivers if request.status_for(n) in (Status.AVAILABLE, Status.ASSIGNED)]
    if not gone or request.stage not in (Stage.OPEN, Stage.ASSIGNED):
        raise NotAvailable(f"{request.id} is {request.stage}, and none of them sees it")
    told, notices = _tell(request, gone, "BROADCAST_CANCELED", Status.UNAVAILABLE)
    if request.assigned_to in gone:
        told = replace(told, stage=Stage.OPEN, assigned_to=None)
    return Step(told, notices)


def expire(request: ServiceRequest, receivers: Iterable[str] | None = None) -> Step:
    """Offers that nobody answered expire: those of the Receivers given, or all."""
    open_offers = holders(request, Status.AVAILABLE)
    chosen = open_offers if receivers is None else [n for n in receivers if n in open_offers]
    return Step(*_tell(request, chosen, "BROADCAST_EXPIRED", Status.UNAVAILABLE))


def complete(request: ServiceRequest, options: Options) -> Step:
    """The trip is fulfilled, by the Receiver's last state or by the Requester's hand."""
    if request.stage is not Stage.ASSIGNED:
        raise NotAvailable(f"{request.id} is {request.stage}")
    told = holders(request, Status.ASSIGNED)
    request, notices = _tell(request, told, options.action("completed"), Status.COMPLETED)
    return Step(replace(request, stage=Stage.COMPLETED), notices)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the fields of `new`; objects are merged field by field, everything else is replaced."""
    result = dict(old)
    for name, value in new.items():
        before = result.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[name] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def change_data(request: ServiceRequest, changes: Mapping[str, Any], options: Options) -> Step:
    """The Requester edits the request: those who see it get it anew, under the status they have."""
    request = replace(request, data=merged(request.data, changes))
    seen = holders(request, Status.AVAILABLE, Status.ASSIGNED)
    action = options.action("updated")
    return Step(request, tuple(Notice(name, action, request.offers[name].status) for name in seen))


def propose(request: ServiceRequest, receiver: str, when: str) -> Step:
    """A Receiver proposes another time. Nobody is told before the Requester has answered."""
    offer = _offered(request, receiver, Status.AVAILABLE)
    return Step(_with(request, receiver, replace(offer, proposed=when)))


def answer_proposal(
    request: ServiceRequest, receiver: str, options: Options, *, answer: str, counter: str | None = None
) -> Step:
    """The Requester answers a proposal: `accepted`, `declined`, or `countered` with another time."""
    offer = _offered(request, receiver, Status.AVAILABLE)
    if offer.proposed is None:
        raise NotAvailable(f"{receiver} has proposed nothing for {request.id}")
    if answer == "accepted":
        agreed = replace(request, data={**request.data, "agreed_for_time": offer.proposed})
        return _assign(agreed, receiver, "PROPOSAL_ACCEPTED", options)
    if answer == "declined":
        return Step(*_tell(request, [receiver], "PROPOSAL_DECLINED", options.proposal_declined))
    if answer != "countered" or counter is None:
        raise NotAvailable("a proposal is accepted, declined, or countered with a time")
    countered = replace(request, data={**request.data, "agreed_for_time": counter})
    return Step(*_tell(countered, [receiver], options.action("countered"), Status.AVAILABLE))


def ask_change(request: ServiceRequest, receiver: str, when: str) -> Step:
    """The assigned Receiver asks for another time, where the request allows it."""
    offer = _offered(request, receiver, Status.ASSIGNED)
    if request.data.get("change_request_enabled") is not True:
        raise NotAvailable(f"{request.id} takes no change requests")
    return Step(_with(request, receiver, replace(offer, change_asked=when)))


def answer_change(request: ServiceRequest, receiver: str, *, accepted: bool) -> Step:
    """The Requester approves the new time, or the old one stands."""
    offer = _offered(request, receiver, Status.ASSIGNED)
    if offer.change_asked is None:
        raise NotAvailable(f"{receiver} has asked for no change of {request.id}")
    if accepted:
        request = replace(request, data={**request.data, "agreed_for_time": offer.change_asked})
    action = "CHANGE_REQUEST_ACCEPTED" if accepted else "CHANGE_REQUEST_DECLINED"
    return Step(*_tell(request, [receiver], action, Status.ASSIGNED))


def goes_back(states: tuple[str, ...], name: str) -> bool:
    """Whether `name` after `states` breaks the documented order. Repeating the last one does not."""
    if not states or states[-1] == name:
        return False
    last = states[-1]
    if last in ENDS or last == "completed":
        return True
    return name in STATES and STATES.index(name) < STATES.index(last)


def report_state(request: ServiceRequest, receiver: str, name: str, options: Options) -> Step:
    """A Receiver tells how far its trip is; `completed`, `canceled` and `dry_run` end it."""
    offer = _offered(request, receiver, Status.ASSIGNED, Status.COMPLETED)
    repeated = bool(offer.states) and offer.states[-1] == name
    if repeated:
        return Step(request)
    request = _with(request, receiver, replace(offer, states=(*offer.states, name)))
    if request.stage is not Stage.ASSIGNED:
        return Step(request)
    if name == "completed":
        return complete(request, options)
    if name in ENDS:
        return cancel(request)
    told = Notice(receiver, options.action("updated"), Status.ASSIGNED)
    return Step(request, (told,) if options.tell_states else ())


def trip_of(request: ServiceRequest, receiver: str) -> Offer:
    """The Receiver's side of a trip that it has, or had to its end. Raises NotAvailable."""
    return _offered(request, receiver, Status.ASSIGNED, Status.COMPLETED)
