"""What we know of each (customer, service request), kept in the store together with what is to be told of it.

One transaction loads the knowledge, lets the state machine say what follows, and commits the new knowledge, the
outcomes, the offer as it was decided and the gaps; nothing is published that was not committed, and nothing committed
goes unpublished (`worker.outbox`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar

import orjson
from sqlalchemy import Connection, Row, bindparam, insert, select, update

from shared import metrics, traces
from shared.database import Database, Work, insert_if_absent
from shared.event import Event, Status
from shared.sealing import Sealer
from worker.assignment import Assignment, Call, Mode, Order, State, Step
from worker.facts import Facts
from worker.inquiry import Inquiry, is_paused
from worker.outcomes import outcome_message
from worker.tables import assignments, gaps, offers, outbox

_FIELDS: Final = tuple(field.name for field in fields(Assignment))

T = TypeVar("T")
S = TypeVar("S", Step, Step | None)

Transition = Callable[[Assignment, Inquiry, float], Step]


@dataclass(frozen=True, slots=True)
class Offered:
    """What is kept of an offer that was decided: for `policy compare`, `policy try` and the report."""

    event: Event
    received_at: float | None
    mode: Mode
    facts: Callable[[], Facts]


# Built once: putting a statement together costs more than running it.
_THIS: Final = (
    assignments.c.customer_id == bindparam("of_customer"),
    assignments.c.service_request_id == bindparam("of_request"),
)
_READ: Final = select(assignments).where(*_THIS)
_ACCEPTED_IN: Final = select(assignments.c.accept_traceparent).where(*_THIS)
_SELECT: Final = _READ.with_for_update()
_UPDATE: Final = update(assignments).where(*_THIS)
_TELL: Final = insert(outbox)
_KEEP_OFFER: Final = insert(offers)
_GAP: Final = (
    gaps.c.customer_id == bindparam("of_customer"),
    gaps.c.service_request_id == bindparam("of_request"),
    gaps.c.kind == bindparam("of_kind"),
)
_CLOSE_GAP: Final = update(gaps).where(*_GAP, gaps.c.closed_at.is_(None)).values(closed_at=bindparam("at"))
_OPEN_GAP_AGAIN: Final = update(gaps).where(*_GAP).values(closed_at=None)


class Ledger:
    """The store as the handlers see it. `environments` names each customer's VectorCare environment."""

    def __init__(self, database: Database, sealer: Sealer, environments: Mapping[str, str]) -> None:
        self._database = database
        self._sealer = sealer
        self._environments = environments

    async def step(
        self, customer_id: str, service_request_id: str, transition: Transition, offered: Offered | None = None
    ) -> Step:
        """Apply a transition of one assignment; durable when this returns. Unavailable where it can't be."""
        here = traces.here()
        return await self._stepped(
            lambda connection, now: self.step_in(
                connection, now, customer_id, service_request_id, transition, offered, here
            )
        )

    async def step_with(
        self, also: Work[bool], customer_id: str, service_request_id: str, transition: Transition
    ) -> None:
        """In one transaction, do `also`, and where that says True, apply the transition."""

        here = traces.here()

        def work(connection: Connection, now: float) -> Step | None:
            if not also(connection, now):
                return None
            return self.step_in(connection, now, customer_id, service_request_id, transition, None, here)

        await self._stepped(work)

    async def transact(self, work: Work[T]) -> T:
        """A transaction that touches no assignment."""
        return await self._database.transact(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """A look into the store."""
        return await self._database.read(work)

    async def look(self, customer_id: str, service_request_id: str) -> Assignment:
        """What is known of a request; an empty one where nothing is."""
        return await self._database.read(lambda connection: self.peek(connection, customer_id, service_request_id))

    async def accepted_in(self, customer_id: str, service_request_id: str) -> str | None:
        """The traceparent of the handling that last intended to accept; None where it was not traced."""
        this = {"of_customer": customer_id, "of_request": service_request_id}
        return await self._database.read(lambda connection: connection.scalar(_ACCEPTED_IN, this))

    async def is_paused(self, customer_id: str) -> bool:
        """Whether nothing may be accepted for this customer now."""
        return await self._database.read(lambda connection: is_paused(connection, customer_id))

    def seal(self, body: bytes) -> bytes:
        """A body in the form in which the store keeps it."""
        return self._sealer.seal(body)

    def open(self, stored: bytes) -> bytes:
        """A body of the store as it was."""
        return self._sealer.open(stored)

    def peek(self, connection: Connection, customer_id: str, service_request_id: str) -> Assignment:
        """What is known, without a lock; an empty one where nothing is."""
        row = connection.execute(_READ, {"of_customer": customer_id, "of_request": service_request_id}).first()
        return self._known(row) if row else Assignment(customer_id, service_request_id)

    def step_in(
        self,
        connection: Connection,
        now: float,
        customer_id: str,
        service_request_id: str,
        transition: Transition,
        offered: Offered | None = None,
        traceparent: str | None = None,
    ) -> Step:
        """`step`, in a transaction that the caller has begun; `traceparent` is where the caller is, which the thread of
        a transaction does not know."""
        known = self._load(connection, customer_id, service_request_id)
        step = transition(known, Inquiry(connection, customer_id, now), now)
        self._save(connection, known, step, now, traceparent)
        if offered is not None and step.decision is not None:
            self._keep_offer(connection, offered, step, now)
        self._keep_gaps(connection, step, now)
        return step

    async def _stepped(self, work: Work[S]) -> S:
        step = await self._database.transact(work)
        if step is not None:
            for outcome in step.outcomes:
                metrics.OUTCOMES.labels(step.known.customer_id, outcome.state).inc()
        return step

    def _load(self, connection: Connection, customer_id: str, service_request_id: str) -> Assignment:
        this = {"of_customer": customer_id, "of_request": service_request_id}
        row = connection.execute(_SELECT, this).first()
        if row is None:
            # Two workers may hear of it for the first time at once; whoever comes second waits for the row here.
            named = {"customer_id": customer_id, "service_request_id": service_request_id}
            row = insert_if_absent(connection, assignments, {**_EMPTY, **named})
            row = row or connection.execute(_SELECT, this).one()
        return self._known(row)

    def _known(self, row: Row[Any]) -> Assignment:
        values: dict[str, Any] = {name: getattr(row, name) for name in _FIELDS}
        values["state"] = State(row.state) if row.state else None
        values["newest"] = Order(*row.newest) if row.newest else None
        values["newest_status"] = Status(row.newest_status) if row.newest_status else None
        values["settled"] = Order(*row.settled) if row.settled else None
        values["intent_call"] = Call(row.intent_call) if row.intent_call else None
        values["request"] = orjson.loads(self._sealer.open(row.request)) if row.request is not None else None
        values["tags"] = tuple(row.tags or ())
        return Assignment(**values)

    def _save(
        self, connection: Connection, before: Assignment, step: Step, now: float, traceparent: str | None
    ) -> None:
        known = step.known
        if known != before:
            values = {name: getattr(known, name) for name in _FIELDS}
            if known.request is before.request:
                del values["request"]
            elif known.request is not None:
                values["request"] = self._sealer.seal(orjson.dumps(known.request))
            values["tags"] = list(known.tags) or None
            if step.call is Call.ACCEPT:
                values["accept_traceparent"] = traceparent
            this = {"of_customer": known.customer_id, "of_request": known.service_request_id}
            connection.execute(_UPDATE, values | this | {"updated_at": now})
        if step.outcomes:
            environment = self._environments.get(known.customer_id, "")
            messages = [outcome_message(known, outcome, environment, now, traceparent) for outcome in step.outcomes]
            connection.execute(
                _TELL,
                [
                    {
                        "customer_id": known.customer_id,
                        "service_request_id": known.service_request_id,
                        "routing_key": message.routing_key,
                        "headers": dict(message.headers),
                        "body": self._sealer.seal(message.body),
                        "claimed_until": 0.0,
                    }
                    for message in messages
                ],
            )

    def _keep_offer(self, connection: Connection, offered: Offered, step: Step, now: float) -> None:
        event, decision = offered.event, step.decision
        assert decision is not None
        row = {
            "customer_id": event.customer_id,
            "service_request_id": event.service_request_id,
            "event_id": event.event_id,
            "seen_at": now,
            "received_at": offered.received_at,
            "mode": offered.mode.value,
            "verdict": decision.verdict.value,
            "rule": decision.rule,
            "reason_code": decision.reason_code.value,
            "facts": dataclasses.asdict(offered.facts()),
            "event": self._sealer.seal(event.verified.body),
        }
        connection.execute(_KEEP_OFFER, row)

    def _keep_gaps(self, connection: Connection, step: Step, now: float) -> None:
        known = step.known
        for kind in step.opens:
            row = {"customer_id": known.customer_id, "service_request_id": known.service_request_id, "kind": kind.value}
            insert_if_absent(connection, gaps, row | {"since": now})
            connection.execute(_OPEN_GAP_AGAIN, _of_gap(known, kind.value))
        for kind in step.closes:
            connection.execute(_CLOSE_GAP, _of_gap(known, kind.value) | {"at": now})


_EMPTY: Final[Mapping[str, Any]] = {
    "revision": 0,
    "ours": False,
    "confirmed": False,
    "intent_deadline": 0.0,
    "not_before": 0.0,
    "other_leg_lost": False,
    "times_seen": 0,
    "proposals": 0,
    "updated_at": 0.0,
}


def _of_gap(known: Assignment, kind: str) -> dict[str, str]:
    return {"of_customer": known.customer_id, "of_request": known.service_request_id, "of_kind": kind}
