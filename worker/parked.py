"""The parked events as a person works on them: found, shown, taken away; plain functions of a connection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, and_, delete, select

from worker.tables import parked


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked event without its body; no PHI in it. Times are Unix seconds."""

    id: int
    customer_id: str | None
    service_request_id: str | None
    reason: str
    attempts: int
    origin_queue: str
    routing_key: str
    headers: Mapping[str, str] = field(repr=False)
    first_parked_at: float
    last_parked_at: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of them: all, less what each filter leaves out. `before` is about when it was parked first."""

    customer: str | None = None
    reason: str | None = None
    before: float | None = None


_PARKED: Final = [column for column in parked.c if column.name not in {"body", "fingerprint"}]


def found(connection: Connection, wanted: Wanted) -> list[Parked]:
    """Those that were parked first come first."""
    statement = select(*_PARKED).order_by(parked.c.first_parked_at, parked.c.id)
    if wanted.customer is not None:
        statement = statement.where(parked.c.customer_id == wanted.customer)
    if wanted.reason is not None:
        statement = statement.where(parked.c.reason == wanted.reason)
    if wanted.before is not None:
        statement = statement.where(parked.c.first_parked_at < wanted.before)
    return [_parked(row) for row in connection.execute(statement).mappings()]


def one(connection: Connection, parked_id: int) -> Parked | None:
    """The parked event of this id; None where there is none."""
    row = connection.execute(select(*_PARKED).where(parked.c.id == parked_id)).mappings().first()
    return None if row is None else _parked(row)


def sealed_body(connection: Connection, parked_id: int) -> bytes | None:
    """Its body (PHI), as the store keeps it; None where it is gone."""
    return connection.execute(select(parked.c.body).where(parked.c.id == parked_id)).scalar_one_or_none()


def remove(connection: Connection, event: Parked) -> bool:
    """Take it away; False where it is gone, or was parked again since it was read, and stays."""
    same = and_(parked.c.id == event.id, parked.c.last_parked_at == event.last_parked_at)
    return connection.execute(delete(parked).where(same)).rowcount > 0


def _parked(row: Mapping[Any, Any]) -> Parked:
    return Parked(**{str(name): value for name, value in row.items()})
