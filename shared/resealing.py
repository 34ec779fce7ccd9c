"""Seals stored bodies anew with the first key of the ring, so that an older key can be removed.

By convention every LargeBinary column of our tables holds sealed bodies, so there is no list of them to forget one in.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    MetaData,
    Table,
    bindparam,
    case,
    func,
    literal,
    select,
    tuple_,
    update,
)

from shared.database import Database
from shared.sealing import NAME_LENGTH, PLAIN, CannotOpen, Sealer

_BATCH: Final = 100  # small: on SQLite nobody else writes meanwhile


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column that holds sealed bodies."""

    table: Table
    column: str


def sealed_columns(metadata: MetaData) -> list[SealedColumn]:
    """Every column of these tables that holds sealed bodies."""
    return [
        SealedColumn(table, column.name)
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    ]


async def under_which_keys(database: Database, columns: Iterable[SealedColumn]) -> Counter[str]:
    """How many bodies are sealed with each key, by its name; `not sealed` for those that are stored as they came."""
    found: Counter[str] = Counter()
    for each in columns:
        rows = await database.read(lambda connection, each=each: _count(connection, each))  # type: ignore[misc]
        found.update(rows)
    return found


async def reseal(
    database: Database, columns: Iterable[SealedColumn], sealer: Sealer, advance: Callable[[int], object]
) -> int:
    """Seal anew what is not under the first key, in small transactions; how many could not be opened.

    Safe while the system runs, and begun again it goes on where it stopped: what is done is passed over.
    """
    unopened = 0
    for each in columns:
        after: tuple[Any, ...] | None = None
        while True:
            batch = await database.transact(
                lambda connection, _, each=each, after=after: _batch(connection, each, after, sealer)  # type: ignore[misc]
            )
            if batch is None:
                break
            after, looked_at, failed = batch
            unopened += failed
            advance(looked_at)
    return unopened


def _count(connection: Connection, each: SealedColumn) -> dict[str, int]:
    column = each.table.c[each.column]
    name = case((func.substr(column, 1, 1) == PLAIN, literal(PLAIN, LargeBinary)), else_=_prefix(column)).label("name")
    stored = select(name).where(column.is_not(None)).subquery()
    rows = connection.execute(select(stored.c.name, func.count()).group_by(stored.c.name)).all()
    return {_key_name(bytes(prefix)): count for prefix, count in rows}


def _batch(
    connection: Connection, each: SealedColumn, after: tuple[Any, ...] | None, sealer: Sealer
) -> tuple[tuple[Any, ...], int, int] | None:
    """The last key looked at, how many were, and how many of them could not be opened; None at the end."""
    keys = list(each.table.primary_key.columns)
    column = each.table.c[each.column]
    statement = (
        select(*keys, column)
        .where(column.is_not(None), _prefix(column) != bindparam("first", sealer.prefix, LargeBinary))
        .order_by(*keys)
        .limit(_BATCH)
        .with_for_update()
    )
    if after is not None:
        statement = statement.where(tuple_(*keys) > tuple_(*after))
    rows = connection.execute(statement).all()
    if not rows:
        return None
    sealed = []
    for row in rows:
        try:
            body = sealer.seal(sealer.open(row[-1]))
        except CannotOpen:
            continue
        sealed.append({f"of_{key.name}": value for key, value in zip(keys, row[:-1], strict=True)} | {"sealed": body})
    if sealed:
        mine = [key == bindparam(f"of_{key.name}") for key in keys]
        connection.execute(update(each.table).where(*mine).values({each.column: bindparam("sealed")}), sealed)
    return tuple(rows[-1][:-1]), len(rows), len(rows) - len(sealed)


def _prefix(column: ColumnElement[bytes]) -> ColumnElement[bytes]:
    return func.substr(column, 1, 1 + NAME_LENGTH, type_=LargeBinary)


def _key_name(prefix: bytes) -> str:
    return "not sealed" if prefix == PLAIN else f"key {prefix[1:].hex()}"
