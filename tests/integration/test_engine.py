"""The SQLite engine: what was told as done is durable, and one function's failure is its own."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from shared.engine import Engine
from shared.errors import Unavailable
from shared.sealing import CannotOpen, Sealer, parse_key
from worker import app as workers


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    each = Engine(tmp_path / "engine.db")
    await each.transact(lambda connection, _: connection.execute(text("CREATE TABLE t (n INTEGER)")).close())
    yield each
    await each.close()


def put(number: int) -> "Put":
    return Put(number)


class Put:
    """A transaction that writes a number, and fails for negative ones after it has written."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, connection: Connection, now: float) -> float:
        connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": self._number})
        if self._number < 0:
            raise KeyError("negative")
        return now


def numbers(connection: Connection) -> list[int]:
    return sorted(connection.scalars(text("SELECT n FROM t")))


async def test_a_function_that_fails_takes_its_changes_back_and_no_others_in_the_same_commit(engine: Engine) -> None:
    results = await asyncio.gather(*(engine.transact(put(n)) for n in (1, -2, 3, -4, 5)), return_exceptions=True)
    assert [type(result) for result in results] == [float, KeyError, float, KeyError, float]
    assert await engine.read(numbers) == [1, 3, 5]


async def test_transactions_that_wait_share_a_commit(engine: Engine) -> None:
    began = time.perf_counter()
    await asyncio.gather(*(engine.transact(put(n)) for n in range(2000)))
    together = (time.perf_counter() - began) / 2000
    began = time.perf_counter()
    for n in range(50):
        await engine.transact(put(n))
    assert together < (time.perf_counter() - began) / 50
    assert len(await engine.read(numbers)) == 2050


async def test_the_file_and_its_companions_are_readable_by_their_owner_alone(engine: Engine) -> None:
    await engine.transact(put(1))
    for file in engine.path.parent.glob("engine.db*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_an_error_of_the_database_holds_no_value(engine: Engine) -> None:
    def wrong(connection: Connection, _: float) -> None:
        connection.execute(text("INSERT INTO nowhere VALUES (:n)"), {"n": "MRS-CANARY"})

    with pytest.raises(Unavailable) as refused:
        await engine.transact(wrong)
    assert "MRS-CANARY" not in str(refused.value)


async def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "engine.db")
    await engine.close()
    with pytest.raises(Unavailable):
        await engine.read(lambda _: None)


async def test_a_file_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="can't be opened"):
        Engine(tmp_path / "no" / "such" / "folder.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(Unavailable):
        engine = Engine(tmp_path / "text.db")
        try:
            await workers.migrate(engine)
        finally:
            await engine.close()


async def test_a_file_that_another_process_holds_too_long_is_unavailable_and_then_free_again(engine: Engine) -> None:
    other = sqlite3.connect(engine.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await engine.transact(put(1))
    other.execute("ROLLBACK")
    other.close()
    await engine.transact(put(2))
    assert await engine.read(numbers) == [2]


def _write_until_killed(path: Path, told: str) -> None:
    async def write() -> None:
        engine = Engine(path)
        for number in range(1_000_000):
            await engine.transact(put(number))
            out.write(f"{number}\n".encode())

    with Path(told).open("ab", buffering=0) as out:
        asyncio.run(write())


async def test_what_was_told_as_committed_is_there_after_kill_9(engine: Engine, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.touch()
    process = multiprocessing.get_context("spawn").Process(target=_write_until_killed, args=(engine.path, str(told)))
    process.start()
    async with asyncio.timeout(20):
        while told.stat().st_size < 500:
            await asyncio.sleep(0.01)
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.to_thread(process.join)
    assert {int(line) for line in told.read_text().split()} <= set(await engine.read(numbers))


async def test_two_processes_that_migrate_the_same_file_at_once_both_succeed(tmp_path: Path) -> None:
    engines = [Engine(tmp_path / "receiver.db") for _ in range(4)]
    try:
        await asyncio.gather(*(workers.migrate(each) for each in engines))
        await workers.migrate(engines[0])
    finally:
        for each in engines:
            await each.close()


def test_a_sealed_body_opens_with_its_key_and_with_no_other() -> None:
    old, new = parse_key("A" * 43 + "="), parse_key("B" * 43 + "=")
    sealed = Sealer([old]).seal(b"a body")
    assert b"a body" not in sealed
    assert Sealer([new, old]).open(sealed) == b"a body"
    assert Sealer([new]).open(Sealer().seal(b"plain")) == b"plain"
    with pytest.raises(CannotOpen):
        Sealer([new]).open(sealed)
    with pytest.raises(CannotOpen):
        Sealer([old]).open(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(ValueError, match="openssl rand"):
        parse_key("too short")
