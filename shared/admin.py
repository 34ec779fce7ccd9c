"""The second listener, for the house and never for the public: liveness, readiness with reasons, metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


@dataclass(frozen=True, slots=True)
class Health:
    """What must work, each with what is wrong with it or None; and what somebody should look at although it works."""

    checks: Mapping[str, str | None]
    notes: Mapping[str, str]


Readiness = Callable[[], Health]
_READINESS: Final[web.AppKey[Readiness]] = web.AppKey("readiness")


def application(readiness: Readiness) -> web.Application:
    """The admin routes; `readiness` is asked at each look."""
    app = web.Application()
    app[_READINESS] = readiness
    app.add_routes(
        [
            web.get("/healthz/live", _live),
            web.get("/healthz/ready", _ready),
            web.get("/metrics", _metrics),
        ]
    )
    return app


async def listen(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Serve an application until its runner is cleaned up; no access log, because that would hold query strings."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


async def _live(_: web.Request) -> web.Response:
    return _json(200, {"live": True})


async def _ready(request: web.Request) -> web.Response:
    health = request.app[_READINESS]()
    ready = not any(health.checks.values())
    checks = {name: problem or "ok" for name, problem in health.checks.items()}
    return _json(200 if ready else 503, {"ready": ready, "checks": checks, "notes": dict(health.notes)})


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _json(status: int, content: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")
