"""The spool: where a webhook is kept, fsynced, while the broker can't confirm; and its way from there to the broker.

It has no storage of its own: it is an embedded broker in front with one queue, and a forwarder to the main one.
Several ingress processes of a machine may share the file.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from shared import metrics, queue_rows, topics, traces
from shared.broker import Binding, Broker, Message, Queue, Topology
from shared.embedded import EmbeddedBroker
from shared.engine import Engine
from shared.errors import Unavailable
from shared.forwarder import Forwarder
from shared.sealing import Sealer

QUEUE: Final = "spool"
DIRECT_SECONDS: Final = 1.0  # how long the broker may take before the spool is used instead
_FORWARD_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 1.0
_TOPOLOGY: Final = Topology((topics.WEBHOOKS,), (Queue(QUEUE, (Binding(topics.WEBHOOKS, "#"),)),))

_log = structlog.get_logger("spool")


class Spool:
    """The publisher port (`shared.broker.Publisher`) that needs no broker for a while. It closes its file itself.

    One publish that misses its deadline sends all later ones straight to the spool, until one from there was confirmed.
    """

    def __init__(self, main: Broker, engine: Engine, kept: EmbeddedBroker) -> None:
        self._main = main
        self._engine = engine
        self._kept = kept
        self._detour = False
        self._putting = 0
        self._refused: str | None = None
        self._depth = 0
        self._oldest_seconds = 0.0
        self._forwarder = Forwarder(kept, QUEUE, self._forward)
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, main: Broker, path: Path, most_bytes: int, sealer: Sealer) -> "Spool":
        """Open the file, and begin to forward what was left in it."""
        engine = Engine(path)
        try:
            kept = await EmbeddedBroker.open(engine, sealer, _TOPOLOGY, most_bytes=most_bytes)
            spool = cls(main, engine, kept)
            await spool._start()
        except BaseException:
            await engine.close()
            raise
        return spool

    @property
    def problem(self) -> str | None:
        """Why a webhook may be refused now; None where it would be taken, by the broker or by the spool."""
        return self._refused or self._forwarder.problem

    @property
    def detour(self) -> str | None:
        """Why new events go to the spool now; None where they go to the broker."""
        return self._main.problem or ("it did not confirm in time" if self._detour else None)

    def notes(self) -> Mapping[str, str]:
        """What somebody should look at although webhooks are taken."""
        notes = {}
        if self.detour:
            notes["broker"] = f"{self.detour}; webhooks are kept in the spool"
        if self._depth:
            notes["spool"] = f"{self._depth} events wait for the broker, the oldest for {self._oldest_seconds:.0f} s"
        return notes

    async def publish(self, exchange: str, message: Message, *, mandatory: bool, timeout: float) -> None:
        """See the port. Durable means confirmed and routed by the broker, or fsynced here."""
        deadline = time.monotonic() + timeout
        if self.detour is None:
            try:
                # Half of the time at the most, so that the spool has the other half.
                direct = min(DIRECT_SECONDS, timeout / 2)
                await self._main.publish(exchange, message, mandatory=mandatory, timeout=direct)
            except Unavailable as error:
                if not self._detour:
                    _log.warning("spooling", problem=str(error))
                self._detour = True
            else:
                self._refused = None
                return
        await self._put(exchange, message, max(0.1, deadline - time.monotonic()))

    async def close(self) -> None:
        """Forward no more, and close the file; what is in it is forwarded by the next process."""
        await self._forwarder.stop()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await self._kept.close()
        await self._engine.close()

    async def _start(self) -> None:
        await self._forwarder.start()
        self._watching = asyncio.create_task(self._watch(), name="watch spool")

    async def _put(self, exchange: str, message: Message, timeout: float) -> None:
        self._putting += 1
        try:
            await self._kept.publish(exchange, message, mandatory=True, timeout=timeout)
        except Unavailable as error:
            self._refused = f"neither the broker nor the spool took a webhook: {error}"
            raise
        finally:
            self._putting -= 1
        self._refused = None
        metrics.SPOOLED.inc()
        traces.running().say(spooled="yes")

    async def _forward(self, message: Message) -> None:
        with traces.passing_on(topics.WEBHOOKS, message):
            await self._main.publish(topics.WEBHOOKS, message, mandatory=True, timeout=_FORWARD_SECONDS)
        metrics.FORWARDED.inc()
        self._go_direct()

    def _go_direct(self) -> None:
        if self._detour:
            self._detour = False
            _log.info("publishing_directly")

    async def _watch(self) -> None:
        while True:
            try:
                count, headers = await self._engine.read(lambda connection: queue_rows.waiting(connection, QUEUE))
            except Unavailable as error:
                _log.error("spool_not_read", problem=str(error))
            else:
                self._depth = count
                self._oldest_seconds = _age(headers or {}, time.time())
                metrics.SPOOL_EVENTS.set(count)
                metrics.SPOOL_OLDEST.set(self._oldest_seconds)
                if count == 0 and self._putting == 0:
                    self._go_direct()  # all of it was confirmed, if by another process of this machine
                    self._refused = None
            await asyncio.sleep(_LOOK_SECONDS)


def _age(headers: Mapping[str, str], now: float) -> float:
    try:
        return max(0.0, now - datetime.fromisoformat(headers["ce-receivedtime"]).timestamp())
    except (KeyError, ValueError):
        return 0.0
