"""Posts told events to subscriptions with a `url`: signed after Standard Webhooks, in order for a request.

Each subscription has a task of its own, so that a slow one delays no other. What is not taken is posted again with
growing delays for 72 hours, and then parked.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import structlog
from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, select, update

from shared import metrics
from shared.database import Database, insert_if_absent
from shared.errors import Unavailable
from shared.parking import ATTEMPTS, ORIGIN_KEY, ORIGIN_QUEUE, PARKED_AT, REASON
from shared.sealing import CannotOpen
from shared.settings import Subscription
from shared.topics import rfc3339
from worker.bell import Bell
from worker.limited_body import limited_body
from worker.parked import Parked
from worker.tables import outbox, parked, pushes
from worker.told import Log, Told

_POST_SECONDS: Final = 10.0
_CLAIM_SECONDS: Final = 30.0  # after a crash its pushes are made by another process this much later
_AT_A_TIME: Final = 16
_LOOK_SECONDS: Final = 0.5  # how late an event of another process, or a repetition, may be seen
_AGAIN_SECONDS: Final = 2.0
_FIRST_DELAY: Final = 2.0
_LONGEST_DELAY: Final = 1800.0
GIVE_UP: Final = 72 * 3600.0
ORIGIN: Final = "push:"  # and the subscription's name: where a parked push came from
_EXPIRED: Final = "push_not_taken"
_AS_IT_IS: Final = "".join(map(chr, range(0x21, 0x7F))).translate({ord('"'): None, ord("%"): None})

_log = structlog.get_logger("push")


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Standard Webhooks' v1: HMAC-SHA256 over id, timestamp and body."""
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def header(value: str) -> str:
    """A value as CloudEvents has it in HTTP's headers: a command's id may hold what is percent-encoded there."""
    return quote(value, safe=_AS_IT_IS)


def delay(attempts: int) -> float:
    """Seconds until the next attempt after so many."""
    return min(_FIRST_DELAY * 2.0 ** min(attempts, 20), _LONGEST_DELAY)


class Pusher:
    """Pushes for one subscription."""

    def __init__(self, subscription: Subscription, database: Database, log: Log, told: Bell) -> None:
        self._subscription = subscription
        self._database = database
        self._told = told
        self._reader = log
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=_POST_SECONDS)
        )
        self._stopping = False
        self._task = asyncio.create_task(self._run(), name=f"push {subscription.name}")

    @property
    def problem(self) -> str | None:
        """Why nothing is pushed any more; None where it is."""
        return f"nothing is pushed to {self._subscription.name}" if self._task.done() else None

    async def stop(self) -> None:
        """Finish the posts in hand and stop."""
        self._stopping = True
        self._told.ring()
        await asyncio.wait([self._task], timeout=_POST_SECONDS + 1)
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._session.close()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                pushed = await self._push_some()
            except Unavailable as error:
                _log.warning("pushes_wait", subscription=self._subscription.name, problem=str(error))
                await self._told.heard(_AGAIN_SECONDS)
                continue
            if not pushed:
                await self._told.heard(_LOOK_SECONDS)

    async def _push_some(self) -> bool:
        rows = await self._database.transact(lambda connection, now: _claim(connection, now, self._subscription.name))
        await asyncio.gather(*(self._push(row) for row in rows))
        return bool(rows)

    async def _push(self, row: Row[Any]) -> None:
        answer = "unreadable"
        try:
            answer = await self._post(self._reader.opened(row))
        except CannotOpen as error:
            _log.error("push_not_opened", subscription=self._subscription.name, problem=str(error))
        metrics.PUSHES.labels(self._subscription.name, answer).inc()
        await self._database.transact(
            lambda connection, now: self._settle(connection, now, row, taken=answer == "taken")
        )
        if answer != "taken":
            _log.warning(
                "push_not_taken",
                subscription=self._subscription.name,
                event_id=row.headers.get("ce-id"),
                attempts=row.attempts + 1,
                answer=answer,
            )

    async def _post(self, event: Told) -> str:
        assert self._subscription.url is not None
        assert self._subscription.key is not None
        timestamp = int(time.time())
        attributes = {name: header(value) for name, value in event.headers.items()}
        message_id = attributes["ce-id"]
        headers = {
            **attributes,
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._subscription.key, message_id, timestamp, event.body),
        }
        url = self._subscription.url.get_secret_value()
        try:
            async with self._session.post(url, data=event.body, headers=headers, allow_redirects=False) as response:
                if 200 <= response.status < 300:
                    return "taken"
                await limited_body(response)
                return "refused"
        except TimeoutError:
            return "no_answer"
        except aiohttp.ClientError:
            return "unreachable"

    def _settle(self, connection: Connection, now: float, row: Row[Any], *, taken: bool) -> None:
        if not taken and now < row.since + GIVE_UP:
            again = {"attempts": row.attempts + 1, "due_at": now + delay(row.attempts), "claimed_until": 0.0}
            connection.execute(update(pushes).where(pushes.c.id == row.push_id).values(**again))
            return
        if not taken:
            _park(connection, now, row, f"{ORIGIN}{self._subscription.name}")
            metrics.PARKED.labels(row.customer_id, _EXPIRED).inc()
        connection.execute(delete(pushes).where(pushes.c.id == row.push_id))


_EARLIER: Final = pushes.alias()
_BEHIND: Final = exists().where(
    _EARLIER.c.subscription == pushes.c.subscription,
    _EARLIER.c.customer_id == pushes.c.customer_id,
    _EARLIER.c.service_request_id == pushes.c.service_request_id,
    _EARLIER.c.id < pushes.c.id,
)
_DUE: Final = (
    select(pushes.c.id)
    .where(
        pushes.c.subscription == bindparam("of_subscription"),
        pushes.c.due_at <= bindparam("now"),
        pushes.c.claimed_until <= bindparam("now"),
        ~_BEHIND,
    )
    .order_by(pushes.c.id)
    .limit(_AT_A_TIME)
)
_TAKE: Final = (
    update(pushes)
    .where(pushes.c.id.in_(bindparam("ids", expanding=True)), pushes.c.claimed_until <= bindparam("now"))
    .values(claimed_until=bindparam("until"))
    .returning(pushes.c.id)
)
_EVENTS: Final = (
    select(outbox, pushes.c.id.label("push_id"), pushes.c.attempts, pushes.c.since)
    .join(pushes, pushes.c.position == outbox.c.position)
    .where(pushes.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(pushes.c.id)
)


def _claim(connection: Connection, now: float, subscription: str) -> list[Row[Any]]:
    """The first waiting event of each request that is due."""
    ids = list(connection.scalars(_DUE, {"of_subscription": subscription, "now": now}))
    if not ids:
        return []
    taken = list(connection.scalars(_TAKE, {"ids": ids, "now": now, "until": now + _CLAIM_SECONDS}))
    return list(connection.execute(_EVENTS, {"ids": taken}))


def push_again(connection: Connection, now: float, event: Parked) -> bool:
    """Give a parked push its place again, as if it were new; False where the event is told no more."""
    told = (
        select(outbox.c.position, outbox.c.headers)
        .where(outbox.c.customer_id == event.customer_id, outbox.c.service_request_id == event.service_request_id)
        .where(outbox.c.routing_key == event.routing_key, outbox.c.position.is_not(None))
    )
    same = [row.position for row in connection.execute(told) if row.headers["ce-id"] == event.headers["ce-id"]]
    for position in same[-1:]:
        values = {"subscription": event.origin_queue.removeprefix(ORIGIN), "position": position, "attempts": 0}
        request = {"customer_id": event.customer_id, "service_request_id": event.service_request_id}
        connection.execute(insert(pushes).values(**values, **request, since=now, due_at=now, claimed_until=0.0))
    return bool(same)


def _park(connection: Connection, now: float, row: Row[Any], origin: str) -> None:
    """The body stays sealed as it is."""
    story = {REASON: _EXPIRED, ORIGIN_QUEUE: origin, ORIGIN_KEY: row.routing_key, ATTEMPTS: str(row.attempts + 1)}
    insert_if_absent(
        connection,
        parked,
        {
            "fingerprint": hashlib.sha256(f"{origin}\n{row.position}".encode()).hexdigest(),
            "customer_id": row.customer_id,
            "service_request_id": row.service_request_id,
            "reason": _EXPIRED,
            "attempts": row.attempts + 1,
            "origin_queue": origin,
            "routing_key": row.routing_key,
            "headers": {**row.headers, **story, PARKED_AT: rfc3339(now)},
            "body": row.body,
            "first_parked_at": now,
            "last_parked_at": now,
        },
    )
