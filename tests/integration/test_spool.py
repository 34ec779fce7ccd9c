"""The spool: 202 without a broker, one second for a hung one, everything forwarded in its order when it is back."""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingress.spool import QUEUE, Spool
from shared import topics
from shared.broker import Message
from shared.errors import Unavailable
from shared.rabbitmq import RabbitBroker
from shared.sealing import Sealer
from shared.topics import rfc3339, topology
from tests.brokers import Hands, emptied, until
from tests.rabbit_node import Node

MARK = b"MRS-CANARY-PATIENT"
MOST = 1 << 30


@contextlib.asynccontextmanager
async def connected(url: str, *, connects: bool = True) -> AsyncIterator[RabbitBroker]:
    broker = RabbitBroker([url], topology())
    try:
        if connects:
            await until(lambda: broker.problem is None, 10)
        yield broker
    finally:
        await broker.close()


@contextlib.asynccontextmanager
async def spooling(
    main: RabbitBroker, path: Path, most_bytes: int = MOST, sealer: Sealer | None = None
) -> AsyncIterator[Spool]:
    spool = await Spool.open(main, path, most_bytes, sealer or Sealer())
    try:
        yield spool
    finally:
        await spool.close()


async def send(spool: Spool, number: int, body: bytes = b"{}", timeout: float = 4.0) -> None:
    headers = {"ce-id": str(number), "ce-receivedtime": rfc3339(time.time() - 60)}
    await spool.publish(topics.WEBHOOKS, Message("A.AVAILABLE.acme", headers, body), mandatory=True, timeout=timeout)


async def came(hands: Hands, count: int) -> list[int]:
    """The numbers of so many different events, in the order in which each came first."""
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        delivery = await hands.next(30)
        numbers[int(delivery.message.headers["ce-id"])] = None
        await delivery.ack()
    return list(numbers)


def rows(path: Path) -> list[tuple[bytes, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT body FROM messages WHERE queue = ?", (QUEUE,)).fetchall()


async def test_without_a_broker_it_takes_webhooks_and_forwards_them_in_order_when_there_is_one(
    tmp_path: Path, mortal_rabbit: Node
) -> None:
    await asyncio.to_thread(mortal_rabbit.kill)
    path = tmp_path / "spool.db"
    async with connected(mortal_rabbit.url, connects=False) as main, spooling(main, path) as spool:
        began = time.monotonic()
        for number in range(200):
            await send(spool, number)
        assert time.monotonic() - began < 5
        assert spool.problem is None
        waits = "200 events wait for the broker, the oldest for 6"
        await until(lambda: spool.notes().get("spool", "").startswith(waits), 5)
        assert "webhooks are kept in the spool" in spool.notes()["broker"]
        assert len(rows(path)) == 200
        await asyncio.to_thread(mortal_rabbit.start)
        hands = Hands()
        await main.consume(topics.BROADCAST_RECEIVED, 1, hands)
        numbers = await came(hands, 200)
        assert numbers[0] == 0
        assert all(abs(at - number) < 64 for at, number in enumerate(numbers))  # confirms overlap a little
        await until(lambda: not rows(path), 10)
        await until(lambda: not spool.notes(), 10)


async def test_a_hung_broker_costs_one_second_once_and_an_event_that_came_meanwhile_is_forwarded_by_itself(
    tmp_path: Path, rabbit: Node
) -> None:
    await emptied(rabbit.url)
    async with connected(rabbit.url) as main, spooling(main, tmp_path / "spool.db") as spool:
        await send(spool, 0)
        assert not spool.notes()
        rabbit.pause()
        try:
            took = []
            for number in range(1, 30):
                began = time.monotonic()
                await send(spool, number)
                took.append(time.monotonic() - began)
        finally:
            rabbit.resume()
        assert 0.9 < took[0] < 1.5
        assert max(took[1:]) < 0.5
        hands = Hands()
        await main.consume(topics.BROADCAST_RECEIVED, 100, hands)
        assert set(await came(hands, 30)) == set(range(30))
        await until(lambda: spool.detour is None, 40)
        await send(spool, 30)
        await came(hands, 1)
        await until(lambda: not rows(tmp_path / "spool.db"), 10)


async def test_an_alarm_and_a_full_queue_end_in_the_spool_and_what_one_queue_refuses_holds_up_no_other(
    tmp_path: Path, rabbit: Node
) -> None:
    await emptied(rabbit.url)
    async with connected(rabbit.url) as main, spooling(main, tmp_path / "spool.db") as spool:
        rabbit.ctl("set_policy", "full", "^receiver.broadcast-received$", '{"max-length": 1}', "--apply-to", "queues")
        try:
            for number in range(300):  # a quorum queue refuses a little late
                await send(spool, number)
                if rows(tmp_path / "spool.db"):
                    break
            assert rows(tmp_path / "spool.db")
            hands = Hands()
            await main.consume(topics.LIFECYCLE, 10, hands)
            headers = {"ce-id": "1000"}
            ended = Message("A.UNAVAILABLE.acme", headers, b"{}")
            await spool.publish(topics.WEBHOOKS, ended, mandatory=True, timeout=4)
            assert await came(hands, 1) == [1000]
        finally:
            rabbit.ctl("clear_policy", "full")
        offers = Hands()
        await main.consume(topics.BROADCAST_RECEIVED, 100, offers)
        assert set(await came(offers, number + 1)) == set(range(number + 1))
        await until(lambda: not rows(tmp_path / "spool.db"), 20)


async def test_what_a_killed_process_left_behind_is_forwarded_by_the_next_and_shared_with_its_neighbour(
    tmp_path: Path, amqp_url: str
) -> None:
    await emptied(amqp_url)
    path = tmp_path / "spool.db"
    nowhere = "amqp://guest:guest@127.0.0.1:1/"
    async with connected(nowhere, connects=False) as dead, spooling(dead, path) as one, spooling(dead, path) as two:
        await asyncio.gather(*(send(one if number % 2 else two, number) for number in range(100)))
    assert len(rows(path)) == 100
    async with (
        connected(amqp_url) as main,
        connected(amqp_url) as other,
        spooling(main, path) as spool,
        spooling(other, path),
    ):
        hands = Hands()
        await main.consume(topics.BROADCAST_RECEIVED, 200, hands)
        await send(spool, 100)  # what is new does not wait for what is old
        assert set(await came(hands, 101)) == set(range(101))
        await until(lambda: not rows(path), 20)
        assert await hands.nothing(0.3)


async def test_a_full_spool_refuses_says_so_and_takes_again_once_it_was_emptied(tmp_path: Path, amqp_url: str) -> None:
    await emptied(amqp_url)
    path = tmp_path / "spool.db"
    nowhere = "amqp://guest:guest@127.0.0.1:1/"
    kept = 0
    async with connected(nowhere, connects=False) as dead, spooling(dead, path, 1 << 20) as spool:
        with pytest.raises(Unavailable, match="is full"):
            while True:
                await send(spool, kept, b"x" * 10_000)
                kept += 1
        assert 50 < kept < 105
        assert "neither the broker nor the spool" in (spool.problem or "")
    assert path.stat().st_size < 2 << 20
    async with connected(amqp_url) as main, spooling(main, path, 1 << 20) as spool:
        hands = Hands()
        await main.consume(topics.BROADCAST_RECEIVED, 200, hands)
        assert set(await came(hands, kept)) == set(range(kept))
        await until(lambda: not rows(path), 10)
    async with connected(nowhere, connects=False) as dead, spooling(dead, path, 1 << 20) as spool:
        for number in range(kept):
            await send(spool, number, b"x" * 10_000)
        assert spool.problem is None


async def test_bodies_in_the_spool_are_sealed_and_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    nowhere = "amqp://guest:guest@127.0.0.1:1/"
    sealer = Sealer([os.urandom(32)])
    async with connected(nowhere, connects=False) as dead, spooling(dead, path, sealer=sealer) as spool:
        await send(spool, 1, MARK)
        files = list(tmp_path.iterdir())
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        assert not any(MARK in file.read_bytes() for file in files)


async def test_a_spool_that_cannot_be_written_is_an_answer_in_time_and_not_a_hang(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    nowhere = "amqp://guest:guest@127.0.0.1:1/"
    async with connected(nowhere, connects=False) as dead, spooling(dead, path) as spool:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await send(spool, 1, timeout=1.0)
            assert time.monotonic() - began < 1.5
            assert spool.problem
            other.execute("ROLLBACK")
        await send(spool, 2, timeout=10.0)
        assert spool.problem is None
