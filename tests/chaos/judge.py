"""Says what a trial lost, doubled or parked: a pure function of VectorCare's record and of what dispatch was told."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sandbox.evidence import Rules
from sandbox.options import Status
from sandbox.record import ApiCall, Entry, WebhookAttempt
from sandbox.verify import verify

SLOWEST: Final = 6.0  # seconds that an answer may take
_WRONGS: Final = frozenset({"accepted_twice", "took_forged", "bad_body", "undocumented_call", "unknown_request"})

Trip = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial came to. `undelivered`: events that no attempt was answered 2xx for; nothing is promised of them.
    `unconfirmed`: offers that were not accepted, and of which a person was told that they may have been."""

    webhooks: int = 0
    taken: int = 0
    refused: int = 0
    unanswered: int = 0
    undelivered: int = 0
    slowest: float = 0.0
    accepts: int = 0
    unconfirmed: int = 0
    lost: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    parked: int = 0

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not self.lost and not self.doubled and self.parked == 0 and self.slowest <= SLOWEST


class Told:
    """What dispatch was told, by request; a repeat under an old id counts once, unless it says something else."""

    def __init__(self) -> None:
        self._by_id: dict[str, dict[str, Any]] = {}
        self._trips: dict[Trip, dict[int, dict[str, Any]]] = defaultdict(dict)
        self.contradictions: list[str] = []

    def note(self, outcome: dict[str, Any]) -> None:
        """One more outcome came."""
        before = self._by_id.setdefault(outcome["id"], outcome)
        if before != outcome:
            self.contradictions.append(f"{outcome['id']} was told in two ways")
        trip = outcome["customer_id"], outcome["service_request_id"]
        self._trips[trip][outcome["revision"]] = outcome

    def of(self, trip: Trip) -> list[dict[str, Any]]:
        """The outcomes of a request by revision."""
        told = self._trips.get(trip, {})
        return [told[revision] for revision in sorted(told)]


def judge(entries: Sequence[Entry], told: Told, parked: int, malformed: range) -> Verdict:
    """`parked`: how many events are. `malformed`: from how many that were sent so and answered 2xx, to how many that
    were sent at all, because one that was answered 503 may have reached the broker too late."""
    webhooks = [entry for entry in entries if isinstance(entry, WebhookAttempt) and entry.signed]
    events: dict[tuple[str, str], list[WebhookAttempt]] = defaultdict(list)
    for attempt in webhooks:
        if attempt.event_id:
            events[attempt.receiver, attempt.event_id].append(attempt)
    effects = Counter(
        (call.receiver, call.request_id)
        for call in entries
        if isinstance(call, ApiCall) and call.call == "accept" and call.took_effect
    )
    taken = [next(each for each in attempts if each.taken) for attempts in events.values() if _any_taken(attempts)]
    findings = verify(entries, Rules(every_attempt=False))
    return Verdict(
        webhooks=len(webhooks),
        taken=sum(attempt.taken for attempt in webhooks),
        refused=sum(attempt.response_code == 503 for attempt in webhooks),
        unanswered=sum(attempt.response_code is None for attempt in webhooks),
        undelivered=len(events) - len(taken),
        slowest=max((each.seconds for each in webhooks if _was_answered_or_hung(each)), default=0.0),
        accepts=sum(effects.values()),
        unconfirmed=sum(
            _is_unconfirmed(outcomes[-1])
            for trip in {(each.receiver, each.request_id) for each in taken} - effects.keys()
            if (outcomes := told.of(trip))
        ),
        lost=tuple(_lost(taken, effects, told)),
        doubled=(
            *(f"{finding.wrong}: {finding.request_id}" for finding in findings if finding.wrong in _WRONGS),
            *told.contradictions,
            *_repeated({(each.receiver, each.request_id) for each in taken}, told),
        ),
        parked=parked - min(max(parked, malformed.start), malformed.stop),
    )


def _any_taken(attempts: Iterable[WebhookAttempt]) -> bool:
    return any(attempt.taken for attempt in attempts)


def _was_answered_or_hung(attempt: WebhookAttempt) -> bool:
    return attempt.response_code is not None or attempt.error == "timeout"


def _lost(taken: Iterable[WebhookAttempt], effects: Counter[Trip], told: Told) -> Iterable[str]:
    """Events that were answered 2xx and had no effect: no accept, nothing told, or not what they say."""
    for event in taken:
        trip = event.receiver, event.request_id
        outcomes = told.of(trip)
        if not outcomes:
            yield f"{event.status} {event.request_id}: nothing was told"
        elif not effects[trip] and _is_unconfirmed(outcomes[-1]):
            continue
        elif not effects[trip]:
            yield f"{event.status} {event.request_id}: not accepted, {outcomes[-1]['state']}"
        elif event.status == Status.ASSIGNED and not (
            outcomes[-1]["state"] == "assigned" and outcomes[-1]["confirmed"]
        ):
            yield f"{event.status} {event.request_id}: told as {outcomes[-1]['state']}"


def _is_unconfirmed(outcome: dict[str, Any]) -> bool:
    """What is promised of an accept whose effect is not known for `confirm_within`: a person is told to look."""
    return outcome["reason_code"] == "unconfirmed_accept" and bool(outcome["needs_attention"])


def _repeated(trips: Iterable[Trip], told: Told) -> Iterable[str]:
    """Requests of which one and the same state was told under two ids: two trips at dispatch."""
    for trip in trips:
        states = Counter((outcome["state"], outcome["confirmed"]) for outcome in told.of(trip))
        for (state, _), times in states.items():
            if times > 1 and state in {"accepting", "assigned"}:
                yield f"{trip[1]}: told as {state} {times} times"
