"""The store on PostgreSQL, for workers on many machines: SQLAlchemy on asyncpg, a bounded pool, hard deadlines.

The plain functions of `shared.database` run by `run_sync`. A transaction's first statement asks for the clock, which
also finds out whether the connection is still good, so that none has to be tried first. A transaction is never
cancelled but has its connection torn down: asyncpg would ask a server that hangs to cancel, and wait for it.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

import asyncpg
from sqlalchemy import Connection, Float, NullPool, cast, extract, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shared.database import Work, one_at_a_time
from shared.errors import Unavailable
from shared.migration import upgrade

T = TypeVar("T")

SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 3.0
_CLOSE_SECONDS: Final = 2.0
_MIGRATE_SECONDS: Final = 600.0
_ATTEMPTS: Final = 3  # of a transaction that the database undid: a deadlock, a dead connection, a stale plan
_AGAIN_SECONDS: Final = 0.05  # at most, until the next attempt
_UNDONE: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock

_MIGRATION_LIMITS: Final = {"application_name": "vectorcare-receiver migrate", "lock_timeout": "60s"}
_CLOCK: Final = select(cast(extract("epoch", func.clock_timestamp()), Float))

_SENTENCES: Final = {
    "28P01": "refused the user or the password",
    "28000": "lets this user not in from here (pg_hba.conf)",
    "3D000": "has no such database",
    "53300": "has no connection left (max_connections)",
    "57P03": "is starting up or shutting down",
    "42501": "does not permit this to the user",
    "53100": "has no space left on its disk",
    "25006": "is read-only",
    "55P03": "held a lock for too long",
    "57014": "did not finish in time",
}


class _Attempt:
    """One transaction under way: what must be torn down when its time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.driver: asyncpg.Connection | None = None
        self.late = False
        self.committing = False

    def tear_down(self, task: asyncio.Task[Any]) -> None:
        self.late = True
        if self.driver is None:
            task.cancel()  # it waits for a connection: there is nothing to undo
        else:
            self.driver.terminate()


class PostgreSQL:
    """The database port on PostgreSQL. Nothing is connected until it is used; it is used from one event loop.

    `seconds` is what a transaction may take, its wait for one of the `connections` included.
    """

    def __init__(self, url: str, connections: int, *, seconds: float = SECONDS) -> None:
        self._url = url
        self._seconds = seconds
        self._open: set[asyncpg.Connection] = set()
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=seconds,
            pool_use_lifo=True,  # few connections while little is to be done
            hide_parameters=True,  # SQLAlchemy's errors would show bodies
        )
        self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def __repr__(self) -> str:
        return "PostgreSQL(...)"  # the address holds a password

    async def transact(self, work: Work[T]) -> T:
        """See `shared.database.Database`."""
        return await self._in_time(self._engine, lambda connection, mine: _transaction(connection, work, mine))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See `shared.database.Database`."""
        return await self._in_time(self._reading, lambda connection, _: work(connection))

    async def migrate(self, package: str, version_table: str) -> tuple[str, ...]:
        """See `shared.database.Database`; under an advisory lock, in a thread because alembic is not to be shared."""
        return await asyncio.to_thread(asyncio.run, _migrated(self._url, package, version_table))

    async def close(self) -> None:
        """See `shared.database.Database`."""
        self._closed = True
        if self._running:
            await asyncio.wait(self._running, timeout=self._seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._engine.dispose()
        for each in tuple(self._open):
            each.terminate()

    async def _connect(self) -> asyncpg.Connection:
        connection = await _connect(self._url, _limits(self._seconds))
        self._open.add(connection)
        connection.add_termination_listener(self._open.discard)
        return connection

    async def _in_time(self, engine: AsyncEngine, run: Callable[[Connection, _Attempt], T]) -> T:
        """Run to the end or to the deadline, whichever comes first; also where the caller no longer waits."""
        if self._closed:
            raise Unavailable("the store is closed")
        mine = _Attempt(self._seconds)
        task = asyncio.create_task(_attempts(engine, run, mine))
        self._running.add(task)
        deadline = asyncio.get_running_loop().call_later(self._seconds, mine.tear_down, task)

        def ended(task: asyncio.Task[Any]) -> None:
            deadline.cancel()
            self._running.discard(task)
            if not task.cancelled():
                task.exception()  # seen, although the caller may be gone

        task.add_done_callback(ended)
        return await asyncio.shield(task)


async def _attempts(engine: AsyncEngine, run: Callable[[Connection, _Attempt], T], mine: _Attempt) -> T:
    left = _ATTEMPTS
    while True:
        left -= 1
        try:
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                mine.driver = raw.driver_connection
                return await connection.run_sync(run, mine)
        except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, NoConnectionFree) as error:
            if mine.late or left == 0 or not _may_run_again(error, mine):
                raise _unavailable(error, mine) from None
            await asyncio.sleep(random.uniform(0, _AGAIN_SECONDS))  # noqa: S311 - those that collided must not again
        except asyncio.CancelledError:
            if mine.late:
                raise Unavailable(f"PostgreSQL did not answer within {mine.seconds:g} s") from None
            raise
        finally:
            mine.driver = None


def _transaction(connection: Connection, work: Work[T], mine: _Attempt) -> T:
    mine.committing = False
    now = connection.execute(_CLOCK).scalar_one()
    result = work(connection, now)
    mine.committing = True
    connection.commit()
    return result


def _may_run_again(error: Exception, mine: _Attempt) -> bool:
    """Whether it is known that nothing was kept, and another attempt may fare better at once."""
    if not isinstance(error, DBAPIError):
        return False  # it could not connect
    if _code(error) in _UNDONE or "InvalidCachedStatement" in type(error.orig).__name__:
        return True
    return error.connection_invalidated and not mine.committing


def _code(error: BaseException) -> str | None:
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def _unavailable(error: Exception, mine: _Attempt) -> Unavailable:
    """In words of our own: PostgreSQL's may repeat values."""
    code = _code(error)
    if code in _SENTENCES:
        return Unavailable(f"PostgreSQL {_SENTENCES[code]} ({code})")
    if mine.late or isinstance(error, TimeoutError | NoConnectionFree):
        return Unavailable(f"PostgreSQL did not answer within {mine.seconds if mine.late else _CONNECT_SECONDS:g} s")
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return Unavailable("the connection to PostgreSQL was lost")
        cause = type(error.orig.__cause__ or error.orig).__name__ if error.orig else "an error"
        return Unavailable(f"PostgreSQL refused: {cause} ({code})")
    if isinstance(error, OSError):
        return Unavailable(f"PostgreSQL can't be reached: {error.strerror or type(error).__name__}")
    return Unavailable(f"PostgreSQL can't be used: {type(error).__name__}")


def _limits(seconds: float) -> dict[str, str]:
    """The server ends what a client left behind: a process that froze must not hold its rows for ever."""
    return {
        "application_name": "vectorcare-receiver",
        "lock_timeout": f"{seconds * 0.8 * 1000:.0f}ms",
        "statement_timeout": f"{seconds * 1000:.0f}ms",
        "idle_in_transaction_session_timeout": f"{seconds * 2 * 1000:.0f}ms",
    }


async def _connect(url: str, limits: dict[str, str]) -> asyncpg.Connection:
    return await asyncpg.connect(url, timeout=_CONNECT_SECONDS, server_settings=limits)


async def _migrated(url: str, package: str, version_table: str) -> tuple[str, ...]:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: _connect(url, _MIGRATION_LIMITS),
        poolclass=NullPool,
        hide_parameters=True,
    )

    def migrate(connection: Connection) -> tuple[str, ...]:
        one_at_a_time(connection, f"migrate {version_table}")
        return upgrade(connection, package, version_table)

    try:
        async with asyncio.timeout(_MIGRATE_SECONDS), engine.begin() as connection:
            return await connection.run_sync(migrate)
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise _unavailable(error, _Attempt(_MIGRATE_SECONDS)) from None
    finally:
        await engine.dispose()
