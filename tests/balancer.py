"""One address in front of several processes: a TCP balancer that tries the next one where one can't be reached."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence


class Balancer:
    """Listens on loopback while the block lasts. It looks at no byte, and knows of no health but a refused connect."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turn = itertools.count()
        self._asked: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: dict[_Waits, asyncio.StreamWriter] = {}
        self.port = 0

    async def __aenter__(self) -> "Balancer":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def unanswered(self, port: int) -> int:
        """Connections on which the process of this port was asked something and has said nothing yet."""
        return self._asked[port]

    def spread(self) -> None:
        """Close each connection that waits for nothing, as balancers do whose processes change: kept-alive ones would
        never reach a process that has come back."""
        for waits, writer in self._open.items():
            if not waits.waiting:
                writer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            port, behind, to_behind = await self._connected()
            waits = _Waits(self._asked, port)
            self._open[waits] = writer
            directions = (
                asyncio.create_task(_copy(reader, to_behind, waits.ask)),
                asyncio.create_task(_copy(behind, writer, waits.answer)),
            )
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.wait(directions)
                waits.answer()
                del self._open[waits]
                to_behind.close()
        finally:
            writer.close()

    async def _connected(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        turn = next(self._turn)
        for each in range(len(self._ports)):
            port = self._ports[(turn + each) % len(self._ports)]
            with contextlib.suppress(OSError):
                return port, *await asyncio.open_connection("127.0.0.1", port)
        raise ConnectionRefusedError("no process behind the balancer listens")


class _Waits:
    """Whether one connection waits for the process behind it."""

    def __init__(self, asked: Counter[int], port: int) -> None:
        self._asked = asked
        self._port = port
        self.waiting = False

    def ask(self) -> None:
        self._asked[self._port] += not self.waiting
        self.waiting = True

    def answer(self) -> None:
        self._asked[self._port] -= self.waiting
        self.waiting = False


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(65536):
            seen()
            writer.write(part)
            await writer.drain()
