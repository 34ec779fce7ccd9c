"""Moves a whole store from its SQLite file into an empty PostgreSQL: every table, in one transaction, counted."""

import sqlite3
from collections.abc import Callable
from typing import Final

from sqlalchemy import (
    Connection,
    MetaData,
    StaticPool,
    Table,
    create_engine,
    delete,
    func,
    insert,
    literal,
    select,
    text,
)

from shared.database import Database
from shared.errors import Unavailable
from worker.tables import assignments, told_head

_BATCH: Final = 500
_TABLES: Final[MetaData] = assignments.metadata


def rows_in(source: sqlite3.Connection) -> int:
    """How many rows the store's tables hold together."""
    counts = [source.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0] for table in _TABLES.sorted_tables]  # noqa: S608 - our own names
    return sum(counts)


async def move(source: sqlite3.Connection, target: Database, advance: Callable[[int], object]) -> dict[str, int]:
    """Copy every row; how many of each table. `source` is held alone and stays as it is; `target` is migrated.

    Unavailable where the target holds anything already, or a count differs; then nothing of it was kept.
    """
    engine = create_engine("sqlite://", creator=lambda: source, poolclass=StaticPool, hide_parameters=True)
    with engine.connect() as reading:
        return await target.transact(lambda connection, _: _copy(reading, connection, advance))


def _copy(source: Connection, target: Connection, advance: Callable[[int], object]) -> dict[str, int]:
    names = [table.name for table in _TABLES.sorted_tables]
    if target.dialect.name == "postgresql":  # a receiver that is started too early waits, and then finds all of it
        target.execute(text(f"LOCK TABLE {', '.join(names)} IN EXCLUSIVE MODE"))
    target.execute(delete(told_head).where(told_head.c.position == 0))  # the row that its migration has put there
    for table in _TABLES.sorted_tables:
        if target.execute(select(literal(1)).select_from(table).limit(1)).first() is not None:
            raise Unavailable(f"the target is not empty: there are rows in {table.name}")
    copied = {}
    for table in _TABLES.sorted_tables:
        for rows in source.execute(select(table)).mappings().partitions(_BATCH):
            target.execute(insert(table), [dict(row) for row in rows])
            advance(len(rows))
        counts = [each.execute(select(func.count()).select_from(table)).scalar_one() for each in (source, target)]
        if counts[0] != counts[1]:
            raise Unavailable(f"{table.name} has {counts[0]} rows here and {counts[1]} there; nothing was kept")
        copied[table.name] = counts[1]
        _go_on_counting(source, target, table)
    return copied


def _go_on_counting(source: Connection, target: Connection, table: Table) -> None:
    """The next id is above every one that was ever given, those of deleted rows too."""
    if "id" not in table.columns or target.dialect.name != "postgresql":
        return
    given = source.execute(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name}).scalar()
    if given:
        sequence = func.pg_get_serial_sequence(table.name, "id")
        target.execute(select(func.setval(sequence, given)))
