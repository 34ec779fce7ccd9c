"""A customer's share of a queue's attention: so many deliveries at a time, and no waiting where its calls hang."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

_SLOW_SECONDS: Final = 2.5  # a lane whose oldest delivery has been worked on for longer hangs: half of a call's limit
_PATIENCE_SECONDS: Final = 3.0  # how long a delivery waits for a place in a lane that is full, but moves


class Lane:
    """Places for `limit` deliveries."""

    def __init__(self, limit: int) -> None:
        self._free = asyncio.Semaphore(limit)
        self._began: dict[object, float] = {}

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[bool]:
        """Hold a place while the block runs; False where there is none, and none is to be expected soon."""
        if not await self._get():
            yield False
            return
        mine = object()
        self._began[mine] = time.monotonic()
        try:
            yield True
        finally:
            del self._began[mine]
            self._free.release()

    async def _get(self) -> bool:
        if self._free.locked() and self._is_slow():
            return False
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            return False
        return True

    def _is_slow(self) -> bool:
        oldest = min(self._began.values(), default=None)
        return oldest is not None and time.monotonic() - oldest > _SLOW_SECONDS
