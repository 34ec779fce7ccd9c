"""Started without a broker, killed and started again, the receiver has lost no webhook that it answered 202."""

import asyncio
import os
import signal
import sqlite3
from pathlib import Path

import aiohttp
import orjson

from sandbox.server import Options, Sandbox
from tests.acceptance.test_rides import broadcast, taken
from tests.brokers import until
from tests.processes import Home, Process
from tests.rabbit_node import Node

RIDES = 30


async def readiness(home: Home) -> dict[str, object]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{home.admin_port}/healthz/ready") as response,
    ):
        found: dict[str, object] = orjson.loads(await response.read())
        return found


def spooled(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        count: int = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
    connection.close()
    return count


async def test_webhooks_that_came_while_the_broker_was_down_become_trips_when_it_is_back(
    tmp_path: Path, mortal_rabbit: Node
) -> None:
    await asyncio.to_thread(mortal_rabbit.kill)
    async with Sandbox(Options(seed=7)) as sandbox:
        home = Home(tmp_path, sandbox, broker=mortal_rabbit.url)
        home.customer("acme")
        home.write('[ingress.spool]\npath = "spool.db"\n')
        async with Process(home, "ingress") as process:
            await process.ready()
            requests = await broadcast(sandbox, RIDES, "acme")
            await until(lambda: len(sandbox.record.webhooks()) == RIDES, 20)
            await sandbox.idle(20)
            assert {attempt.response_code for attempt in sandbox.record.webhooks()} == {202}
            assert spooled(tmp_path / "spool.db") == RIDES
            async with asyncio.timeout(20):  # the notes are a second old at the most
                while f"{RIDES} events wait" not in str((health := await readiness(home))["notes"]):
                    await asyncio.sleep(0.1)
            assert health["ready"] is True
            os.kill(process.process.pid, signal.SIGKILL)
            await process.process.wait()
        await asyncio.to_thread(mortal_rabbit.start)
        async with Process(home, "run") as process:
            await process.ready()
            await until(lambda: len(taken(sandbox)) == RIDES, 30)
            await until(lambda: spooled(tmp_path / "spool.db") == 0, 10)
            assert taken(sandbox) == {("acme", each): 1 for each in requests}
            assert await process.terminate() == 0
            assert '"settled":"park"' not in process.log.read_text()
