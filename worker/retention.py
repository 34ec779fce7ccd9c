"""Forgets patients' data when its time is over: counted from a trip's pickup or its last change, whichever is later.

What a request held goes; the row stays, with ids and order alone, so that a webhook that is replayed years later is
known to be old and never makes a new trip. What is parked stays until a person has dealt with it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Table, and_, case, delete, func, or_, select, update

from shared.database import Database
from shared.errors import Unavailable
from worker.tables import assignments, commands, gaps, offers

_DAY: Final = 86400.0
_EVERY_SECONDS: Final = 3600.0
_BATCH: Final = 500  # rows in one transaction, so that nobody waits for long

_log = structlog.get_logger("retention")


class Retention:
    """The task, in the lifecycle role."""

    def __init__(self, database: Database, keep_days: int) -> None:
        self._database = database
        self._keep = keep_days * _DAY
        self._task = asyncio.create_task(self._run(), name="retention")

    async def stop(self) -> None:
        """Forget nothing more; the next start goes on."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                forgotten = 0
                while batch := await self._database.transact(
                    lambda connection, now: forget(connection, now, self._keep)
                ):
                    forgotten += batch
                if forgotten:
                    _log.info("forgotten", rows=forgotten)
            except Unavailable as error:
                _log.warning("forgetting_waits", problem=str(error))
            await asyncio.sleep(_EVERY_SECONDS)


def forget(connection: Connection, now: float, keep: float) -> int:
    """Forget up to a batch of what is older than `keep` seconds; how many rows were touched."""
    table = assignments.c
    pickup = func.coalesce(table.pickup_at, 0.0)
    since = case((pickup > table.updated_at, pickup), else_=table.updated_at)
    cutoff = now - keep
    blank = _rows(connection, assignments, and_(table.updated_at < cutoff, table.request.is_not(None), since < cutoff))
    for row in blank:
        this = and_(table.customer_id == row.customer_id, table.service_request_id == row.service_request_id)
        connection.execute(update(assignments).where(this).values(request=None, tags=None, collection=None))
    seen = _rows(connection, offers, offers.c.seen_at < cutoff)
    if seen:
        connection.execute(delete(offers).where(offers.c.id.in_([row.id for row in seen])))
    said = _rows(connection, commands, and_(commands.c.decided_at < cutoff, commands.c.args.is_not(None)))
    for row in said:
        this = and_(commands.c.customer_id == row.customer_id, commands.c.id == row.id)
        connection.execute(update(commands).where(this).values(args=None))
    closed = connection.execute(delete(gaps).where(or_(gaps.c.closed_at < cutoff, gaps.c.since < cutoff - keep)))
    return len(blank) + len(seen) + len(said) + closed.rowcount


def _rows(connection: Connection, table: Table, old: Any) -> Sequence[Any]:
    return connection.execute(select(*table.primary_key.columns).where(old).limit(_BATCH)).all()
