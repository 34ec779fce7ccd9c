"""Something happened in this process; whoever waits for it looks again."""

import asyncio
import contextlib


class Bell:
    """Rung by one, heard by all who wait."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ring(self) -> None:
        """Wake whoever waits."""
        self._next.set()
        self._next = asyncio.Event()

    async def heard(self, within: float) -> None:
        """Return at the next ring, or after `within` seconds."""
        waiting = self._next
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await waiting.wait()
