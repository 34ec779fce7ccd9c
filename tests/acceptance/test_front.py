"""Several ingress processes behind one address: one is killed, the others are restarted, and no webhook is lost."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

from sandbox.server import Options, Sandbox
from tests.acceptance.test_rides import SOON, taken
from tests.brokers import emptied, until
from tests.processes import Home, Process, free_port

PER_SECOND, SECONDS = 25, 5


@contextlib.asynccontextmanager
async def one_address(ports: Sequence[int]) -> AsyncIterator[int]:
    """A balancer as plain as they come: by turns, and the next one where nobody listens."""
    turns = itertools.cycle(ports)
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in ports:
            try:
                back_reader, back_writer = await asyncio.open_connection("127.0.0.1", next(turns))
            except ConnectionError:
                continue
            for task in (pipe(reader, back_writer), pipe(back_reader, writer)):
                pipes.add(asyncio.create_task(task))
            return
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in pipes:
        task.cancel()
    await asyncio.gather(*pipes, return_exceptions=True)


class Front:
    """The ingress processes, each with ports of its own."""

    def __init__(self, home: Home, count: int, stack: contextlib.AsyncExitStack) -> None:
        self._home = home
        self._stack = stack
        self.ports = [free_port() for _ in range(count)]
        self._admin = [free_port() for _ in range(count)]
        self.processes: dict[int, Process] = {}

    async def start(self, number: int) -> None:
        """Start one, and wait until it is ready."""
        variables = {
            "RECEIVER_INGRESS__PORT": str(self.ports[number]),
            "RECEIVER_INGRESS__ADMIN_PORT": str(self._admin[number]),
        }
        process = Process(self._home, "ingress", variables=variables)
        self.processes[number] = await self._stack.enter_async_context(process)
        url = f"http://127.0.0.1:{self._admin[number]}/healthz/ready"
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.05)


async def test_with_one_ingress_killed_and_the_others_restarted_every_webhook_is_answered_and_none_is_lost(
    tmp_path: Path, amqp_url: str
) -> None:
    await emptied(amqp_url)
    async with Sandbox(Options(seed=6, attempt_delays=SOON)) as sandbox, contextlib.AsyncExitStack() as stack:
        home = Home(tmp_path, sandbox, broker=amqp_url)
        home.customer("acme")
        front = Front(home, 3, stack)
        await stack.enter_async_context(Process(home, "worker"))
        for number in range(3):
            await front.start(number)
        port = await stack.enter_async_context(one_address(front.ports))
        sandbox.set_webhook("acme", f"http://127.0.0.1:{port}/webhook?customer_id=acme")

        async def harm() -> None:
            await front.processes[0].kill()
            for number in (1, 2):
                assert await front.processes[number].terminate() == 0
                await front.start(number)

        requests = []
        harming = asyncio.create_task(harm())
        for _ in range(PER_SECOND * SECONDS):
            requests.append(sandbox.create_request("bls"))
            await sandbox.broadcast(requests[-1], ["acme"])
            await asyncio.sleep(1 / PER_SECOND)
        await harming
        await until(lambda: all(sandbox.requests[each].assigned_to == "acme" for each in requests), 60)
        await sandbox.idle(30)
        answered = {each.event_id for each in sandbox.record.webhooks() if each.response_code == 202}
        assert answered == {each.event_id for each in sandbox.record.webhooks()}
        assert set(taken(sandbox)) == {("acme", request) for request in requests}
        assert set(taken(sandbox).values()) == {1}
