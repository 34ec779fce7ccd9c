"""Whether each trip that is ours has become a trip in the dispatch system: "no accepted trip without a trip there"."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, func, select, update

from shared.database import insert_if_absent
from worker.tables import acknowledgements

_ENDS: Final = frozenset({"released", "closed", "completed", "lost"})


@dataclass(frozen=True, slots=True)
class Missing:
    """A trip that nobody has acknowledged in time."""

    customer_id: str
    service_request_id: str


def acknowledge(
    connection: Connection, now: float, customer_id: str, service_request_id: str, trip_id: str, actor: str | None
) -> None:
    """The dispatch system has made a trip of it; a later one replaces an earlier."""
    mine = {"customer_id": customer_id, "service_request_id": service_request_id}
    insert_if_absent(connection, acknowledgements, mine)
    connection.execute(
        update(acknowledgements).filter_by(**mine).values(trip_id=trip_id, acknowledged_at=now, actor=actor)
    )


def told(
    connection: Connection, now: float, customer_id: str, service_request_id: str, state: str, within: float
) -> None:
    """An outcome was told: of an `assigned` an acknowledgement is wanted in `within` seconds, of an end none."""
    mine = {"customer_id": customer_id, "service_request_id": service_request_id}
    if state == "assigned":
        insert_if_absent(connection, acknowledgements, mine | {"due_at": now + within})
    elif state in _ENDS:
        connection.execute(delete(acknowledgements).filter_by(**mine))


def anything_new(connection: Connection) -> bool:
    """Whether `newly_missing` would find something; asked first, because reading costs no lock."""
    table = acknowledgements.c
    late = select(table.customer_id).where(
        table.acknowledged_at.is_(None), table.due_at <= time.time(), table.alarmed_at.is_(None)
    )
    return connection.execute(late.limit(1)).first() is not None


def newly_missing(connection: Connection, now: float) -> list[Missing]:
    """The trips whose time has run out since the last look; each is told once, whichever process looks."""
    table = acknowledgements.c
    rows = connection.execute(
        update(acknowledgements)
        .where(table.acknowledged_at.is_(None), table.due_at <= now, table.alarmed_at.is_(None))
        .values(alarmed_at=now)
        .returning(table.customer_id, table.service_request_id)
    )
    return [Missing(*row) for row in rows]


def missing(connection: Connection) -> dict[str, int]:
    """How many trips of each customer are overdue."""
    table = acknowledgements.c
    rows = connection.execute(
        select(table.customer_id, func.count())
        .where(table.acknowledged_at.is_(None), table.due_at <= time.time())
        .group_by(table.customer_id)
    )
    return dict(tuple(row) for row in rows)


def state_of(routing_key: str) -> str | None:
    """The state that an outcome's key names; None for a command's result."""
    kind, _, rest = routing_key.partition(".")
    return rest.partition(".")[0] if kind == "assignment" else None


def within(seconds: Iterable[float | None]) -> float | None:
    """The shortest of the times in which somebody must acknowledge."""
    return min((each for each in seconds if each is not None), default=None)
