"""A dispatch system over AMQP that may be killed at any moment: a process of its own, with a file for what it knows.

Run as `python -m tests.acceptance.amqp_cad`. Of each assignment it makes a trip, acknowledges it and drives it; a
message is acknowledged to RabbitMQ once the file has it and the commands are confirmed: what was not comes again.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aio_pika
import orjson
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from tests.acceptance.cad import STATES

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS heard (exchange TEXT, key TEXT, headers TEXT, body BLOB);
CREATE TABLE IF NOT EXISTS trips (request TEXT PRIMARY KEY, revision INTEGER, state TEXT);
CREATE TABLE IF NOT EXISTS results (id TEXT PRIMARY KEY, result TEXT, body BLOB);
"""
_AGAIN_SECONDS: Final = 0.2


class File:
    """What it knows; survives kill -9."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=10)
        self._database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {_TABLES}")

    def knows(self, told: dict[str, Any]) -> bool:
        """Whether it has this of the trip, or something newer."""
        row = self._database.execute("SELECT revision FROM trips WHERE request = ?", (told["service_request_id"],))
        found = row.fetchone()
        return found is not None and found[0] >= told["revision"]

    def keep(self, incoming: AbstractIncomingMessage, told: dict[str, Any]) -> None:
        """All of a message, at once."""
        headers = orjson.dumps({name: str(value) for name, value in incoming.headers.items()})
        heard = (incoming.exchange, incoming.routing_key, headers, incoming.body)
        with self._database as transaction:
            transaction.execute("INSERT INTO heard VALUES (?, ?, ?, ?)", heard)
            if told["schema"] == "assignment/1":
                trip = (told["service_request_id"], told["revision"], told["state"])
                transaction.execute("INSERT OR REPLACE INTO trips VALUES (?, ?, ?)", trip)
            else:
                result = (told["id"], told["result"], incoming.body)
                transaction.execute("INSERT OR IGNORE INTO results VALUES (?, ?, ?)", result)


async def main(url: str, path: Path) -> None:
    """Work until killed; a connection that is lost is made anew."""
    file = File(path)
    while True:
        with contextlib.suppress(OSError, TimeoutError, *CONNECTION_EXCEPTIONS):
            await _work(url, file)
        await asyncio.sleep(_AGAIN_SECONDS)


async def _work(url: str, file: File) -> None:
    connection = aio_pika.Connection(aio_pika.connection.make_url(f"{url}?heartbeat=3"))
    arrived: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
    connection.close_callbacks.add(lambda *_: arrived.put_nowait(None))
    try:
        async with asyncio.timeout(5):
            await connection.connect()
            channel = await connection.channel(on_return_raises=True)
            channel.close_callbacks.add(lambda *_: arrived.put_nowait(None))
            await channel.set_qos(prefetch_count=20)
            commands = await channel.get_exchange("dispatch.commands")
            await (await channel.get_queue("cad")).consume(arrived.put)
        while (incoming := await arrived.get()) is not None:
            async with asyncio.timeout(10):
                await _take(incoming, commands, file)
    finally:
        closing = asyncio.ensure_future(connection.close())
        await asyncio.wait([closing], timeout=1)
        closing.cancel()


async def _take(incoming: AbstractIncomingMessage, exchange: AbstractExchange, file: File) -> None:
    told = orjson.loads(incoming.body)
    if told["schema"] != "assignment/1" or not file.knows(told):
        for command in _commands(told):
            await exchange.publish(
                aio_pika.Message(orjson.dumps(command), delivery_mode=2),
                f"{command['command']}.{command['customer_id']}",
                timeout=5,
            )
        file.keep(incoming, told)
    await incoming.ack()


def _commands(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same whenever they are asked for."""
    if told["schema"] != "assignment/1" or told["state"] != "assigned" or not told["confirmed"]:
        return
    request = told["service_request_id"]
    steps: list[tuple[str, str, dict[str, Any]]] = [("acknowledge", "", {"trip_id": f"trip-{request}"})]
    began = datetime.fromisoformat(told["occurred_at"]) - timedelta(minutes=10)
    for number, name in enumerate(STATES):
        at = (began + timedelta(minutes=number)).isoformat(timespec="milliseconds")
        steps.append(("state", name, {"name": name, "timestamp": at}))
    for word, mark, args in steps:
        yield {
            "schema": "command/1",
            "id": f"{request}-{word}-{mark}",
            "customer_id": told["customer_id"],
            "service_request_id": request,
            "command": word,
            "args": args,
            "actor": "cad",
        }


if __name__ == "__main__":
    asyncio.run(main(os.environ["AMQP_URL"], Path(os.environ["CAD_FILE"])))
