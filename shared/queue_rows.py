"""The embedded broker's tables and the statements on them; plain functions of a connection, see `shared.engine`."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import sqlite

from shared import topics
from shared.broker import Binding, Message, Topology
from shared.parking import parked_headers

TAIL_SECONDS: Final = 30.0  # a tail that died is forgotten after this
MOST_DELIVERIES: Final = 20  # of one message without a settlement; RabbitMQ 4's own default

_metadata: Final = MetaData()
queues: Final = Table("queues", _metadata, Column("name", Text), Column("expires_at", Float))
bound: Final = Table("bindings", _metadata, Column("exchange", Text), Column("pattern", Text), Column("queue", Text))
messages: Final = Table(
    "messages",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("queue", Text),
    Column("routing_key", Text),
    Column("headers", JSON),
    Column("body", LargeBinary),
    Column("visible_at", Float),
    Column("attempts", Integer),
    Column("deliveries", Integer),
    Column("receipt", Text),
    Column("failed_at", Float),
)

# Built once: putting a statement together costs more than running it.
_BOUND: Final = (
    select(bound.c.queue, bound.c.pattern, queues.c.expires_at)
    .join(queues, queues.c.name == bound.c.queue)
    .where(bound.c.exchange == bindparam("of_exchange"))
)
_INSERT: Final = insert(messages)
_VISIBLE: Final = (
    select(messages.c.id)
    .where(messages.c.queue == bindparam("of_queue"), messages.c.visible_at <= bindparam("now"))
    .order_by(messages.c.visible_at, messages.c.id)
    .limit(bindparam("room"))
)
_CLAIM: Final = (
    update(messages)
    .where(messages.c.id.in_(_VISIBLE))
    .values(visible_at=bindparam("until"), receipt=bindparam("held"), deliveries=messages.c.deliveries + 1)
    .returning(*messages.c)
)
_COUNT: Final = select(func.count()).where(messages.c.queue == bindparam("of_queue"))
_OLDEST: Final = (
    select(messages.c.headers).where(messages.c.queue == bindparam("of_queue")).order_by(messages.c.id).limit(1)
)
_SIZES: Final = ("page_count", "freelist_count", "page_size")
_HELD: Final = (messages.c.id == bindparam("row"), messages.c.receipt == bindparam("held"))
ACK: Final = delete(messages).where(*_HELD)
SETTLE: Final = update(messages).where(*_HELD)
RENEW: Final = (
    update(messages)
    .where(messages.c.id == bindparam("row"), messages.c.receipt == bindparam("held"))
    .values(visible_at=bindparam("until"))
)


def in_dead_letters(headers: dict[str, str], now: float) -> dict[str, Any]:
    return {
        "queue": topics.DEAD_LETTERS,
        "headers": headers,
        "visible_at": now,
        "attempts": 0,
        "deliveries": 0,
        "receipt": None,
        "failed_at": None,
    }


def declare(connection: Connection, topology: Topology) -> None:
    """Make the queues exist, bound as the topology says and not otherwise."""
    ours = [queue.name for queue in topology.queues]
    names = [{"name": name, "expires_at": None} for name in ours]
    connection.execute(sqlite.insert(queues).on_conflict_do_nothing(), names)
    # A binding that is no longer wanted would keep filling its queue.
    connection.execute(delete(bound).where(bound.c.queue.in_(ours)))
    _bind(connection, ((queue.name, queue.bindings) for queue in topology.queues))


def declare_tail(connection: Connection, now: float, name: str, bindings: tuple[Binding, ...]) -> None:
    """A queue that is forgotten when nobody takes from it any more."""
    connection.execute(insert(queues).values(name=name, expires_at=now + TAIL_SECONDS))
    _bind(connection, [(name, bindings)])


def _bind(connection: Connection, queues: Iterable[tuple[str, tuple[Binding, ...]]]) -> None:
    rows = [
        {"exchange": binding.exchange, "pattern": binding.pattern, "queue": name}
        for name, bindings in queues
        for binding in bindings
    ]
    if rows:
        connection.execute(insert(bound), rows)


def forget(connection: Connection, queue: str) -> None:
    """Delete a queue with its bindings and messages."""
    connection.execute(delete(queues).where(queues.c.name == queue))


def publish(connection: Connection, now: float, exchange: str, message: Message, body: bytes) -> frozenset[str]:
    """Put a copy into each queue that is bound for it; the queues reached."""
    found = connection.execute(_BOUND, {"of_exchange": exchange}).all()
    reached = set()
    for queue, pattern, expires_at in found:
        if expires_at is not None and expires_at < now:
            connection.execute(delete(queues).where(queues.c.name == queue))
        elif topics.matches(pattern, message.routing_key):
            reached.add(queue)
    if reached:
        _insert(connection, now, sorted(reached), message, body)
    return frozenset(reached)


def put(connection: Connection, now: float, queue: str, message: Message, body: bytes) -> bool:
    """Put a message into one queue; False where there is none of that name."""
    if connection.execute(select(queues.c.name).where(queues.c.name == queue)).first() is None:
        return False
    _insert(connection, now, [queue], message, body)
    return True


def _insert(connection: Connection, now: float, into: list[str], message: Message, body: bytes) -> None:
    row = {
        "routing_key": message.routing_key,
        "headers": dict(message.headers),
        "body": body,
        "visible_at": now,
        "attempts": 0,
        "deliveries": 0,
    }
    connection.execute(_INSERT, [row | {"queue": queue} for queue in into])


def bytes_in_use(connection: Connection) -> int:
    """How much of the file holds something; what was deleted is used again before the file grows."""
    figures = [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in _SIZES]
    pages, free, size = (int(figure) for figure in figures)
    return (pages - free) * size


def waiting(connection: Connection, queue: str) -> tuple[int, Mapping[str, str] | None]:
    """How many messages the queue holds, those in hand included, and the headers of the one that came first."""
    count = connection.execute(_COUNT, {"of_queue": queue}).scalar_one()
    return count, connection.execute(_OLDEST, {"of_queue": queue}).scalar_one_or_none() if count else None


def anything(connection: Connection, queue: str) -> bool:
    """Whether something in the queue is visible now."""
    return connection.execute(_VISIBLE, {"of_queue": queue, "now": time.time(), "room": 1}).first() is not None


def claim(connection: Connection, now: float, queue: str, room: int, receipt: str, lease: float) -> list[Row[Any]]:
    """Take visible messages for the length of a lease; one that was taken too often without being settled is parked,
    where there is a queue for that."""
    claimed = {"of_queue": queue, "now": now, "room": room, "until": now + lease, "held": receipt}
    rows = connection.execute(_CLAIM, claimed).all()
    worn = {row.id for row in rows if row.deliveries > MOST_DELIVERIES}
    if worn and connection.execute(select(queues.c.name).where(queues.c.name == topics.DEAD_LETTERS)).first() is None:
        worn = set()
    for row in rows:
        if row.id in worn:
            message = Message(row.routing_key, row.headers, b"")
            parked = parked_headers(message, "delivery_limit", queue, row.attempts, row.failed_at, now)
            connection.execute(update(messages).where(messages.c.id == row.id).values(**in_dead_letters(parked, now)))
    return sorted((row for row in rows if row.id not in worn), key=lambda row: row.id)


def wake(connection: Connection, now: float, queue: str, lease: float) -> None:
    """The clock went back: what was due by the old one would wait for it. A delay that ends early does no harm, because
    whoever asked for it looks at its own time again; nor does a lease."""
    late = (messages.c.queue == queue, messages.c.visible_at > now)
    abandoned = or_(messages.c.receipt.is_(None), messages.c.visible_at > now + 2 * lease)
    connection.execute(update(messages).where(*late, abandoned).values(visible_at=now, receipt=None))


def postpone(connection: Connection, now: float, row_id: int, seconds: float) -> None:
    connection.execute(
        update(messages).where(messages.c.id == row_id).values(visible_at=now + seconds, deliveries=0, receipt=None)
    )


def take(connection: Connection, now: float, queue: str, bindings: tuple[Binding, ...]) -> list[Row[Any]]:
    still_read = update(queues).where(queues.c.name == queue).values(expires_at=now + TAIL_SECONDS)
    if connection.execute(still_read).rowcount == 0:  # this process stood still, and the queue was forgotten
        declare_tail(connection, now, queue, bindings)
    mine = delete(messages).where(messages.c.queue == queue)
    return sorted(connection.execute(mine.returning(*messages.c)).all(), key=lambda row: row.id)
