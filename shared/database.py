"""The database port: a transaction is a plain function of a connection and the database's clock.

`shared.engine` keeps it on SQLite. The functions hold portable SQLAlchemy statements, so that the same ones run on
PostgreSQL through an adapter's `run_sync`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
Work = Callable[[Connection, float], T]


class Database(Protocol):
    """Runs transactions; what `transact` returned is durable."""

    async def transact(self, work: Work[T]) -> T:
        """Run `work(connection, now)` in a transaction of its own and return its result once that is durable.

        `now` is Unix seconds by the database's clock. An exception of `work` rolls its changes back and comes out
        as it is; Unavailable where the database can't do it, in which case nothing of it was kept.
        """

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a function that only reads; Unavailable where the database can't do it."""

    async def migrate(self, package: str, version_table: str) -> None:
        """Bring the tables of `package` (a folder of alembic migrations) up to date; processes that start at the same
        moment wait for each other."""

    async def close(self) -> None:
        """Finish what is waiting and let go; whatever comes later is Unavailable."""


def insert_if_absent(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row whose key may be there already, in which case nothing happens."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(dialect.insert(table).on_conflict_do_nothing(), dict(row))
