"""The house under test: RabbitMQ, a store, an ingress with its spool, two workers, VectorCare, a dispatch system."""

import asyncio
import contextlib
import re
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aio_pika
import aiohttp
import orjson
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from sandbox.server import Options, Sandbox
from shared import topics
from shared.broker import Message
from tests import postgres_server, rabbit_node, witness
from tests.chaos.judge import Told
from tests.processes import Home, Process
from tests.proxy import Proxy, in_front_of

CUSTOMERS: Final = ("acme", "birch", "cedar", "dogwood")
SOON: Final = (0.0, 2.0, 8.0)  # VectorCare's three attempts, sooner than its 8 and 64 s
_QUEUE: Final = "dispatch"
_SPOOLED: Final = re.compile(r"^receiver_spooled_total ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a house is built. `nodes`: 1, or a cluster. `proxied`: proxies stand between the product and the nodes."""

    nodes: int = 1
    proxied: bool = False
    postgres: bool = True
    spool_bytes: int = 1 << 30


@dataclass
class House:
    """What faults may touch."""

    plan: Plan
    home: Home
    sandbox: Sandbox
    nodes: list[rabbit_node.Node]
    proxies: list[Proxy]
    postgres: postgres_server.Server | None
    ingress: Process
    workers: list[Process]
    told: Told = field(default_factory=Told)
    spooled: float = 0.0
    malformed_sent: int = 0
    malformed_taken: int = 0
    _spooled_before: float = 0.0
    _reviving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def node(self) -> rabbit_node.Node:
        """The first node."""
        return self.nodes[0]

    async def revive(self, process: Process) -> None:
        """Start it once more after it has ended."""
        async with self._reviving:
            if process.process.returncode is not None:
                await process.__aenter__()

    async def supervise(self) -> None:
        """Start whatever has ended, as systemd or Kubernetes would: a worker that starts without its store gives up;
        until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            for process in (self.ingress, *self.workers):
                await self.revive(process)

    def limit_files(self, processes: list[Process], most: int) -> None:
        """Let no file of these processes grow beyond so many bytes: to them the disk is full."""
        for process in processes:
            _, hard = resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (most, hard))

    def parked(self) -> list[str]:
        """The reason of each parked event."""
        if self.postgres is not None:
            return self.postgres.sql("SELECT reason FROM parked").split("\n")[:-1]
        with contextlib.closing(sqlite3.connect(self.home.folder / "store.db", timeout=5)) as connection:
            return [row[0] for row in connection.execute("SELECT reason FROM parked")]

    def spool_depth(self) -> int:
        """How many events lie in the spool."""
        with contextlib.closing(sqlite3.connect(self.home.folder / "spool.db", timeout=5)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM messages").fetchone()
            return int(count)

    async def watch(self) -> None:
        """Count what was spooled, over the lives of the ingress; until cancelled."""
        url = f"http://127.0.0.1:{self.home.admin_port}/metrics"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url) as response:
                        found = _SPOOLED.search(await response.text())
                    now = float(found[1]) if found else 0.0
                    self.spooled += now - self._spooled_before if now >= self._spooled_before else now
                    self._spooled_before = now
                await asyncio.sleep(0.3)

    async def dispatch(self) -> None:
        """The dispatch system: takes outcomes by AMQP from whichever node answers; until cancelled."""

        async def take(incoming: AbstractIncomingMessage) -> None:
            headers = {name: str(value) for name, value in incoming.headers.items()}
            witness.message(topics.OUTCOMES, Message(incoming.routing_key or "", headers, incoming.body))
            self.told.note(orjson.loads(incoming.body))
            with contextlib.suppress(*CONNECTION_EXCEPTIONS):
                await incoming.ack()

        while True:
            for node in self.nodes:
                with contextlib.suppress(TimeoutError, OSError, *CONNECTION_EXCEPTIONS):
                    await _consume(node.url, take)
                await asyncio.sleep(0.3)


async def _consume(url: str, take: Callable[[AbstractIncomingMessage], Any]) -> None:
    """Until the connection is lost."""
    connection = aio_pika.Connection(aio_pika.connection.make_url(f"{url}?heartbeat=3"))
    lost = asyncio.Event()
    connection.close_callbacks.add(lambda *_: lost.set())
    try:
        async with asyncio.timeout(5):
            await connection.connect()
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=200)
            queue = await channel.get_queue(_QUEUE)
            await queue.consume(take)
        channel.close_callbacks.add(lambda *_: lost.set())
        await lost.wait()
    finally:
        closing = asyncio.ensure_future(connection.close())
        await asyncio.wait([closing], timeout=2)
        closing.cancel()


@contextlib.asynccontextmanager
async def standing(plan: Plan, folder: Path, *, seed: int = 0) -> AsyncIterator[House]:
    """A house for as long as the block lasts; everything is up and connected when it begins."""
    async with AsyncExitStack() as stack:
        nodes = await _entered(stack, _nodes(plan))
        postgres = await _entered(stack, postgres_server.running_server()) if plan.postgres else None
        proxies = [await stack.enter_async_context(in_front_of(node.url)) for node in nodes] if plan.proxied else []
        sandbox = await stack.enter_async_context(Sandbox(Options(seed=seed, attempt_delays=SOON)))
        urls = [each.url for each in proxies or nodes]
        store = postgres.url if postgres else "sqlite:store.db"
        home = Home(folder, sandbox, broker='", "'.join(urls), store=store)
        home._parts[2] = home._parts[2].replace('url = "', 'url = ["') + "]"
        for name in CUSTOMERS:
            home.customer(name)
        home.write(
            f'[ingress.spool]\npath = "spool.db"\nmax_bytes = {plan.spool_bytes}\n'
            f'[[subscriptions]]\nname = "{_QUEUE}"\npattern = "assignment.#"\n'
        )
        ingress = await stack.enter_async_context(Process(home, "ingress"))
        workers = [Process(home, "worker") for _ in range(2)]
        for number, worker in enumerate(workers):
            worker.log = folder / f"worker-{number}.log"
            await stack.enter_async_context(worker)
        await ingress.ready()
        for worker in workers:
            await worker.logged("started")
        house = House(plan, home, sandbox, nodes, proxies, postgres, ingress, workers)
        tasks = [asyncio.create_task(each) for each in (house.watch(), house.dispatch(), house.supervise())]
        try:
            yield house
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            if postgres is not None:
                await asyncio.to_thread(witness.database, postgres, postgres.url)
            for result in results:
                if isinstance(result, Exception):
                    raise result


async def _entered(stack: AsyncExitStack, context: contextlib.AbstractContextManager[Any]) -> Any:
    entered = await asyncio.to_thread(context.__enter__)
    stack.push_async_callback(asyncio.to_thread, context.__exit__, None, None, None)
    return entered


@contextlib.contextmanager
def _nodes(plan: Plan) -> Iterator[list[rabbit_node.Node]]:
    if plan.nodes > 1:
        with rabbit_node.running_cluster(plan.nodes) as nodes:
            yield nodes
    else:
        with rabbit_node.running_node() as node:
            yield [node]
