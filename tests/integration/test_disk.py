"""A disk that is full or read-only, and a process without file handles: a clear answer, no damage, and on it goes."""

import contextlib
import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Connection, text

from shared import files, logs
from shared.engine import Engine
from shared.errors import Unavailable
from shared.postgresql import PostgreSQL
from worker import app as workers

_BODY = b"x" * 20_000
_NOBODY = 65534


@contextlib.contextmanager
def limited(what: int, soft: int) -> Iterator[None]:
    """A soft limit of this process for as long as the block lasts."""
    before, hard = resource.getrlimit(what)
    resource.setrlimit(what, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (before, hard))


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to write everywhere."""
    if os.getuid():
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def put(number: int) -> "Put":
    return Put(number)


class Put:
    """A transaction that writes a number with a body."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, connection: Connection, _: float) -> None:
        connection.execute(text("INSERT INTO t VALUES (:n, :body)"), {"n": self._number, "body": _BODY})


def numbers(connection: Connection) -> set[int]:
    return set(connection.scalars(text("SELECT n FROM t")))


async def test_a_full_disk_refuses_what_it_cannot_keep_damages_nothing_and_is_used_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    engine = Engine(tmp_path / "store.db")
    await engine.transact(
        lambda connection, _: connection.execute(text("CREATE TABLE t (n INTEGER, body BLOB)")).close()
    )
    confirmed: set[int] = set()
    refused: set[int] = set()
    with limited(resource.RLIMIT_FSIZE, 500_000):
        for number in range(60):
            try:
                await engine.transact(put(number))
                confirmed.add(number)
            except Unavailable as error:
                assert "the database" in str(error)
                refused.add(number)
        assert confirmed
        assert refused
        assert await engine.read(numbers) == confirmed
    await engine.transact(put(1000))
    assert await engine.read(numbers) == confirmed | {1000}
    await engine.close()
    files.check(tmp_path / "store.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        assert {row[0] for row in connection.execute("SELECT n FROM t")} == confirmed | {1000}


def test_a_log_that_cannot_be_written_loses_its_lines_stops_nothing_and_is_written_again_when_there_is_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        logs.configure(stream)
        log = structlog.get_logger("test")
        with limited(resource.RLIMIT_FSIZE, 1000):
            for number in range(100):
                log.info("filling", number=number)
        log.info("room_again")
    assert path.read_text().count("filling") < 99
    assert "room_again" in path.read_text()


async def test_a_backup_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "store.db")
    await engine.transact(
        lambda connection, _: connection.execute(text("CREATE TABLE t (n INTEGER, body BLOB)")).close()
    )
    for number in range(20):
        await engine.transact(put(number))
    with limited(resource.RLIMIT_FSIZE, 100_000), pytest.raises(Unavailable, match="was not written"):
        files.copy(tmp_path / "store.db", tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db*"))
    await engine.close()


async def test_a_file_or_a_folder_that_may_not_be_written_says_so(public: Path) -> None:
    (public / "store.db").touch(mode=0o644)
    with as_nobody(), pytest.raises(Unavailable, match=r"store\.db can't be opened: Permission denied"):
        Engine(public / "store.db")
    (public / "store.db").chmod(0o666)
    public.chmod(0o755)
    with (
        as_nobody(),
        pytest.raises(Unavailable, match=r"store\.db can't be opened: attempt to write a readonly database"),
    ):
        Engine(public / "store.db")  # its log can't be put beside it
    public.chmod(0o777)
    with as_nobody():
        engine = Engine(public / "store.db")
        await workers.migrate(engine)
        await engine.close()


async def test_without_file_handles_what_is_open_goes_on_and_what_is_not_says_so(
    tmp_path: Path, postgres_url: str
) -> None:
    engine = Engine(tmp_path / "store.db")
    await engine.transact(
        lambda connection, _: connection.execute(text("CREATE TABLE t (n INTEGER, body BLOB)")).close()
    )
    store = PostgreSQL(postgres_url, 2)
    other = tmp_path / "other.db"
    with (
        limited(resource.RLIMIT_NOFILE, max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1),
        _all_taken(),
    ):
        await engine.transact(put(1))
        with pytest.raises(Unavailable, match="Too many open files"):
            Engine(other)
        with pytest.raises(Unavailable, match="PostgreSQL can't be"):
            await store.transact(lambda _, now: now)
    await store.transact(lambda _, now: now)
    assert await engine.read(numbers) == {1}
    await store.close()
    await engine.close()


@contextlib.contextmanager
def _all_taken() -> Iterator[None]:
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for each in taken:
            os.close(each)
