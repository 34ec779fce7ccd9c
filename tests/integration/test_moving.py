"""Moving house loses nothing: what is queued goes to RabbitMQ, the store to PostgreSQL."""

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from sqlalchemy import delete, insert, select, update

from shared import queue_rows
from shared.broker import Broker, Delivery, Message
from shared.embedded import EmbeddedBroker
from shared.engine import Engine
from shared.postgresql import PostgreSQL
from shared.sealing import Sealer
from shared.topics import (
    BROADCAST_ACCEPTED,
    BROADCAST_RECEIVED,
    DEAD_LETTERS,
    LIFECYCLE,
    OUTCOMES,
    WEBHOOKS,
    matches,
    topology,
)
from tests.brokers import SUBSCRIPTIONS, Hands, emptied, rabbitmq
from tests.integration.test_resealing import assignment, outcome
from tests.processes import command
from worker import app as workers
from worker.tables import (
    acknowledgements,
    assignments,
    audit,
    capacities,
    commands,
    customers,
    gaps,
    offers,
    outbox,
    parked,
    pushes,
    told_head,
)

CONFIGURATION = "".join(
    f'[[subscriptions]]\nname = "{name}"\npattern = "{pattern}"\n' for name, pattern in SUBSCRIPTIONS
)
KEYS = {
    BROADCAST_RECEIVED: "BROADCAST_RECEIVED.AVAILABLE.acme",
    BROADCAST_ACCEPTED: "BROADCAST_ACCEPTED.ASSIGNED.acme",
    LIFECYCLE: "CANCELED.UNAVAILABLE.acme",
    DEAD_LETTERS: "UNREADABLE.NONE.acme",
}


async def publish(broker: Broker, exchange: str, key: str, body: bytes, **headers: str) -> None:
    message = Message(key, {"ce-id": body.decode(), "ce-customerid": "acme", **headers}, body)
    await broker.publish(exchange, message, mandatory=True, timeout=10)


async def all_of(broker: Broker, queue: str, count: int) -> list[Delivery]:
    """So many deliveries of a queue, acknowledged."""
    hands = Hands()
    consumer = await broker.consume(queue, 500, hands)
    deliveries = [await hands.next() for _ in range(count)]
    assert await hands.nothing(0.3)
    for delivery in deliveries:
        await delivery.ack()
    await consumer.cancel()
    return deliveries


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "receiver.toml").write_text(CONFIGURATION)
    return tmp_path


async def soon(queue: aio_pika.abc.AbstractQueue) -> aio_pika.abc.AbstractIncomingMessage:
    """The next message: a quorum queue that is being formed may have it a moment later than its confirm."""
    async with asyncio.timeout(10):
        while (incoming := await queue.get(no_ack=True, fail=False)) is None:
            await asyncio.sleep(0.05)
    return incoming


async def test_each_queued_message_is_in_the_same_queue_of_rabbitmq_with_its_key_headers_attempts_and_delay(
    home: Path, amqp_url: str
) -> None:
    await emptied(amqp_url)
    engine = Engine(home / "receiver.db")
    source = await EmbeddedBroker.open(engine, Sealer(), topology(SUBSCRIPTIONS))
    for key in KEYS.values():
        for number in range(3):
            await publish(source, WEBHOOKS, key, f"{key} {number}".encode())
    for number in range(4):
        await publish(source, OUTCOMES, "assignment.assigned.acme", f"outcome {number}".encode(), **{"ce-subject": "V"})
    hands = Hands()
    consumer = await source.consume(LIFECYCLE, 10, hands)
    first, second, third = [await hands.next() for _ in range(3)]
    await consumer.cancel()
    await first.retry(0)
    await second.retry(6)
    await third.park("for-a-reason")
    due = time.time() + 6
    await source.close()
    await engine.close()

    status, printed = await command("move", "--from", "sqlite:receiver.db", "--to", amqp_url, folder=home)
    assert status == 0, printed
    assert "receiver.lifecycle: 2 moved, 0 left" in printed
    async with rabbitmq(amqp_url)() as broker:
        for queue in (BROADCAST_RECEIVED, BROADCAST_ACCEPTED):
            deliveries = await all_of(broker, queue, 3)
            assert {delivery.message.body for delivery in deliveries} == {
                f"{KEYS[queue]} {n}".encode() for n in range(3)
            }
            for delivery in deliveries:
                assert delivery.message.routing_key == KEYS[queue]
                expected = {"ce-id": delivery.message.body.decode(), "ce-customerid": "acme"}
                assert (delivery.message.headers, delivery.attempts) == (expected, 0)
        hands = Hands()
        await broker.consume(LIFECYCLE, 10, hands)
        at_once, later = await hands.next(), await hands.next(15)
        assert time.time() >= due - 0.1
        for delivery, original in ((at_once, first), (later, second)):
            assert (delivery.message, delivery.attempts) == (original.message, 1)
            await delivery.ack()
        dead = {delivery.message.body: delivery.message for delivery in await all_of(broker, DEAD_LETTERS, 4)}
        assert dead[third.message.body].headers["receiver-reason"] == "for-a-reason"
        assert dead[third.message.body].routing_key == KEYS[LIFECYCLE]
        assert dead[f"{KEYS[DEAD_LETTERS]} 0".encode()].routing_key == KEYS[DEAD_LETTERS]
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        for name in (name for name, pattern in SUBSCRIPTIONS if matches(pattern, "assignment.assigned.acme")):
            queue_there = await channel.get_queue(name, ensure=False)
            incoming = [await soon(queue_there) for _ in range(4)]
            assert [each.body for each in incoming] == [f"outcome {number}".encode() for number in range(4)]
            assert {each.routing_key for each in incoming} == {"assignment.assigned.acme"}
            for each in incoming:
                ours = {header for header in each.headers if not header.startswith("x-")}
                assert ours == {"ce-id", "ce-customerid", "ce-subject"}
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.get_exchange("receiver.move.dispatch", ensure=True)
    status, printed = await command("move", "--from", "sqlite:receiver.db", "--to", amqp_url, folder=home)
    assert (status, " moved" in printed) == (0, False), printed


async def test_a_move_that_is_killed_again_and_again_leaves_messages_twice_but_never_none(
    home: Path, amqp_url: str
) -> None:
    await emptied(amqp_url)
    engine = Engine(home / "receiver.db")
    source = await EmbeddedBroker.open(engine, Sealer(), topology(SUBSCRIPTIONS))
    bodies = [f"event {number}".encode() for number in range(1200)]
    await asyncio.gather(*(publish(source, WEBHOOKS, KEYS[BROADCAST_RECEIVED], body) for body in bodies))
    await source.close()
    arguments = ("move", "--from", "sqlite:receiver.db", "--to", amqp_url)

    def left() -> int:
        return sum(queue_rows_left(home / "receiver.db").values())

    for stop_at in (1000, 500):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli.main", *arguments, cwd=home, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(30):
            while left() > stop_at:
                await asyncio.sleep(0.01)
        process.kill()
        await process.wait()
        # The dead process's leases run out after a minute: sooner here.
        held = queue_rows.messages.c.receipt.is_not(None)
        freed = queue_rows.messages.update().where(held).values(visible_at=0.0)
        await engine.transact(lambda connection, _, freed=freed: connection.execute(freed).close())  # type: ignore[misc]
    assert 0 < left() < 1200
    status, printed = await command(*arguments, folder=home)
    assert (status, left()) == (0, 0), printed
    hands: Counter[bytes] = Counter()
    async with await aio_pika.connect(amqp_url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(BROADCAST_RECEIVED, ensure=False)
        while (incoming := await queue.get(no_ack=True, fail=False)) is not None:
            hands[incoming.body] += 1
    assert set(hands) == set(bodies)
    assert hands.total() < 1200 + 2 * 200 + 1
    await engine.close()


def queue_rows_left(path: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT queue, count(*) FROM messages GROUP BY queue").fetchall())


async def test_what_cannot_be_moved_stays_and_the_exit_status_says_so(home: Path, amqp_url: str) -> None:
    await emptied(amqp_url)
    engine = Engine(home / "receiver.db")
    other = (*SUBSCRIPTIONS, ("forgotten", "assignment.#"))
    source = await EmbeddedBroker.open(engine, Sealer([os.urandom(32)]), topology(other))
    await publish(source, OUTCOMES, "assignment.held.acme", b"an outcome")
    await source.close()
    await engine.close()
    status, printed = await command("move", "--from", "sqlite:receiver.db", "--to", amqp_url, folder=home)
    assert status == 1
    assert "dispatch: 0 moved, 1 left" in printed
    assert "1 could not be opened" in printed
    assert "forgotten is no queue of this configuration" in printed
    for arguments, code in (
        (("--from", "sqlite:nowhere.db", "--to", amqp_url), 1),
        (("--from", amqp_url, "--to", amqp_url), 2),
        (("--from", "sqlite:receiver.db", "--to", "sqlite:other.db"), 2),
        (("--from", "sqlite:receiver.db", "--to", "amqp://guest:canary@127.0.0.1:1/"), 1),
    ):
        status, printed = await command("move", *arguments, folder=home)
        assert (status, "canary" in printed) == (code, False), printed


async def filled(engine: Engine) -> dict[str, list[Any]]:
    """Rows in every table of the store, and what they are."""
    await workers.migrate(engine)
    rows: list[tuple[Any, list[dict[str, Any]]]] = [
        (assignments, [assignment(number, os.urandom(50)) for number in range(1200)]),
        (assignments, [assignment(2000, None) | {"newest": [1, "é"], "tags": {"a": None}, "other_leg_lost": True}]),
        (outbox, [outcome(number, os.urandom(50)) for number in range(700)]),
        (customers, [{"customer_id": "acme", "paused_at": 1.5, "refused_in_a_row": 3}]),
        (gaps, [{"customer_id": "acme", "service_request_id": "V", "kind": "k", "since": 1790000000.123456}]),
        (audit, [{"at": 1.0, "actor": "a", "deed": "d"}]),
        (offers, [{"customer_id": "a", "service_request_id": "V", "event_id": "e", "seen_at": 1.0, "mode": "m",
                   "verdict": "hold", "reason_code": "r", "facts": {"x": [1, None]}, "event": b"\x00\xff"}]),
        (parked, [{"fingerprint": "f", "reason": "r", "attempts": 1, "origin_queue": "q", "routing_key": "k",
                   "headers": {"h": "v"}, "body": b"", "first_parked_at": 1.0, "last_parked_at": 2.0}]),
        (commands, [{"customer_id": "acme", "id": "1", "command": "accept", "service_request_id": "V", "args": b"\x00",
                     "size": 1, "received_at": 1.0, "sort_at": 1.0, "state": "pending", "claimed_until": 0.0}]),
        (pushes, [{"subscription": "s", "position": 2**40, "customer_id": "a", "service_request_id": "V", "attempts": 0,
                   "since": 1.0, "due_at": 1.0, "claimed_until": 0.0}]),
        (acknowledgements, [{"customer_id": "a", "service_request_id": "V", "due_at": 1.0}]),
        (capacities, [{"customer_id": "a", "level": "bls", "units": 2, "said_at": 1.0}]),
    ]  # fmt: skip
    await engine.transact(lambda connection, _: connection.execute(update(told_head).values(position=2**40)).close())
    for table, values in rows:
        await engine.transact(
            lambda connection, _, table=table, values=values: connection.execute(insert(table), values).close()  # type: ignore[misc]
        )
    await engine.transact(lambda connection, _: connection.execute(delete(outbox).where(outbox.c.id > 650)).close())
    return {
        table.name: await engine.read(
            lambda connection, table=table: list(connection.execute(select(table).order_by(*table.primary_key)))  # type: ignore[misc]
        )
        for table in assignments.metadata.sorted_tables
    }


async def test_every_row_of_the_store_is_on_postgresql_afterwards_and_ids_go_on(home: Path, postgres_url: str) -> None:
    engine = Engine(home / "receiver.db")
    kept = await filled(engine)
    assert all(kept.values())
    status, printed = await command("move", "--from", "sqlite:receiver.db", "--to", postgres_url, folder=home)
    assert (status, "is in use: stop every receiver" in printed) == (1, True), printed
    await engine.close()
    status, printed = await command(
        "move", "--from", "sqlite:receiver.db", "--to", "store", folder=home,
        variables={"RECEIVER_STORE__URL": postgres_url},
    )  # fmt: skip
    assert (status, "assignments: 1201" in printed, "outbox: 650" in printed) == (0, True, True), printed
    store = PostgreSQL(postgres_url, 2)
    for table in assignments.metadata.sorted_tables:
        rows = await store.read(
            lambda connection, table=table: list(connection.execute(select(table).order_by(*table.primary_key)))  # type: ignore[misc]
        )
        assert sorted(map(tuple, rows), key=repr) == sorted(map(tuple, kept[table.name]), key=repr), table.name
    told = outcome(1, b"")
    next_id = await store.transact(
        lambda connection, _: connection.execute(insert(outbox).returning(outbox.c.id), told).scalar_one()
    )
    assert next_id == 701
    await store.close()
    status, printed = await command("move", "--from", "sqlite:receiver.db", "--to", postgres_url, folder=home)
    assert (status, "the target is not empty" in printed) == (1, True), printed
