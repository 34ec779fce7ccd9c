"""A Receiver's webhook endpoint for the tests: keeps what came, and answers what it was told to answer."""

import asyncio
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web


class Endpoint:
    """Listens on a free loopback port. `answers` are given in turn, the last one for ever."""

    def __init__(self, *answers: int, silent: bool = False) -> None:
        self.answers = list(answers) or [202]
        self.silent = silent
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self._arrived = asyncio.Condition()
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/webhook", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/webhook"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        async with self._arrived:
            self._arrived.notify_all()
        if self.silent:
            await self._over.wait()
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        where = {"Location": self.url} if 300 <= status < 400 else None
        return web.Response(status=status, headers=where)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The bodies, parsed."""
        return [orjson.loads(body) for body in self.bodies]

    async def seen(self, number: int, timeout: float = 5.0) -> list[dict[str, Any]]:
        """Waits until that many webhooks have come."""
        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(lambda: len(self.bodies) >= number)
        return self.events
