"""Moves what is queued in an embedded broker's file to another broker, each message deleted once it is confirmed there.

A crash leaves a message in both, never in none. Original key, headers, attempts and what is left of a delay go along.
The file's receivers should be stopped; what one of them holds all the same is moved when its lease has run out.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, func, or_, select, update

from shared.broker import Binding, Broker, Message, Queue, Topology
from shared.database import Database
from shared.errors import Unavailable
from shared.queue_rows import messages, queues
from shared.rabbitmq import delayed_headers
from shared.sealing import CannotOpen, Sealer

_BATCH: Final = 200
_LEASE_SECONDS: Final = 60.0
_PUBLISH_SECONDS: Final = 10.0
_AGAIN_SECONDS: Final = 1.0

_MINE: Final = (messages.c.id == bindparam("row"), messages.c.receipt == bindparam("held"))
_HOLD: Final = (
    update(messages)
    .where(messages.c.id == bindparam("row"))
    .values(receipt=bindparam("held"), visible_at=bindparam("until"))
)
_MOVED: Final = delete(messages).where(*_MINE)
_GIVE_BACK: Final = update(messages).where(*_MINE).values(receipt=None, visible_at=bindparam("due"))


def doors(queues: Iterable[Queue]) -> Topology:
    """An exchange for each queue that leads to it alone, so that a message gets there under its own key."""
    led = tuple(Queue(each.name, (*each.bindings, Binding(door(each.name), "#")), each.ours) for each in queues)
    return Topology(tuple(door(each.name) for each in led), led)


def door(queue: str) -> str:
    """The exchange that leads to this queue alone."""
    return f"receiver.move.{queue}"


def waiting(connection: Connection) -> dict[str, int]:
    """How many messages lie in each queue; live tails are nobody's to move."""
    rows = connection.execute(
        select(messages.c.queue, func.count())
        .join(queues, queues.c.name == messages.c.queue)
        .where(queues.c.expires_at.is_(None))
        .group_by(messages.c.queue)
    )
    return dict(rows.tuples().all())


async def move(
    source: Database, sealer: Sealer, target: Broker, names: Iterable[str], advance: Callable[[int], object]
) -> int:
    """Move all that lies in these queues; how many could not be opened and stay. Unavailable where the target can't
    take one: that and what follows it stays, and the move can be made again."""
    wanted = sorted(names)
    unopened: set[int] = set()
    receipt = uuid.uuid4().hex
    while True:
        rows = await source.transact(lambda connection, now: _hold(connection, now, wanted, unopened, receipt))
        if rows is None:
            return len(unopened)
        if not rows:
            await asyncio.sleep(_AGAIN_SECONDS)  # the rest is in the hands of a consumer, which dies or settles
            continue
        groups: dict[tuple[Any, ...], list[Row[Any]]] = {}
        for row in rows:
            headers = row.headers
            groups.setdefault((row.queue, headers.get("ce-customerid"), headers.get("ce-subject")), []).append(row)
        results = await asyncio.gather(*(_publish(target, sealer, group, unopened) for group in groups.values()))
        moved = {row_id for done, _ in results for row_id in done}
        await source.transact(lambda connection, _, rows=rows, moved=moved: _settle(connection, rows, moved, receipt))  # type: ignore[misc]
        advance(len(moved))
        for error in filter(None, (error for _, error in results)):
            raise error


def _hold(
    connection: Connection, now: float, names: list[str], unopened: set[int], receipt: str
) -> list[Row[Any]] | None:
    """Messages that are now ours alone, as they were before; none where others hold them, None where there are none."""
    left = messages.c.queue.in_(names) & messages.c.id.not_in(unopened)
    if connection.execute(select(messages.c.id).where(left).limit(1)).first() is None:
        return None
    free = or_(messages.c.receipt.is_(None), messages.c.visible_at <= now)
    rows = connection.execute(select(messages).where(left, free).order_by(messages.c.id).limit(_BATCH)).all()
    if rows:
        until = now + _LEASE_SECONDS  # never before it is due, should we die
        holds = [{"row": row.id, "held": receipt, "until": max(row.visible_at, until)} for row in rows]
        connection.execute(_HOLD, holds)
    return list(rows)


async def _publish(
    target: Broker, sealer: Sealer, rows: list[Row[Any]], unopened: set[int]
) -> tuple[list[int], Unavailable | None]:
    """Publish the messages of one request in their order; which were confirmed, and why not all."""
    moved: list[int] = []
    for row in rows:
        try:
            body = sealer.open(row.body)
        except CannotOpen:
            unopened.add(row.id)
            continue
        due = row.visible_at if row.receipt is None else 0.0
        headers = delayed_headers(row.headers, row.routing_key, row.attempts, due, row.failed_at)
        try:
            # The story of a delay is believed of nothing that came through an exchange of topics.
            delayed = len(headers) > len(row.headers)
            exchange, key = ("", row.queue) if delayed else (door(row.queue), row.routing_key)
            message = Message(key, headers, body)
            await target.publish(exchange, message, mandatory=True, timeout=_PUBLISH_SECONDS)
        except Unavailable as error:
            return moved, error
        moved.append(row.id)
    return moved, None


def _settle(connection: Connection, rows: list[Row[Any]], moved: set[int], receipt: str) -> None:
    gone = [{"row": row.id, "held": receipt} for row in rows if row.id in moved]
    back = [
        {"row": row.id, "held": receipt, "due": row.visible_at if row.receipt is None else 0.0}
        for row in rows
        if row.id not in moved
    ]
    if gone:
        connection.execute(_MOVED, gone)
    if back:
        connection.execute(_GIVE_BACK, back)
