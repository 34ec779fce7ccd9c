"""A backup is whole although others write meanwhile, and a store that was restored accepts nothing by itself."""

import asyncio
import contextlib
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select

from shared import files
from shared.engine import Engine
from shared.errors import Unavailable
from shared.postgresql import PostgreSQL
from tests.integration.test_resealing import assignment, outcome
from tests.processes import command
from worker import app as workers
from worker.restored import POSITIONS_AHEAD, REVISIONS_AHEAD, mark_restored
from worker.tables import assignments, audit, customers, outbox, told_head


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path / "receiver.db")
    await workers.migrate(engine)
    yield engine
    await engine.close()


def both(number: int) -> "Both":
    return Both(number)


class Both:
    """An assignment and its outcome, in one transaction."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, connection: Connection, _: float) -> None:
        connection.execute(insert(assignments), assignment(self._number, b"\x00" * 2000))
        connection.execute(insert(outbox), outcome(self._number, b"\x00"))


async def test_a_backup_taken_while_others_write_holds_each_transaction_whole_or_not_at_all(
    store: Engine, tmp_path: Path
) -> None:
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await store.transact(both(written))
            written += 1

    writing = asyncio.create_task(write())
    for copy in range(5):
        confirmed = written
        await asyncio.to_thread(files.copy, store.path, tmp_path / f"copy-{copy}")
        with contextlib.closing(sqlite3.connect(tmp_path / f"copy-{copy}")) as connection:
            kept = {row[0] for row in connection.execute("SELECT service_request_id FROM assignments")}
            told = {row[0] for row in connection.execute("SELECT service_request_id FROM outbox")}
        assert kept == told
        assert len(kept) >= confirmed
        assert stat.S_IMODE((tmp_path / f"copy-{copy}").stat().st_mode) == 0o600
    writing.cancel()
    await asyncio.wait([writing])
    assert written > 0
    assert not list(tmp_path.glob("*.part"))


async def test_a_backup_overwrites_nothing_and_leaves_nothing_half_done(store: Engine, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(Unavailable, match="is there already"):
        files.copy(store.path, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    (tmp_path / "text").write_text("no database, but long enough to be read as one" * 100)
    with pytest.raises(Unavailable, match="was not written"):
        files.copy(tmp_path / "text", tmp_path / "new")
    with pytest.raises(Unavailable, match="was not written"):
        files.copy(store.path, tmp_path / "no" / "folder")
    assert sorted(path.name for path in tmp_path.iterdir() if "receiver" not in path.name) == ["text", "there"]


async def test_a_restore_brings_back_the_backup_paused_and_puts_what_was_there_aside(
    store: Engine, tmp_path: Path
) -> None:
    await store.transact(both(1))
    status, printed = await command("backup", "copy.db", folder=tmp_path)
    assert (status, printed.startswith("copy.db: ")) == (0, True), printed
    await store.transact(both(2))
    status, printed = await command("restore", "copy.db", folder=tmp_path)
    assert (status, "stop every receiver process first" in printed) == (1, True), printed
    await store.close()
    status, printed = await command("restore", "copy.db", folder=tmp_path)
    assert (status, "resume --all" in printed) == (0, True), printed
    aside = [path for path in tmp_path.glob("receiver.db.*") if path.suffix not in (".db-wal", ".db-shm")]
    assert len(aside) == 1
    for path, requests in ((tmp_path / "receiver.db", {"VC-1"}), (aside[0], {"VC-1", "VC-2"})):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        engine = Engine(path)
        rows = await engine.read(lambda connection: connection.execute(select(assignments)).all())
        paused = await engine.read(lambda connection: connection.execute(select(customers)).all())
        head = await engine.read(lambda connection: connection.scalars(select(told_head.c.position)).one())
        await engine.close()
        assert head == (POSITIONS_AHEAD if path.name == "receiver.db" else 0)
        assert {row.service_request_id for row in rows} == requests
        if path.name == "receiver.db":
            assert [(row.customer_id, row.paused_by) for row in paused] == [("*", "restore")]
            assert [row.revision for row in rows] == [1 + REVISIONS_AHEAD]


async def test_what_is_no_backup_replaces_nothing(store: Engine, tmp_path: Path) -> None:
    await store.transact(both(1))
    await store.close()
    (tmp_path / "copy.db").write_text("no database, but long enough to be read as one" * 100)
    for name in ("copy.db", "nowhere.db"):
        status, printed = await command("restore", name, folder=tmp_path)
        assert (status, f"{name} can't be used" in printed) == (1, True), printed
    engine = Engine(tmp_path / "receiver.db")
    assert len(await engine.read(lambda connection: connection.execute(select(outbox)).all())) == 1
    await engine.close()


async def test_a_restored_postgresql_is_marked_alike_and_told_what_to_use(tmp_path: Path, postgres_url: str) -> None:
    variables = {"RECEIVER_STORE__URL": postgres_url}
    for call, says in ((("backup", "x"), "pg_dump"), (("restore", "x"), "pg_restore")):
        status, printed = await command(*call, folder=tmp_path, variables=variables)
        assert (status, says in printed) == (1, True), printed
    status, printed = await command("restore", folder=tmp_path, variables=variables)
    assert (status, "resume --all" in printed) == (0, True), printed
    store = PostgreSQL(postgres_url, 1)
    await store.transact(mark_restored)  # again: no harm
    rows = await store.read(lambda connection: connection.execute(select(customers)).all())
    assert [(row.customer_id, row.paused_by) for row in rows] == [("*", "restore")]
    assert await store.read(lambda connection: connection.execute(select(audit)).all()) == []
    await store.close()
