"""The told events under their positions: what a cursor reads, what pushes are made of, what a replay repeats.

A position is given when the broker has confirmed an event, in a transaction that holds the head's lock until its
commit. So positions become visible in their order, and a reader that has seen one will never miss a lower one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, exists, func, insert, or_, select, update

from shared import metrics, topics
from shared.database import Database
from shared.sealing import Sealer
from shared.settings import Subscription
from worker import acknowledging
from worker.acknowledging import state_of
from worker.tables import assignments, outbox, pushes, told_head

_DAY: Final = 86400.0
_ENDED: Final = ("closed", "lost", "released", "completed")

_HEAD: Final = (
    update(told_head)
    .where(told_head.c.id == 1)
    .values(position=told_head.c.position + bindparam("more"))
    .returning(told_head.c.position)
)
_UNTOLD: Final = select(outbox.c.id).where(
    outbox.c.id.in_(bindparam("ids", expanding=True)), outbox.c.position.is_(None)
)
_KEEP: Final = (
    update(outbox)
    .where(outbox.c.id == bindparam("row"))
    .values(position=bindparam("at_position"), told_at=bindparam("now"), claimed_until=0.0)
)


@dataclass(frozen=True, slots=True)
class Told:
    """A told event. The body may hold PHI."""

    position: int
    routing_key: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def keep(connection: Connection, now: float, rows: Sequence[Row[Any]], subscriptions: Sequence[Subscription]) -> None:
    """The rows were published: give each its position, and each subscription its work."""
    head: int = connection.execute(_HEAD, {"more": len(rows)}).scalar_one()
    untold = set(connection.scalars(_UNTOLD, {"ids": [row.id for row in rows]}))
    for position, row in enumerate(rows, head - len(rows) + 1):
        if row.id not in untold:
            continue  # another process, which claimed it after us, was faster
        connection.execute(_KEEP, {"row": row.id, "at_position": position, "now": now})
        _share(connection, now, row, position, subscriptions)


def _share(
    connection: Connection, now: float, row: Row[Any], position: int, subscriptions: Sequence[Subscription]
) -> None:
    kind, _, rest = row.routing_key.partition(".")
    if kind == "command":
        metrics.COMMANDS.labels(row.customer_id, rest.partition(".")[0]).inc()
    mine = [each for each in subscriptions if wants(each, row.customer_id, row.routing_key)]
    state = state_of(row.routing_key)
    within = acknowledging.within(each.within for each in mine)
    if state is not None and within is not None:
        acknowledging.told(connection, now, row.customer_id, row.service_request_id, state, within)
    for each in mine:
        if each.url is not None:
            values = {"subscription": each.name, "position": position, "attempts": 0, "since": now, "due_at": 0.0}
            request = {"customer_id": row.customer_id, "service_request_id": row.service_request_id}
            connection.execute(insert(pushes).values(**values, **request, claimed_until=0.0))


def wants(subscription: Subscription, customer_id: str, routing_key: str) -> bool:
    """Whether an event is one of the subscription's."""
    return subscription.serves(customer_id) and topics.matches(subscription.pattern, routing_key)


class Log:
    """The told events as readers see them."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    async def newest(self) -> int:
        """The last position that was given."""
        return await self._database.read(lambda connection: connection.scalars(select(told_head.c.position)).one())

    async def forgotten(self) -> int:
        """The last position that is kept no more."""
        return await self._database.read(lambda connection: connection.scalars(select(told_head.c.forgotten)).one())

    async def after(self, subscription: Subscription, position: int, most: int) -> tuple[list[Told], int]:
        """The subscription's next events after a position, and the position up to which was looked."""
        rows = await self._database.read(lambda connection: _after(connection, subscription, position, most))
        events = [self.opened(row) for row in rows if wants(subscription, row.customer_id, row.routing_key)]
        return events, rows[-1].position if rows else position

    def opened(self, row: Row[Any]) -> Told:
        """A row of the outbox as an event; CannotOpen where its key is missing."""
        return Told(row.position, row.routing_key, row.headers, self._sealer.open(row.body))


def _after(connection: Connection, subscription: Subscription, position: int, most: int) -> Sequence[Row[Any]]:
    wanted = select(outbox).where(outbox.c.position > position).order_by(outbox.c.position).limit(most)
    if subscription.customers:
        wanted = wanted.where(outbox.c.customer_id.in_(subscription.customers))
    return connection.execute(wanted).all()


def present(connection: Connection, customer_id: str, since: float | None) -> list[Row[Any]]:
    """The last outcome of each live assignment of a customer, oldest first; with `since`, of each that changed since
    then, ended ones too, so that whoever was restored from before learns of the ends."""
    mine = assignments.c.customer_id == customer_id
    live = or_(assignments.c.ours.is_(True), assignments.c.state.not_in(_ENDED))
    which = (mine, live) if since is None else (mine, assignments.c.updated_at >= since)
    newest = (
        select(func.max(outbox.c.id))
        .join(
            assignments,
            (assignments.c.customer_id == outbox.c.customer_id)
            & (assignments.c.service_request_id == outbox.c.service_request_id),
        )
        .where(outbox.c.routing_key.startswith("assignment."), assignments.c.state.is_not(None), *which)
        .group_by(outbox.c.service_request_id)
    )
    return list(connection.execute(select(outbox).where(outbox.c.id.in_(newest)).order_by(outbox.c.id)))


def forget(connection: Connection, now: float, keep_days: int) -> None:
    """Delete what was told longer ago, but for what a live assignment's replay may need and what is still pushed."""
    live = exists().where(
        assignments.c.customer_id == outbox.c.customer_id,
        assignments.c.service_request_id == outbox.c.service_request_id,
        or_(assignments.c.ours.is_(True), assignments.c.state.not_in(_ENDED)),
    )
    pushed = exists().where(pushes.c.position == outbox.c.position)
    gone = connection.scalars(
        delete(outbox).where(outbox.c.told_at < now - keep_days * _DAY, ~live, ~pushed).returning(outbox.c.position)
    ).all()
    if gone:
        connection.execute(update(told_head).where(told_head.c.forgotten < max(gone)).values(forgotten=max(gone)))
