"""The database port: a transaction is a plain function of a connection and the database's clock.

`shared.engine` keeps it on a SQLite file, `shared.postgresql` on PostgreSQL; `tests/contract` holds both to one
behaviour. The functions hold portable SQLAlchemy statements, the same ones for both.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, Table, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
Work = Callable[[Connection, float], T]

_LOCK: Final = select(func.pg_advisory_xact_lock(bindparam("number")))


class Database(Protocol):
    """Runs transactions; what `transact` returned is durable."""

    async def transact(self, work: Work[T]) -> T:
        """Run `work(connection, now)` in a transaction of its own and return its result once that is durable.

        `now` is Unix seconds by the database's clock. An exception of `work` rolls its changes back and comes out
        as it is. Unavailable where the database can't do it within a few seconds: nothing of it was kept, or, if the
        connection was lost while it committed, all of it. `work` may be run again where the database had to undo it
        (a deadlock, a connection that died), so it has no other effect than on the connection.
        """

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a function that only reads; Unavailable where the database can't do it."""

    async def migrate(self, package: str, version_table: str) -> tuple[str, ...]:
        """Bring the tables of `package` (a folder of alembic migrations) up to date; the steps that were taken.
        Processes that start at the same moment wait for each other."""

    async def close(self) -> None:
        """Finish what is waiting and let go; whatever comes later is Unavailable."""


def insert_if_absent(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row whose key may be there already, in which case nothing happens."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(table).on_conflict_do_nothing(), dict(row))


def one_at_a_time(connection: Connection, what: str) -> None:
    """Until this transaction ends no other one that names `what` goes past this line, in any process.

    For statements that pick rows by what others have committed. A SQLite file has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
        connection.execute(_LOCK, {"number": number})
