"""What we know of each (customer, service request), kept in the store together with what is to be told of it.

One transaction loads the knowledge, lets the state machine say what follows, and commits both the new knowledge and
the outcomes; nothing is published that was not committed, and nothing committed goes unpublished (`worker.outbox`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar

import orjson
from sqlalchemy import Connection, Text, and_, bindparam, cast, false, func, insert, or_, select, update

from shared import metrics
from shared.database import Database, Work
from shared.event import Status
from shared.sealing import Sealer
from worker.assignment import Assignment, Call, Order, State, Step
from worker.outcomes import outcome_message
from worker.tables import assignments, outbox

_FIELDS: Final = tuple(field.name for field in fields(Assignment))
_HOUR: Final = 3600.0

T = TypeVar("T")
S = TypeVar("S", Step, Step | None)


@dataclass(frozen=True, slots=True)
class Load:
    """What a customer has taken: trips open now, and accepts sent in the last hour that were not lost."""

    open: int
    last_hour: int


Transition = Callable[[Assignment, Callable[[], Load], float], Step]


# Built once: putting a statement together costs more than running it.
_THIS: Final = (
    assignments.c.customer_id == bindparam("of_customer"),
    assignments.c.service_request_id == bindparam("of_request"),
)
_SELECT: Final = select(assignments).where(*_THIS).with_for_update()
_UPDATE: Final = update(assignments).where(*_THIS)
_INSERT: Final = insert(assignments)
_TELL: Final = insert(outbox)


class Ledger:
    """The store as the handlers see it. `environments` names each customer's VectorCare environment."""

    def __init__(self, database: Database, sealer: Sealer, environments: Mapping[str, str]) -> None:
        self._database = database
        self._sealer = sealer
        self._environments = environments

    async def step(self, customer_id: str, service_request_id: str, transition: Transition) -> Step:
        """Apply a transition of one assignment; durable when this returns. Unavailable where it can't be."""
        return await self._stepped(
            lambda connection, now: self._step(connection, customer_id, service_request_id, transition, now)
        )

    async def step_with(
        self, also: Work[bool], customer_id: str, service_request_id: str, transition: Transition
    ) -> None:
        """In one transaction, do `also`, and where that says True, apply the transition."""

        def work(connection: Connection, now: float) -> Step | None:
            if not also(connection, now):
                return None
            return self._step(connection, customer_id, service_request_id, transition, now)

        await self._stepped(work)

    async def transact(self, work: Work[T]) -> T:
        """A transaction that touches no assignment."""
        return await self._database.transact(work)

    def seal(self, body: bytes) -> bytes:
        """A body in the form in which the store keeps it."""
        return self._sealer.seal(body)

    def open(self, stored: bytes) -> bytes:
        """A stored body as it was; CannotOpen where its key is missing."""
        return self._sealer.open(stored)

    async def _stepped(self, work: Work[S]) -> S:
        step = await self._database.transact(work)
        if step is not None:
            for outcome in step.outcomes:
                metrics.OUTCOMES.labels(step.known.customer_id, outcome.state).inc()
        return step

    def _step(
        self,
        connection: Connection,
        customer_id: str,
        service_request_id: str,
        transition: Transition,
        now: float,
    ) -> Step:
        kept = self._load(connection, customer_id, service_request_id)
        known = kept or Assignment(customer_id, service_request_id)
        step = transition(known, lambda: _load_of(connection, known, now), now)
        self._save(connection, kept, known, step, now)
        return step

    def _load(self, connection: Connection, customer_id: str, service_request_id: str) -> Assignment | None:
        row = connection.execute(_SELECT, {"of_customer": customer_id, "of_request": service_request_id}).first()
        if row is None:
            return None
        values: dict[str, Any] = {name: getattr(row, name) for name in _FIELDS}
        values["state"] = State(row.state) if row.state else None
        values["newest"] = Order(*row.newest) if row.newest else None
        values["newest_status"] = Status(row.newest_status) if row.newest_status else None
        values["settled"] = Order(*row.settled) if row.settled else None
        values["intent_call"] = Call(row.intent_call) if row.intent_call else None
        values["request"] = orjson.loads(self._sealer.open(row.request)) if row.request is not None else None
        return Assignment(**values)

    def _save(
        self, connection: Connection, kept: Assignment | None, before: Assignment, step: Step, now: float
    ) -> None:
        known = step.known
        if known != before:
            values = self._values(kept, known) | {"updated_at": now}
            if kept is None:
                connection.execute(_INSERT, values)
            else:
                this = {"of_customer": known.customer_id, "of_request": known.service_request_id}
                connection.execute(_UPDATE, values | this)
        for outcome in step.outcomes:
            environment = self._environments.get(known.customer_id, "")
            message = outcome_message(known, outcome, environment, now)
            row = {
                "customer_id": known.customer_id,
                "service_request_id": known.service_request_id,
                "routing_key": message.routing_key,
                "headers": dict(message.headers),
                "body": self._sealer.seal(message.body),
                "claimed_until": 0.0,
            }
            connection.execute(_TELL, row)

    def _values(self, kept: Assignment | None, known: Assignment) -> dict[str, Any]:
        values = {name: getattr(known, name) for name in _FIELDS}
        if kept is not None and known.request is kept.request:
            del values["request"]
        elif known.request is not None:
            values["request"] = self._sealer.seal(orjson.dumps(known.request))
        return values


def _load_of(connection: Connection, known: Assignment, now: float) -> Load:
    """What the customer has, but for the request that is being decided."""
    table = assignments.c
    under_way = table.intent_call == Call.ACCEPT.value
    # An accept whose answer is not known counts until a person was told, or a webhook has settled it.
    told = and_(table.state == State.HELD.value, cast(table.settled, Text) == cast(table.newest, Text))
    unknown = and_(table.uncertain_since.is_not(None), ~func.coalesce(told, false()))
    open_now = or_(table.ours.is_(True), under_way, unknown)
    not_lost = or_(under_way, unknown, table.state.is_distinct_from(State.LOST.value))
    recent = and_(table.last_accept_at > now - _HOUR, not_lost)
    row = connection.execute(
        select(
            func.count().filter(open_now),
            func.count().filter(recent),
        ).where(table.customer_id == known.customer_id, table.service_request_id != known.service_request_id)
    ).one()
    return Load(row[0], row[1])
