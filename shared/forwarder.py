"""Moves what lies in one queue to another broker: oldest first, each deleted only after its confirm there.

A broker that does not answer is asked for one message at a time, with growing pauses; the rest waits in its order.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from shared.broker import Broker, Consumer, Delivery, Message
from shared.errors import DeliveryLost, NotTaken, Unavailable, Unroutable

_AT_ONCE: Final = 32
_IN_HAND: Final = 2 * _AT_ONCE  # so that the next are there when these are confirmed
_SHORTEST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 3.0  # an offer that waits is being lost to another meanwhile
_STEPPED_OVER_SECONDS: Final = 5.0  # what one queue refuses must not hold up what others would take

_log = structlog.get_logger("forwarder")

Send = Callable[[Message], Awaitable[None]]


class Forwarder:
    """Runs until `stop`. `send` publishes one message, and raises Unavailable where that was not confirmed."""

    def __init__(self, source: Broker, queue: str, send: Send) -> None:
        self._source = source
        self._queue = queue
        self._send = send
        self._held: deque[Delivery] = deque()
        self._arrived = asyncio.Event()
        self._refused_until: dict[str, float] = {}
        self._failures = 0
        self._consumer: Consumer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str | None:
        """Why nothing is moved any more; None while it is tried."""
        return None if self._task is not None and not self._task.done() else "nothing is being forwarded"

    async def start(self) -> None:
        """Begin to move."""
        self._consumer = await self._source.consume(self._queue, _IN_HAND, self._take)
        self._task = asyncio.create_task(self._run(), name=f"forward {self._queue}")

    async def stop(self) -> None:
        """Move no more; what is in hand is handed back."""
        if self._consumer is not None:
            await self._consumer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await asyncio.gather(*(_hand_back(delivery, 0) for delivery in self._held))

    def _take(self, delivery: Delivery) -> None:
        self._held.append(delivery)
        self._arrived.set()

    async def _run(self) -> None:
        while True:
            self._arrived.clear()
            if not self._held:
                await self._arrived.wait()
                continue
            await self._move(1 if self._failures else _AT_ONCE)
            if self._failures:
                await asyncio.sleep(self._pause())

    async def _move(self, most: int) -> None:
        """Try the oldest; those that the broker did not confirm stay in front, in their order."""
        batch = [self._held.popleft() for _ in range(min(most, len(self._held)))]
        try:
            left = await asyncio.gather(*(self._forward(delivery) for delivery in batch))
        except asyncio.CancelledError:
            self._held.extendleft(reversed(batch))
            raise
        self._held.extendleft(
            delivery for delivery, stays in zip(reversed(batch), reversed(left), strict=True) if stays
        )
        if not any(left):
            self._failures = 0
        else:
            self._failures += 1

    async def _forward(self, delivery: Delivery) -> bool:
        """Whether it must be tried again before all that came later."""
        kind = _kind(delivery.message)
        left = self._refused_until.get(kind, 0.0) - time.monotonic()
        if left > 0:
            await _hand_back(delivery, left)
            return False
        try:
            await self._send(delivery.message)
        except (NotTaken, Unroutable) as error:
            _log.warning("not_taken", queue=self._queue, kind=kind, problem=str(error))
            self._refused_until[kind] = time.monotonic() + _STEPPED_OVER_SECONDS
            await _hand_back(delivery, _STEPPED_OVER_SECONDS)
            return False
        except Unavailable as error:
            _log.warning("not_forwarded", queue=self._queue, problem=str(error))
            return True
        self._refused_until.pop(kind, None)
        with contextlib.suppress(DeliveryLost, Unavailable):  # then it is moved once more, under its old id
            await delivery.ack()
        return False

    def _pause(self) -> float:
        slowest: float = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2 ** min(self._failures - 1, 10))
        return slowest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


async def _hand_back(delivery: Delivery, after: float) -> None:
    with contextlib.suppress(DeliveryLost, Unavailable):  # then its lease runs out
        await delivery.retry(after, counted=False)


def _kind(message: Message) -> str:
    """What decides the queue that a webhook reaches: the status in its key."""
    words = message.routing_key.split(".")
    return words[1] if len(words) > 1 else ""
