"""Looks now and then for trips that nobody has acknowledged or confirmed, and forgets what was told long ago."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from shared import metrics
from shared.database import Database
from shared.errors import Unavailable
from worker import acknowledging, told
from worker import missing as missing_webhooks
from worker.acknowledging import Missing

_LOOK_SECONDS: Final = 1.0
_FORGET_SECONDS: Final = 3600.0

_log = structlog.get_logger("watch")


class Watch:
    """The task; `overdue` is what it saw last, by customer."""

    def __init__(self, database: Database, keep_days: int, on_missing: Callable[[Missing], None]) -> None:
        self._database = database
        self._keep_days = keep_days
        self._on_missing = on_missing
        self._forgot_at: float | None = None
        self.overdue: dict[str, int] = {}
        self._unconfirmed: dict[str, int] = {}
        self._task = asyncio.create_task(self._run(), name="watch")

    def notes(self) -> dict[str, str]:
        """What somebody should look at."""
        return {
            f"unacknowledged {customer}": f"{count} trips that are ours are in no dispatch system"
            for customer, count in self.overdue.items()
        }

    async def stop(self) -> None:
        """Stop looking."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Unavailable as error:
                _log.warning("watch_waits", problem=str(error))
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        if await self._database.read(acknowledging.anything_new):
            for missing in await self._database.transact(acknowledging.newly_missing):
                _log.error("trip_not_acknowledged", customer=missing.customer_id, request=missing.service_request_id)
                self._on_missing(missing)
        overdue = await self._database.read(acknowledging.missing)
        for customer in {*overdue, *self.overdue}:
            metrics.UNACKNOWLEDGED.labels(customer).set(overdue.get(customer, 0))
        self.overdue = overdue
        unconfirmed = await self._database.read(missing_webhooks.unconfirmed)
        for customer in {*unconfirmed, *self._unconfirmed}:
            metrics.UNCONFIRMED.labels(customer).set(unconfirmed.get(customer, 0))
        self._unconfirmed = unconfirmed
        now = asyncio.get_running_loop().time()
        if self._forgot_at is None or now - self._forgot_at > _FORGET_SECONDS:
            await self._database.transact(lambda connection, at: told.forget(connection, at, self._keep_days))
            self._forgot_at = now
