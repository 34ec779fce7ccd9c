"""A customer's share of a queue's attention: so many deliveries at a time, and no waiting where its calls hang."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

STUCK_SECONDS: Final = 0.25  # a lane that is full and has finished nothing for so long hangs
_TIMES_THE_USUAL: Final = 3  # or for so many times as long as its deliveries usually take: a slow API does not hang
_HANGING_SECONDS: Final = 2.0  # what took longer says nothing of what is usual
_WEIGHT: Final = 0.2  # of the newest in what is usual


class Lane:
    """Places for `limit` deliveries. While it is full but moves, others wait for a place, first come, first served;
    once it hangs, those that wait are sent away at once, and so is whoever comes while it still does."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._moved_at = 0.0  # when the lane got full, or last finished something since
        self._usual = 0.0  # seconds that a delivery holds its place

    @property
    def is_full(self) -> bool:
        """Whether whoever comes now would have to wait."""
        return self._free == 0

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[bool]:
        """Hold a place while the block runs; False where there is none, and none is to be expected soon."""
        if not await self._get():
            yield False
            return
        began = asyncio.get_running_loop().time()
        try:
            yield True
        finally:
            took = asyncio.get_running_loop().time() - began
            if took < _HANGING_SECONDS:
                self._usual += (took - self._usual) * _WEIGHT
            self._give_back()

    async def _get(self) -> bool:
        clock = asyncio.get_running_loop().time
        if self._free > 0:
            self._free -= 1
            if self._free == 0:
                self._moved_at = clock()
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            while not turn.done():
                patience = self._moved_at + max(STUCK_SECONDS, self._usual * _TIMES_THE_USUAL) - clock()
                if patience <= 0:
                    self._waiting.remove(turn)
                    return False
                await asyncio.wait([turn], timeout=patience)
        except asyncio.CancelledError:
            if turn.done():
                self._give_back()
            else:
                self._waiting.remove(turn)
            raise
        return True

    def _give_back(self) -> None:
        self._moved_at = asyncio.get_running_loop().time()
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._free += 1
