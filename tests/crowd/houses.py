"""Receivers to be loaded: one process on SQLite, or an ingress and workers on RabbitMQ and PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from sandbox.load import Load, Wanted
from sandbox.server import Sandbox
from tests.acceptance.test_rides import Subscriber, subscribed, subscribed_by_amqp
from tests.brokers import embedded, emptied, until
from tests.processes import Home, Process

SMALL: Final = "SQLite"
LARGE: Final = "RabbitMQ and PostgreSQL"
BOTH: Final = (SMALL, LARGE)


@dataclass
class House:
    """What runs: `front` has the health, `workers` accept (in a small house they are one)."""

    home: Home
    stack: contextlib.AsyncExitStack
    roles: tuple[tuple[str, ...], ...]
    front: Process = field(init=False)
    workers: list[Process] = field(default_factory=list)

    async def start(self) -> None:
        """Until each takes deliveries."""
        if self.roles:
            self.front = await self.stack.enter_async_context(Process(self.home, "ingress"))
            await self.front.ready()
            for roles in self.roles:
                await self.open(roles)
        else:
            await self.open(())

    async def open(self, roles: tuple[str, ...]) -> None:
        """One more process that accepts, until it takes deliveries."""
        command = ("worker", *roles) if self.roles else ("run",)
        process = await self.stack.enter_async_context(Process(self.home, *command))
        before = process.log.read_text().count('"event":"started"')
        self.workers.append(process)
        if self.roles:
            await until(lambda: process.log.read_text().count('"event":"started"') > before, 30)
        else:
            self.front = process
            await process.ready()

    async def kill_and_start(self) -> None:
        """kill -9 of every process that accepts, and new ones in their places."""
        gone, self.workers = self.workers, []
        for process in gone:
            await process.kill()
        for roles in self.roles or ((),):
            await self.open(roles)

    def logs(self) -> str:
        """What those that accept wrote."""
        return "".join(path.read_text() for path in {worker.log for worker in self.workers})

    @contextlib.asynccontextmanager
    async def subscribed(self) -> AsyncIterator[Subscriber]:
        """A subscriber of the outcomes, from outside."""
        if self.roles:
            async with subscribed_by_amqp(self.broker) as subscriber:
                yield subscriber
        else:
            async with embedded(self.home.folder / "receiver.db")() as broker, subscribed(broker) as subscriber:
                yield subscriber

    @property
    def broker(self) -> str:
        """The broker's address."""
        return self.home.broker


async def built(
    kind: str,
    request: pytest.FixtureRequest,
    folder: Path,
    sandbox: Sandbox,
    stack: contextlib.AsyncExitStack,
    customers: Callable[[Home], None],
    roles: tuple[tuple[str, ...], ...] = ((), ()),
) -> House:
    """A running house of this kind; `customers` writes them into its configuration."""
    if kind == SMALL:
        home = Home(folder, sandbox)
        roles = ()
    else:
        url = request.getfixturevalue("amqp_url")
        await emptied(url)
        home = Home(folder, sandbox, broker=url, store=request.getfixturevalue("postgres_url"))
    customers(home)
    house = House(home, stack, roles)
    await house.start()
    return house


@contextlib.asynccontextmanager
async def loaded(sandbox: Sandbox, rates: dict[str, float], seconds: float = 600.0) -> AsyncIterator[list[Load]]:
    """Offers at these rates to each customer while the block runs, or for so long; `ended` waits for that."""
    loads = [Load(sandbox.market, Wanted(rate, seconds, (customer,), "bls")) for customer, rate in rates.items()]
    running = [asyncio.create_task(load.run()) for load in loads]
    try:
        yield loads
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
