"""What is said of an example once everything has come to rest: each broken promise as a sentence."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import Connection, select

from shared import topics
from shared.broker import Message
from shared.sealing import Sealer
from tests import witness
from tests.lives.stage import CALL_SECONDS, CONFIRM_WITHIN, LEASE, LIMITED, MAX_OPEN, OURS, Stage
from tests.lives.vectorcare import ASSIGNED, AVAILABLE, COMPLETED, UNAVAILABLE, Party
from worker.assignment import Assignment
from worker.ledger import Ledger
from worker.results import PENDING
from worker.tables import assignments, commands, gaps, outbox

_SLACK: Final = 30.0  # seconds: faults of the store, and the last wait before a look
_GONE: Final = frozenset({"closed", "lost", "released", "completed"})

Key = tuple[str, str]


@dataclass
class Kept:
    """All that the store holds in the end."""

    known: dict[Key, Assignment]
    told: dict[Key, list[dict[str, Any]]]
    missing: dict[Key, set[str]]
    unanswered: list[str]


def keep(connection: Connection, ledger: Ledger) -> Kept:
    """Read it."""
    told: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    sealer = Sealer()
    for row in connection.execute(select(outbox).order_by(outbox.c.id)):
        message = Message(row.routing_key, row.headers, sealer.open(row.body))
        witness.message(topics.OUTCOMES, message)
        body = orjson.loads(message.body)
        if body["schema"] == "assignment/1":
            told[row.customer_id, row.service_request_id].append(body)
    rows = connection.execute(select(assignments.c.customer_id, assignments.c.service_request_id)).all()
    keys = [(row.customer_id, row.service_request_id) for row in rows]
    known = {key: ledger.peek(connection, *key) for key in keys}
    open_gaps = connection.execute(select(gaps).where(gaps.c.closed_at.is_(None)))
    missing: dict[Key, set[str]] = defaultdict(set)
    for row in open_gaps:
        missing[row.customer_id, row.service_request_id].add(row.kind)
    pending = select(commands.c.id).where(commands.c.state == PENDING)
    return Kept(known, told, missing, list(connection.scalars(pending)))


def wrongs(stage: Stage, kept: Kept) -> Iterator[str]:
    """Every promise that was broken."""
    yield from (f"command {each} has no result" for each in kept.unanswered)
    for key, told in kept.told.items():
        yield from (f"{key}: {wrong}" for wrong in _chain(key, told, kept.known[key]))
    for party in stage.vectorcare.parties:
        key = (party.customer, party.request)
        known = kept.known.get(key, Assignment(*key))
        told = kept.told.get(key, [])
        found = [*_at_rest(known), *_in_time(stage, party, told), *_counted(party, told)]
        if party.events and party.events[-1].number not in party.lost:
            found += _as_the_model_says(stage, party, known, told)
        if not party.lost and (called := kept.missing.get(key, set()) - _may_be_missing(party)):
            found.append(f"{called} is called missing although all came")
        found += _legs(known, kept)
        yield from (f"{key}: {wrong}" for wrong in found)
    yield from _limit(stage, kept)


def _chain(key: Key, told: list[dict[str, Any]], known: Assignment) -> Iterator[str]:
    previous = None
    for number, body in enumerate(told, 1):
        if (body["revision"], body["id"]) != (number, f"{key[0]}/{key[1]}/{number}"):
            yield f"outcome {number} is told as {body['id']}, revision {body['revision']}"
        if body["previous_state"] != previous:
            yield f"outcome {number} follows {previous} and says {body['previous_state']}"
        if body["state"] == "accepting" and previous in OURS:
            yield "what was ours was told as accepting"
        if body["state"] == "closed" and previous in OURS:
            yield "what was ours was told as closed"
        previous = body["state"]
    if (known.revision, known.state) != (len(told), previous):
        yield f"revision {known.revision}, {known.state} is kept, and {len(told)}, {previous} was told last"


def _at_rest(known: Assignment) -> Iterator[str]:
    if known.intent_call is not None:
        yield "an intent is left"
    if known.state == "accepting":
        yield "its last word is accepting"
    if known.uncertain_since is not None and (known.state != "held" or known.settled != known.newest):
        yield f"an accept's effect is not known and nobody was told: {known.state}"


def _in_time(stage: Stage, party: Party, told: list[dict[str, Any]]) -> Iterator[str]:
    for taking in party.takings:
        late = CONFIRM_WITHIN + stage.away + _SLACK
        until = taking.at + LEASE + CALL_SECONDS + late
        # A repeated accept may be answered long after the first was taken; from then on the webhook has its time.
        taken = [_at(body) for body in told if body["state"] == "accepting" and taking.at <= _at(body) <= until]
        until = max([until, *(at + late for at in taken)])
        if taking.ended_at is not None and taking.ended_at <= until:
            continue
        if not any(taking.at - 0.001 <= _at(body) <= until and _says_so(body) for body in told):
            yield f"an accept was taken at {taking.at} and nobody told until {until}"


def _says_so(body: dict[str, Any]) -> bool:
    if body["state"] == "held":
        return bool(body["reason_code"] == "unconfirmed_accept" and body["needs_attention"])
    if body["state"] == "assigned":
        return bool(body["confirmed"] or body["needs_attention"])
    return body["state"] in {"updated", "completed"}


def _at(body: dict[str, Any]) -> float:
    return datetime.fromisoformat(body["occurred_at"]).timestamp()


def _counted(party: Party, told: list[dict[str, Any]]) -> Iterator[str]:
    accepted = sum(body["state"] == "accepting" for body in told)
    # A webhook that says that it was taken from us, and comes after our accept was taken, may tell of a time before it.
    released = sum(body["state"] == "released" for body in told)
    if accepted > party.spells + released:
        yield f"told as taken {accepted} times, and it was given {party.spells} times"


def _as_the_model_says(stage: Stage, party: Party, known: Assignment, told: list[dict[str, Any]]) -> Iterator[str]:
    if party.status == ASSIGNED:
        if known.state not in {"assigned", "updated"} or not (known.ours and known.confirmed):
            yield f"it is ours, and {known.state} is told"
    elif party.status == COMPLETED:
        if known.state != "completed" or known.ours:
            yield f"it is completed, and {known.state} is told"
    elif party.status == UNAVAILABLE:
        if known.state not in _GONE or known.ours:
            yield f"it is gone, and {known.state} is told"
    elif party.status == AVAILABLE:
        yield from _offered(stage, party, known, told)


def _offered(stage: Stage, party: Party, known: Assignment, told: list[dict[str, Any]]) -> Iterator[str]:
    last = party.events[-1]
    if any(body["event_id"] == last.event_id and body["state"] == "updated" for body in told):
        return  # somebody was told that it is offered again although it is ours
    if known.newest is None or known.newest.event_id != last.event_id:
        yield "its last offer was not heard"
    elif known.ours:
        yield "it is offered, and kept as ours"
    elif last.kind != "ignore" and not party.wronged:
        wanted = {"held", "proposing"} if last.kind == "propose" else {"held"}
        if known.state not in wanted:
            yield f"it is offered ({last.kind}), and {known.state} is told"


def _may_be_missing(party: Party) -> set[str]:
    """An accept without an answer that VectorCare has never seen, and so says nothing of."""
    return {"answer"} if party.status == AVAILABLE else set()


def _legs(known: Assignment, kept: Kept) -> Iterator[str]:
    if known.other_leg is None or not known.ours:
        return
    other = kept.known.get((known.customer_id, known.other_leg))
    if other is None or other.ours or other.other_leg is None or other.state not in {"lost", "closed", "released"}:
        return
    if not known.other_leg_lost:
        yield f"its other leg is {other.state}, and nobody was told"


def _limit(stage: Stage, kept: Kept) -> Iterator[str]:
    taken = [
        party
        for party in stage.vectorcare.parties
        if party.customer == LIMITED and party.taken is not None and party.taken.by_rule and not party.lost
    ]
    if len(taken) > MAX_OPEN:
        yield f"{len(taken)} trips were taken by rules where {MAX_OPEN} may be"
