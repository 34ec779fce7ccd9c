"""Brokers for the tests: the same suite opens either kind, empty, and opens it again with what was left in it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aio_pika

from shared.broker import Broker, Delivery, Message
from shared.embedded import EmbeddedBroker
from shared.engine import Engine
from shared.rabbitmq import RETRY_SECONDS, RabbitBroker, retry_queue
from shared.sealing import Sealer
from shared.topics import topology

SUBSCRIPTIONS = (
    ("dispatch", "assignment.#"),
    ("assigned-acme", "assignment.assigned.acme"),
    ("everything", "command.#"),
)
OpenBroker = Callable[[], AbstractAsyncContextManager[Broker]]


def embedded(path: Path, *, lease: float = 1.0, sealer: Sealer | None = None) -> OpenBroker:
    """Opens the embedded broker on this file."""

    @contextlib.asynccontextmanager
    async def open_it() -> AsyncIterator[Broker]:
        engine = Engine(path)
        broker = await EmbeddedBroker.open(engine, sealer or Sealer(), topology(SUBSCRIPTIONS), lease=lease)
        try:
            yield broker
        finally:
            await broker.close()
            await engine.close()

    return open_it


def rabbitmq(url: str) -> OpenBroker:
    """Opens RabbitMQ at this address."""

    @contextlib.asynccontextmanager
    async def open_it() -> AsyncIterator[Broker]:
        broker = RabbitBroker([url], topology(SUBSCRIPTIONS))
        try:
            await until(lambda: broker.problem is None, 10)
            yield broker
        finally:
            await broker.close()

    return open_it


async def emptied(url: str, *subscriptions: str) -> None:
    """Delete all that an earlier test declared, its subscriptions' queues too."""
    names = (
        [*subscriptions]
        + [queue.name for queue in topology(SUBSCRIPTIONS).queues]
        + [retry_queue(step) for step in RETRY_SECONDS]
    )
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for name in names:
            await channel.queue_delete(name)
        for name in (*topology().exchanges, *(retry_queue(step) for step in RETRY_SECONDS)):
            await channel.exchange_delete(name)


async def until(holds: Callable[[], Any], within: float) -> None:
    """Wait until something holds that nothing announces; TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.01)


class Hands:
    """A consumer's callback that keeps what it is handed, in order."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[Delivery] = asyncio.Queue()

    def __call__(self, delivery: Delivery) -> None:
        self._arrived.put_nowait(delivery)

    async def next(self, within: float = 10.0) -> Delivery:
        """The next delivery; TimeoutError where none comes."""
        async with asyncio.timeout(within):
            return await self._arrived.get()

    async def nothing(self, for_seconds: float) -> bool:
        """Whether nothing comes for so long."""
        try:
            await self.next(for_seconds)
        except TimeoutError:
            return True
        return False


def message(key: str = "BROADCAST_RECEIVED.AVAILABLE.acme", body: bytes = b"{}", **headers: str) -> Message:
    """A message to publish."""
    return Message(key, {"ce-id": "1", **headers}, body)
