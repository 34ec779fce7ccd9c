"""A listener for what the product posts: pushes, which must be as they are published, and notices."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from tests import witness

Script = Callable[[web.Request, bytes], Awaitable[int]]


@dataclass
class Hook:
    """A subscriber's server: what it was asked and took, and how it answers; `says` is in each answer's body."""

    script: Script
    says: str = ""
    url: str = ""
    taken: list[str] = field(default_factory=list)
    asked: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        """One request."""
        body = await request.read()
        self.asked.append((dict(request.headers), body))
        if "webhook-id" in request.headers:
            witness.push(dict(request.headers), body)
        status = await self.script(request, body)
        if 200 <= status < 300 and "webhook-id" in request.headers:
            self.taken.append(request.headers["webhook-id"])
        return web.Response(status=status, text=self.says, headers={"Location": "/elsewhere"} if status == 307 else {})


@contextlib.asynccontextmanager
async def hook(script: Script, says: str = "") -> AsyncIterator[Hook]:
    """Listen while the block runs."""
    each = Hook(script, says)
    app = web.Application()
    app.add_routes([web.post("/{path:.*}", each.handle)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    each.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield each
    await runner.cleanup()


async def refuses(_: web.Request, __: bytes) -> int:
    """Takes nothing."""
    return 500


async def takes(_: web.Request, __: bytes) -> int:
    """Takes everything."""
    return 200
