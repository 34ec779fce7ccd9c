"""A TCP proxy in front of a RabbitMQ node, which reads frames, so that a connection can be cut around a publish."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Final

from yarl import URL

_PROTOCOL_HEADER: Final = 8
_METHOD: Final = 1
_PUBLISH: Final = struct.pack(">HH", 60, 40)
_CONFIRM: Final = struct.pack(">HH", 60, 80)


class Mode(StrEnum):
    """What the proxy does with what comes."""

    PASS = "pass"
    CUT = "cut"  # every connection is cut, and none is taken
    SWALLOW = "swallow"  # connections stay open, and nothing goes through any more
    CUT_PUBLISHES = "cut publishes"  # cut when a publish comes, which does not reach the broker
    CUT_CONFIRMS = "cut confirms"  # cut when a confirm comes, which does not reach the publisher


class Proxy:
    """One node's stand-in; `url` is its AMQP address. `cuts` counts the connections that were cut around a publish."""

    def __init__(self, target: str) -> None:
        self._target = URL(target)
        self._mode = Mode.PASS
        self._every = 1
        self._seen = 0
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.cuts = 0

    @property
    def url(self) -> str:
        """Where to connect."""
        assert self._server is not None
        return str(self._target.with_host("127.0.0.1").with_port(self._server.sockets[0].getsockname()[1]))

    def set(self, mode: Mode, every: int = 1) -> None:
        """From now on. `every`: of the publishes or confirms, one in so many is cut."""
        self._mode, self._every, self._seen = mode, every, 0
        if mode is Mode.CUT:
            for task in self._tasks:
                task.cancel()
        if mode is Mode.SWALLOW:
            self._passing.clear()
        else:
            self._passing.set()

    async def open(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        """Listen no more, and cut what is open."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(asyncio.CancelledError, OSError):
            if self._mode is not Mode.CUT:
                await self._connect(reader, writer)
        writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(self._target.host, self._target.port)
        ways = [
            asyncio.create_task(self._outward(reader, inner_writer)),
            asyncio.create_task(self._inward(inner_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            inner_writer.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _outward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(_PROTOCOL_HEADER))
        await self._pump(reader, writer, _PUBLISH, Mode.CUT_PUBLISHES)

    async def _inward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._pump(reader, writer, _CONFIRM, Mode.CUT_CONFIRMS)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: bytes, cutting: Mode
    ) -> None:
        """Frame by frame, until an end hangs up or a frame is met that the mode cuts at."""
        while True:
            head = await reader.readexactly(7)
            kind, _, size = struct.unpack(">BHL", head)
            rest = await reader.readexactly(size + 1)
            await self._passing.wait()
            if self._mode is cutting and kind == _METHOD and rest[:4] == method:
                self._seen += 1
                if self._seen % self._every == 0:
                    self.cuts += 1
                    return
            writer.write(head + rest)
            await writer.drain()


@contextlib.asynccontextmanager
async def in_front_of(target: str) -> AsyncIterator[Proxy]:
    """A proxy for as long as the block lasts."""
    proxy = Proxy(target)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()
