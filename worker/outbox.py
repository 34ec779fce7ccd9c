"""Publishes what was committed to be told, in order for a request, at least once each, and keeps it as told."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Row, and_, bindparam, exists, func, select, update

from shared import metrics, topics, traces
from shared.broker import Broker, Message
from shared.database import Database, one_at_a_time
from shared.errors import Unavailable
from shared.sealing import CannotOpen, Sealer
from shared.settings import Subscription
from worker import told
from worker.bell import Bell
from worker.tables import outbox

_CLAIM_SECONDS: Final = 15.0  # after a crash its outcomes are published by another process this much later
_BATCH: Final = 200
_LOOK_SECONDS: Final = 1.0  # how late an outcome left behind by another process may be seen
_PUBLISH_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 1.0
_MEASURE_SECONDS: Final = 5.0  # how often what waits is counted
_UNOPENED_SECONDS: Final = 60.0  # an outcome whose key is missing is looked at again after this

_log = structlog.get_logger("outbox")


class Outbox:
    """One publisher in each process; rows are claimed, so that processes rarely publish the same one."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        sealer: Sealer,
        subscriptions: Sequence[Subscription] = (),
        on_told: Callable[[Message], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._broker = broker
        self._sealer = sealer
        self._subscriptions = subscriptions
        self._on_told = on_told
        self.told = Bell()
        self._wake = asyncio.Event()
        self._stopping = False
        self._measure_at = 0.0
        self._task = asyncio.create_task(self._run(), name="outbox")

    @property
    def problem(self) -> str | None:
        """Why nothing is published any more; None where it is."""
        return "outcomes are published no more" if self._task.done() else None

    def publish_soon(self) -> None:
        """Something was committed."""
        self._wake.set()

    async def stop(self, within: float) -> None:
        """Publish what is there, then stop; what is left after `within` seconds waits in the store."""
        self._stopping = True
        self._wake.set()
        await asyncio.wait([self._task], timeout=within)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._measure()
                while await self._publish_batch():
                    pass
            except Unavailable as error:
                _log.warning("outcomes_not_published", problem=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _measure(self) -> None:
        if time.monotonic() < self._measure_at:
            return
        self._measure_at = time.monotonic() + _MEASURE_SECONDS
        count, oldest = await self._database.transact(_backlog)
        metrics.OUTBOX_EVENTS.set(count)
        metrics.OUTBOX_OLDEST.set(oldest)

    async def _publish_batch(self) -> bool:
        """Claim, publish, forget; whether there was anything. Raises Unavailable where a part could not be done."""
        rows = await self._database.transact(_claim)
        if not rows:
            return False
        by_request = groupby(rows, key=lambda row: (row.customer_id, row.service_request_id))
        errors = await asyncio.gather(*(self._publish_in_order(list(group)) for _, group in by_request))
        for error in filter(None, errors):
            raise error
        return True

    async def _publish_in_order(self, rows: list[Row[Any]]) -> Unavailable | None:
        """Publish the rows of one request until one can't be; that one and the later ones wait."""
        published: list[Row[Any]] = []
        again = 0.0
        failed = None
        for row in rows:
            try:
                message = Message(row.routing_key, row.headers, self._sealer.open(row.body))
                with traces.passing_on(topics.OUTCOMES, message):
                    await self._broker.publish(topics.OUTCOMES, message, mandatory=False, timeout=_PUBLISH_SECONDS)
            except CannotOpen as error:
                _log.error("outcome_not_opened", outcome=row.headers.get("ce-id"), problem=str(error))
                again = _UNOPENED_SECONDS
                break
            except Unavailable as error:
                failed = error
                break
            metrics.PUBLISHED.labels(row.customer_id).inc()
            published.append(row)
            self._on_told(message)
        left = [row.id for row in rows[len(published) :]]

        def finish(connection: Connection, now: float) -> None:
            if published:
                told.keep(connection, now, published, self._subscriptions)
            if left:
                connection.execute(_LEAVE, {"ids": left, "until": now + again})

        await self._database.transact(finish)
        if published:
            self.told.ring()
        return failed


# Built once: putting a statement together costs more than running it.
_EARLIER: Final = outbox.alias()
_IN_OTHER_HANDS: Final = exists().where(
    and_(
        _EARLIER.c.customer_id == outbox.c.customer_id,
        _EARLIER.c.service_request_id == outbox.c.service_request_id,
        _EARLIER.c.id < outbox.c.id,
        _EARLIER.c.position.is_(None),
        _EARLIER.c.claimed_until > bindparam("now"),
    )
)
_FREE: Final = (
    select(outbox.c.id)
    .where(outbox.c.position.is_(None), outbox.c.claimed_until <= bindparam("now"), ~_IN_OTHER_HANDS)
    .order_by(outbox.c.id)
    .limit(_BATCH)
)
_THESE: Final = outbox.c.id.in_(bindparam("ids", expanding=True))
_TAKE: Final = update(outbox).where(_THESE).values(claimed_until=bindparam("until")).returning(*outbox.c)
_UNTOLD: Final = outbox.c.position.is_(None)
_HOW_MANY: Final = select(func.count()).select_from(outbox).where(_UNTOLD)
_FIRST: Final = select(outbox.c.headers).where(_UNTOLD).order_by(outbox.c.id).limit(1)
_LEAVE: Final = update(outbox).where(_THESE).values(claimed_until=bindparam("until"))


def _backlog(connection: Connection, now: float) -> tuple[int, float]:
    """How many outcomes wait to be published, and for how many seconds the oldest has."""
    headers = connection.scalar(_FIRST)
    if headers is None:
        return 0, 0.0
    committed = datetime.fromisoformat(headers["ce-time"]).timestamp()
    return connection.scalar(_HOW_MANY) or 0, max(0.0, now - committed)


def _claim(connection: Connection, now: float) -> list[Row[Any]]:
    """Unclaimed rows whose request has no earlier row in another process's hands, by request and in order."""
    one_at_a_time(connection, "outbox")
    ids = list(connection.scalars(_FREE, {"now": now}))
    if not ids:
        return []
    rows = connection.execute(_TAKE, {"ids": ids, "until": now + _CLAIM_SECONDS}).all()
    return sorted(rows, key=lambda row: (row.customer_id, row.service_request_id, row.id))
