"""The database port: a transaction is a plain function of a connection and the database's clock.

`shared.engine` keeps it on SQLite. The functions hold portable SQLAlchemy statements, so that the same ones run on
PostgreSQL through an adapter's `run_sync`.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
Work = Callable[[Connection, float], T]


class Database(Protocol):
    """Runs transactions; what `transact` returned is durable."""

    async def transact(self, work: Work[T]) -> T:
        """Run `work(connection, now)` in a transaction of its own and return its result once that is durable.

        `now` is Unix seconds by the database's clock. An exception of `work` rolls its changes back and comes out
        as it is; Unavailable where the database can't do it, in which case nothing of it was kept.
        """
