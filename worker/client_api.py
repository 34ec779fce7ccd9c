"""The HTTP door for dispatch systems: events are pulled by a cursor, commands are posted. Bearer tokens, one for each
subscription, which limit it to its customers. docs/subscribe.md; `shared/schemas/client-openapi.json` is its contract.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web
from sqlalchemy import Row, select

from shared import topics
from shared.broker import Broker, Message
from shared.database import Database
from shared.errors import Unavailable
from shared.settings import Subscription
from shared.topics import rfc3339
from worker import command
from worker.bell import Bell
from worker.command import Malformed
from worker.results import PENDING, result_message
from worker.tables import commands
from worker.told import Log, Told

_LARGEST_BODY: Final = 1024 * 1024
_PAGE: Final = 200
_SCANNED: Final = 400  # rows looked at for a page; those of other topics only move the cursor on
_LONGEST_WAIT: Final = 60.0
_LOOK_SECONDS: Final = 0.5  # how late an event of another process may be seen
_PUBLISH_SECONDS: Final = 5.0
_HIGHEST: Final = 2**31 - 1  # of a position

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Door:
    """What the door is made of. `told` rings when this process has told something; `customers` are those that are
    served."""

    subscriptions: Sequence[Subscription]
    customers: frozenset[str]
    broker: Broker
    database: Database
    log: Log
    told: Bell


_DOOR: Final[web.AppKey[Door]] = web.AppKey("door")
_CLOSING: Final[web.AppKey[asyncio.Event]] = web.AppKey("closing")


def application(door: Door) -> web.Application:
    """The routes."""
    app = web.Application(client_max_size=_LARGEST_BODY)
    app[_DOOR] = door
    app[_CLOSING] = asyncio.Event()
    app.on_shutdown.append(_close)
    app.add_routes(
        [
            web.get("/v1/events", _known(_events)),
            web.post("/v1/commands", _known(_command)),
            web.get("/v1/commands/{customer_id}/{command_id:.+}", _known(_result)),
        ]
    )
    return app


async def listen(door: Door, host: str, port: int) -> web.AppRunner:
    """Serve until the runner is cleaned up; whoever waits for events then is answered at once."""
    runner = web.AppRunner(application(door), access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner


async def _close(app: web.Application) -> None:
    app[_CLOSING].set()
    app[_DOOR].told.ring()


def _known(handler: Callable[[web.Request, Subscription], Awaitable[web.Response]]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        subscription = _subscription(request)
        if subscription is None:
            return _problem(401, "unauthorized", "the bearer token is missing or wrong")
        try:
            return await handler(request, subscription)
        except Unavailable:
            answer = _problem(503, "unavailable", "the store or the broker can't be had just now; try again")
            answer.headers["Retry-After"] = "5"
            return answer

    return handle


def _subscription(request: web.Request) -> Subscription | None:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    found = None
    for each in request.app[_DOOR].subscriptions:
        if each.token is not None and hmac.compare_digest(
            each.token.get_secret_value().encode(), given.strip().encode("utf-8", "surrogateescape")
        ):
            found = each
    return found if kind.lower() == "bearer" else None


async def _events(request: web.Request, subscription: Subscription) -> web.Response:
    door = request.app[_DOOR]
    after, wait = request.query.get("after", "0"), request.query.get("wait", "0")
    if not ((after.isdecimal() and len(after) < 19) or after == "latest") or not (wait.isdecimal() and len(wait) < 5):
        return _problem(400, "malformed", "after is a cursor or latest, wait is whole seconds")
    deadline = time.monotonic() + min(int(wait), _LONGEST_WAIT)
    position = await door.log.newest() if after == "latest" else min(int(after), _HIGHEST)
    if 0 < position < await door.log.forgotten():
        return _problem(410, "cursor_too_old", "events after this cursor are kept no more; replay, and begin anew")
    while True:
        events, position = await door.log.after(subscription, position, _SCANNED)
        left = deadline - time.monotonic()
        if events or left <= 0 or request.app[_CLOSING].is_set():
            break
        await door.told.heard(min(left, _LOOK_SECONDS))
    if len(events) > _PAGE:
        events = events[:_PAGE]
        position = events[-1].position
    return _json(200, {"events": [cloud_event(each) for each in events], "cursor": str(position)})


def cloud_event(told: Told) -> dict[str, Any]:
    """A told event in CloudEvents' JSON form. Pure."""
    attributes = {name.removeprefix("ce-"): value for name, value in told.headers.items() if name.startswith("ce-")}
    return attributes | {"datacontenttype": "application/json", "data": orjson.loads(told.body)}


async def _command(request: web.Request, subscription: Subscription) -> web.Response:
    door = request.app[_DOOR]
    body = await request.read()
    wait = request.query.get("wait", "0")
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _problem(400, "malformed", "the body is not JSON")
    if not isinstance(asked, dict) or not wait.isdecimal() or len(wait) > 4:
        return _problem(400, "malformed", "the body is not a JSON object, or wait is not whole seconds")
    customer_id = asked.get("customer_id", next(iter(subscription.customers), None))
    if not isinstance(customer_id, str) or not subscription.serves(customer_id) or customer_id not in door.customers:
        return _problem(403, "other_customer", "customer_id is not one that this token may command for")
    word = asked.get("command")
    found = command.read(word if isinstance(word, str) else "", customer_id, body)
    if found is None:
        return _problem(400, "malformed", "id is not 1 to 128 printable ASCII characters")
    if isinstance(found, Malformed):
        return _problem(400, found.code, found.sentence)
    message = Message(f"{found.command}.{customer_id}", _headers(found.command_id, customer_id), body)
    await door.broker.publish(topics.COMMANDS, message, mandatory=True, timeout=_PUBLISH_SECONDS)
    deadline = time.monotonic() + min(int(wait), _LONGEST_WAIT)
    while True:
        row = await _row(door, customer_id, found.command_id)
        left = deadline - time.monotonic()
        if (row is not None and row.state != PENDING) or left <= 0 or request.app[_CLOSING].is_set():
            return _answer(customer_id, found.command_id, row)
        await door.told.heard(min(left, _LOOK_SECONDS))


def _headers(command_id: str, customer_id: str) -> dict[str, str]:
    return {
        "ce-specversion": "1.0",
        "ce-id": f"{customer_id}/command/{command_id}",
        "ce-type": "com.vectorcare.receiver.command",
        "ce-source": f"/customers/{customer_id}",
        "ce-time": rfc3339(time.time()),
        "ce-customerid": customer_id,
    }


async def _result(request: web.Request, subscription: Subscription) -> web.Response:
    customer_id, command_id = request.match_info["customer_id"], request.match_info["command_id"]
    row = await _row(request.app[_DOOR], customer_id, command_id) if subscription.serves(customer_id) else None
    if row is None:
        return _problem(404, "unknown_command", "no such command has been taken up")
    return _answer(customer_id, command_id, row)


async def _row(door: Door, customer_id: str, command_id: str) -> Row[Any] | None:
    this = select(commands).where(commands.c.customer_id == customer_id, commands.c.id == command_id)
    return await door.database.read(lambda connection: connection.execute(this).first())


def _answer(customer_id: str, command_id: str, row: Row[Any] | None) -> web.Response:
    if row is None or row.state == PENDING:
        return _json(202, {"id": command_id, "customer_id": customer_id, "result": None})
    return web.Response(body=result_message(row).body, content_type="application/json")


def _problem(status: int, code: str, sentence: str) -> web.Response:
    return _json(status, {"code": code, "sentence": sentence})


def _json(status: int, content: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")
