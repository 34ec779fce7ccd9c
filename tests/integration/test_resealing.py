"""A key can be thrown away once everything that was sealed with it is sealed anew."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import LargeBinary, insert, inspect, select, update

from shared import queue_rows
from shared.broker import Message
from shared.database import Database
from shared.embedded import EmbeddedBroker
from shared.engine import Engine
from shared.postgresql import PostgreSQL
from shared.resealing import reseal, sealed_columns, under_which_keys
from shared.sealing import Sealer
from shared.topics import WEBHOOKS, topology
from tests.processes import command
from worker import app as workers
from worker.tables import assignments, outbox

OLD, NEW = os.urandom(32), os.urandom(32)
COLUMNS = sealed_columns(assignments.metadata)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    database: Database = (
        Engine(tmp_path / "receiver.db")
        if request.param == "sqlite"
        else PostgreSQL(request.getfixturevalue("postgres_url"), 4)
    )
    await workers.migrate(database)
    yield database
    await database.close()


def assignment(number: int, body: bytes | None) -> dict[str, object]:
    return {
        "customer_id": f"c{number % 3}", "service_request_id": f"VC-{number}", "revision": 1, "ours": False,
        "confirmed": False, "intent_deadline": 0.0, "not_before": 0.0, "updated_at": 0.0, "request": body,
    }  # fmt: skip


def outcome(number: int, body: bytes) -> dict[str, object]:
    return {"customer_id": "c", "service_request_id": f"VC-{number}", "routing_key": "k", "headers": {}, "body": body,
            "claimed_until": 0.0}  # fmt: skip


async def write(store: Database, sealer: Sealer, count: int) -> None:
    bodies = [f"body {number}".encode() for number in range(count)]
    rows = [assignment(number, sealer.seal(body)) for number, body in enumerate(bodies)]
    await store.transact(lambda connection, _: connection.execute(insert(assignments), rows).close())
    told = [outcome(number, sealer.seal(body)) for number, body in enumerate(bodies)]
    await store.transact(lambda connection, _: connection.execute(insert(outbox), told).close())


async def test_what_was_under_an_old_key_or_none_opens_with_the_new_one_alone_afterwards(store: Database) -> None:
    await write(store, Sealer([OLD]), 250)
    await store.transact(lambda connection, _: connection.execute(insert(assignments), assignment(900, None)).close())
    plain = outcome(901, Sealer().seal(b"body 901"))
    await store.transact(lambda connection, _: connection.execute(insert(outbox), plain).close())
    ring = Sealer([NEW, OLD])
    name, old = f"key {ring.prefix[1:].hex()}", f"key {Sealer([OLD]).prefix[1:].hex()}"
    assert await under_which_keys(store, COLUMNS) == {old: 500, "not sealed": 1}
    done: list[int] = []
    assert await reseal(store, COLUMNS, ring, done.append) == 0
    assert sum(done) == 501
    assert max(done) <= 100
    assert await under_which_keys(store, COLUMNS) == {name: 501}
    requests = await store.read(lambda connection: connection.execute(select(assignments)).all())
    alone = Sealer([NEW])
    for row in requests:
        number = row.service_request_id.removeprefix("VC-")
        assert number == "900" or alone.open(row.request) == f"body {number}".encode()
    for row in await store.read(lambda connection: connection.execute(select(outbox)).all()):
        assert alone.open(row.body) == f"body {row.service_request_id.removeprefix('VC-')}".encode()
    done.clear()
    assert await reseal(store, COLUMNS, ring, done.append) == 0
    assert done == []


async def test_a_body_whose_key_is_missing_is_left_alone_and_counted(store: Database) -> None:
    await write(store, Sealer([os.urandom(32)]), 120)
    before = await under_which_keys(store, COLUMNS)
    assert await reseal(store, COLUMNS, Sealer([NEW, OLD]), lambda _: None) == 240
    assert await under_which_keys(store, COLUMNS) == before


async def test_what_is_changed_meanwhile_keeps_its_newest_body(store: Database) -> None:
    await write(store, Sealer([OLD]), 300)
    ring = Sealer([NEW, OLD])

    async def change() -> None:
        for number in range(0, 300, 3):
            this = update(assignments).where(assignments.c.service_request_id == f"VC-{number}")
            body = ring.seal(f"newer {number}".encode())
            await store.transact(
                lambda connection, _, this=this, body=body: connection.execute(this.values(request=body)).close()  # type: ignore[misc]
            )

    await asyncio.gather(change(), reseal(store, COLUMNS, ring, lambda _: None))
    for row in await store.read(lambda connection: connection.execute(select(assignments)).all()):
        number = int(row.service_request_id.removeprefix("VC-"))
        expected = f"newer {number}" if number % 3 == 0 else f"body {number}"
        assert Sealer([NEW]).open(row.request) == expected.encode()


async def test_every_binary_column_that_the_migrations_made_is_known_as_sealed(store: Database) -> None:
    def binary(connection: object) -> set[tuple[str, str]]:
        inspector = inspect(connection)
        return {
            (table, column["name"])
            for table in inspector.get_table_names()
            for column in inspector.get_columns(table)
            if isinstance(column["type"], LargeBinary) or str(column["type"]) in ("BYTEA", "BLOB")
        }

    assert await store.read(binary) == {(each.table.name, each.column) for each in COLUMNS}


async def test_the_command_reseals_store_and_queue_and_its_exit_status_says_whether_the_old_key_can_go(
    tmp_path: Path,
) -> None:
    engine = Engine(tmp_path / "receiver.db")
    await workers.migrate(engine)
    await write(engine, Sealer([OLD]), 30)
    broker = await EmbeddedBroker.open(engine, Sealer([OLD]), topology())
    for _ in range(5):
        message = Message("BROADCAST_RECEIVED.AVAILABLE.acme", {}, b"queued")
        await broker.publish(WEBHOOKS, message, mandatory=True, timeout=5)
    for name, key in (("old", OLD), ("new", NEW)):
        (tmp_path / name).write_bytes(base64.b64encode(key))
        (tmp_path / name).chmod(0o600)
    only_new = {"RECEIVER_STORE__ENCRYPTION_KEY_FILES": '["new"]'}
    status, printed = await command("reseal", folder=tmp_path, variables=only_new)
    assert (status, "65 could not be opened" in printed) == (1, True), printed
    both = {"RECEIVER_STORE__ENCRYPTION_KEY_FILES": '["new", "old"]'}
    status, printed = await command("reseal", folder=tmp_path, variables=both)
    assert (status, "65 before, 0 now" in printed, "0 before, 65 now" in printed) == (0, True, True), printed
    rows = await engine.read(lambda connection: connection.execute(select(queue_rows.messages)).all())
    assert [Sealer([NEW]).open(row.body) for row in rows] == [b"queued"] * 5
    await broker.close()
    await engine.close()
    status, printed = await command("reseal", folder=tmp_path)
    assert (status, "store.encryption_key_files" in printed) == (2, True)
