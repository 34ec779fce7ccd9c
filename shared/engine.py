"""One SQLite file: a single writer thread, group commit, full fsync. It knows no domain.

All that wants the file hands its transaction to the thread. The thread takes whatever is waiting, gives each a
savepoint, and commits them together, so that a hundred waiting transactions cost one fsync. Several processes may open
the same file: every write transaction begins IMMEDIATE, so that readers-turned-writers never collide.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError

from shared.database import Work
from shared.errors import Unavailable
from shared.migration import upgrade

T = TypeVar("T")

_MOST_IN_A_COMMIT: Final = 256
_BUSY_SECONDS: Final = 5.0  # how long another process may hold the file before a transaction gives up


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    work: Work[T]
    reads_only: bool
    future: asyncio.Future[T]
    loop: asyncio.AbstractEventLoop


class Engine:
    """An open SQLite file. `transact` and `read` may be called from the event loop that is running."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._connection = _connect(path)
        self._thread = threading.Thread(target=self._run, name=f"sqlite {path.name}", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    async def migrate(self, package: str, version_table: str) -> tuple[str, ...]:
        """See `shared.database.Database`; under the file's write lock."""
        return await self.transact(lambda connection, _: upgrade(connection, package, version_table))

    async def transact(self, work: Work[T]) -> T:
        """See `shared.database.Database`."""
        return await self._submit(work, reads_only=False)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run a function that only reads; it takes no lock and costs no fsync."""
        return await self._submit(lambda connection, _: work(connection), reads_only=True)

    async def close(self) -> None:
        """Finish what is waiting and close the file; whatever comes later is Unavailable."""
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _submit(self, work: Work[T], *, reads_only: bool) -> T:
        if self._closed:
            raise Unavailable(f"{self._path.name} is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, reads_only, future, loop))
        return await future

    def _run(self) -> None:
        closing = False
        while not closing:
            jobs: list[_Job[Any]] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == _MOST_IN_A_COMMIT or self._jobs.empty():
                    break
                job = self._jobs.get()
            closing = job is None
            if jobs:
                _answer(jobs, _commit(self._connection, jobs))
        self._connection.close()
        self._connection.engine.dispose()


def _connect(path: Path) -> Connection:
    # Created here and not by SQLite, so that nobody else can read it for a moment; -wal and -shm take its mode.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise Unavailable(f"{path} can't be opened: {error.strerror}") from None
    engine = create_engine(
        f"sqlite:///{path}",
        isolation_level="AUTOCOMMIT",  # the writer thread says BEGIN and COMMIT itself
        connect_args={"check_same_thread": False, "timeout": _BUSY_SECONDS},
        hide_parameters=True,  # SQLAlchemy's errors would show bodies
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    try:
        return engine.connect()
    except DBAPIError as error:
        raise Unavailable(f"{path} can't be opened: {error.orig}") from None


def _commit(connection: Connection, jobs: list[_Job[Any]]) -> list[Any]:
    """Run the jobs in one transaction; a result or an exception for each."""
    begun = False
    try:
        if not all(job.reads_only for job in jobs):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            begun = True
        now = time.time()
        results = [_attempt(connection, job, now, inside=begun) for job in jobs]
        if begun:
            connection.exec_driver_sql("COMMIT")
    except DBAPIError as error:
        if begun:
            with contextlib.suppress(DBAPIError):  # SQLite has rolled back already where the disk is full
                connection.exec_driver_sql("ROLLBACK")
        return [Unavailable(f"the database did not commit: {error.orig}")] * len(jobs)
    return results


def _attempt(connection: Connection, job: _Job[Any], now: float, *, inside: bool) -> Any:
    if not inside:
        return _outcome(connection, job, now)
    connection.exec_driver_sql("SAVEPOINT job")
    result = _outcome(connection, job, now)
    if isinstance(result, BaseException):
        connection.exec_driver_sql("ROLLBACK TO job")
    connection.exec_driver_sql("RELEASE job")
    return result


def _outcome(connection: Connection, job: _Job[Any], now: float) -> Any:
    try:
        return job.work(connection, now)
    except DBAPIError as error:
        return Unavailable(f"the database refused: {error.orig}")
    except Exception as error:  # noqa: BLE001 - it is handed to whoever awaits this job, not hidden
        return error


def _answer(jobs: list[_Job[Any]], results: list[Any]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job[Any], Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        by_loop.setdefault(job.loop, []).append((job, result))
    for loop, answers in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: list[tuple[_Job[Any], Any]]) -> None:
    for job, result in answers:
        if job.future.done():
            continue
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
