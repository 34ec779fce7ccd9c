"""The embedded broker: the broker port on one SQLite file, for a provider whose one machine is enough.

A message is a row for each queue that it reached. Claiming a row makes it invisible for a lease and gives a receipt;
whoever holds the receipt settles the row. A process that died lets its leases run out, and the rows come again.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import Connection, Delete, Row, Update

from shared import queue_rows, topics
from shared.broker import Binding, Delivery, Message, Topology
from shared.database import Work
from shared.engine import Engine
from shared.errors import DeliveryLost, Unavailable, Unroutable
from shared.parking import parked_headers
from shared.sealing import CannotOpen, Sealer

LEASE_SECONDS: Final = 10.0  # after a crash its deliveries come again this much later
_POLL_SECONDS: Final = 0.05  # how late a message of another process may be seen
_CLAIM_AGAIN_SECONDS: Final = 1.0
_CLOCK_WENT_BACK: Final = 1.0  # seconds; less is no jump, and costs no more than that
_UNOPENED_SECONDS: Final = 60.0  # a body whose key is missing is looked at again after this

T = TypeVar("T")

_log = structlog.get_logger("broker")


class EmbeddedBroker:
    """The broker port (`shared.broker.Broker`) on an engine; `open` declares the topology."""

    def __init__(
        self, engine: Engine, sealer: Sealer, *, lease: float = LEASE_SECONDS, most_bytes: int | None = None
    ) -> None:
        self._engine = engine
        self._sealer = sealer
        self._lease = lease
        self._most_bytes = most_bytes
        self._arrivals: dict[str, asyncio.Event] = {}
        self._consumers: list[_Consumer] = []

    @classmethod
    async def open(
        cls,
        engine: Engine,
        sealer: Sealer,
        topology: Topology,
        *,
        lease: float = LEASE_SECONDS,
        most_bytes: int | None = None,
    ) -> "EmbeddedBroker":
        """Migrate the file and declare what must exist. What would fill it beyond `most_bytes` is Unavailable."""
        broker = cls(engine, sealer, lease=lease, most_bytes=most_bytes)
        await engine.migrate("shared.migrations.versions", "broker_version")
        await engine.transact(lambda connection, _: queue_rows.declare(connection, topology))
        return broker

    @property
    def engine(self) -> Engine:
        """The file that it is on."""
        return self._engine

    @property
    def problem(self) -> str | None:
        """Always None: the file is this process's own, and a publish that fails says so itself."""
        return None

    async def publish(self, exchange: str, message: Message, *, mandatory: bool, timeout: float) -> None:
        """See the port. Durable means fsynced."""
        body = self._sealer.seal(message.body)

        def work(connection: Connection, now: float) -> frozenset[str]:
            self._check_room(connection, len(body))
            return queue_rows.publish(connection, now, exchange, message, body)

        reached = await self._within(timeout, work)
        if mandatory and not reached:
            raise Unroutable(f"no queue is bound for this message on {exchange}")
        for name in reached:
            self.arrival(name).set()

    async def put(self, queue: str, message: Message, *, timeout: float) -> None:
        """See the port."""
        body = self._sealer.seal(message.body)
        if not await self._within(
            timeout, lambda connection, now: queue_rows.put(connection, now, queue, message, body)
        ):
            raise Unroutable(f"there is no queue {queue}")
        self.arrival(queue).set()

    async def _within(self, timeout: float, work: Work[T]) -> T:
        try:
            async with asyncio.timeout(timeout):
                return await self._engine.transact(work)
        except TimeoutError:
            raise Unavailable(f"the embedded broker did not confirm within {timeout:g} s") from None

    def _check_room(self, connection: Connection, size: int) -> None:
        if self._most_bytes is not None and queue_rows.bytes_in_use(connection) + size > self._most_bytes:
            raise Unavailable(f"{self._engine.path.name} is full: it holds its {self._most_bytes} bytes")

    async def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> "_Consumer":
        """See the port."""
        consumer = _Consumer(self, self._engine, self._sealer, queue, prefetch, on_delivery, self._lease)
        self._consumers.append(consumer)
        return consumer

    async def tail(self, bindings: tuple[Binding, ...]) -> AsyncGenerator[Message, None]:
        """See the port. Keeps a queue of its own while it is read, forgotten 30 s after its reader died."""
        name = f"tail-{uuid.uuid4().hex}"
        await self._engine.transact(lambda connection, now: queue_rows.declare_tail(connection, now, name, bindings))
        try:
            while True:
                rows = await self._engine.transact(
                    lambda connection, now: queue_rows.take(connection, now, name, bindings)
                )
                for row in rows:
                    yield Message(row.routing_key, row.headers, self._sealer.open(row.body))
                renewed = time.monotonic()
                while not await self.arrived(name) and time.monotonic() - renewed < queue_rows.TAIL_SECONDS / 3:
                    pass
        finally:
            await self._engine.transact(lambda connection, _: queue_rows.forget(connection, name))

    async def close(self) -> None:
        """Stop every consumer; what they hold comes again when its lease ends. The engine stays open."""
        for consumer in list(self._consumers):
            await consumer.close()

    def forget(self, consumer: "_Consumer") -> None:
        """This consumer is closed."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def arrival(self, queue: str) -> asyncio.Event:
        """Set when this process put something into `queue`."""
        return self._arrivals.setdefault(queue, asyncio.Event())

    async def arrived(self, queue: str) -> bool:
        """Whether something in `queue` may be visible, asked for up to 50 ms: this process tells at once, of another's
        messages and of delays that are over the file is asked. Both waiters on one queue may be told of one message."""
        arrival = self.arrival(queue)
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await arrival.wait()
        except TimeoutError:
            return await self._engine.read(lambda connection: queue_rows.anything(connection, queue))
        arrival.clear()
        return True


class _Consumer:
    """Claims rows of one queue while it has room, and renews the leases of what it holds."""

    def __init__(
        self,
        broker: EmbeddedBroker,
        engine: Engine,
        sealer: Sealer,
        queue: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        lease: float,
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._sealer = sealer
        self._queue = queue
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._lease = lease
        self._held: dict[int, _Delivery] = {}
        self._room = asyncio.Event()
        self._stopping = False
        self._latest = 0.0
        self._claiming = asyncio.create_task(self._claim_for_ever(), name=f"claim {queue}")
        self._renewing = asyncio.create_task(self._renew_for_ever(), name=f"renew {queue}")

    @property
    def alive(self) -> bool:
        """See the port."""
        return not self._claiming.done()

    async def cancel(self) -> None:
        """See the port. A claim under way is finished and handed straight back."""
        self._stopping = True
        self._room.set()
        self._broker.arrival(self._queue).set()
        await asyncio.wait([self._claiming])

    async def close(self) -> None:
        """See the port. What is in hand comes again when its lease ends."""
        await self.cancel()
        self._renewing.cancel()
        self._broker.forget(self)

    async def settle(
        self,
        delivery: "_Delivery",
        statement: Delete | Update,
        values: Callable[[float], dict[str, Any]],
        wakes: str | None,
    ) -> None:
        """Apply a settlement to the row; DeliveryLost where the receipt is no longer the row's."""
        self._held.pop(delivery.row_id, None)
        self._room.set()
        mine = {"row": delivery.row_id, "held": delivery.receipt}
        changed = await self._engine.transact(
            lambda connection, now: connection.execute(statement, values(now) | mine).rowcount
        )
        if not changed:
            raise DeliveryLost("the lease of this delivery ran out; it comes again")
        if wakes:
            self._broker.arrival(wakes).set()

    async def _claim_for_ever(self) -> None:
        while not self._stopping:
            self._room.clear()
            room = self._prefetch - len(self._held)
            if room <= 0:
                await self._room.wait()
                continue
            try:
                claimed = await self._claim(room)
                if not claimed:
                    await self._arrival()
            except Unavailable as error:  # the file is held, or its disk is full: it may not be for ever
                _log.error("claim_failed", queue=self._queue, problem=str(error))
                await asyncio.sleep(_CLAIM_AGAIN_SECONDS)
                continue
            if self._stopping:
                await self._hand_back(claimed)
                return
            for delivery in claimed:
                self._on_delivery(delivery)

    async def _arrival(self) -> None:
        while not self._stopping and not await self._broker.arrived(self._queue):
            if time.time() < self._latest - _CLOCK_WENT_BACK:
                return

    async def _claim(self, room: int) -> "list[_Delivery]":
        receipt = uuid.uuid4().hex

        def claim(connection: Connection, now: float) -> list[Row[Any]]:
            if now < self._latest - _CLOCK_WENT_BACK:
                queue_rows.wake(connection, now, self._queue, self._lease)
            self._latest = now
            return queue_rows.claim(connection, now, self._queue, room, receipt, self._lease)

        rows = await self._engine.transact(claim)
        claimed = []
        for row in rows:
            try:
                body = self._sealer.open(row.body)
            except CannotOpen as error:
                _log.error("message_not_opened", queue=self._queue, message=row.id, problem=str(error))
                with contextlib.suppress(Unavailable):  # then its lease runs out, which is as good
                    await self._engine.transact(
                        lambda connection, now, row=row: queue_rows.postpone(connection, now, row.id, _UNOPENED_SECONDS)  # type: ignore[misc]
                    )
                continue
            delivery = _Delivery(self, row, receipt, self._queue, body)
            self._held[row.id] = delivery
            claimed.append(delivery)
        return claimed

    async def _hand_back(self, claimed: "list[_Delivery]") -> None:
        for delivery in claimed:
            with contextlib.suppress(Unavailable, DeliveryLost):  # then its lease runs out
                await delivery.retry(0, counted=False)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            held = [{"row": delivery.row_id, "held": delivery.receipt} for delivery in self._held.values()]
            if not held:
                continue
            try:
                await self._engine.transact(
                    lambda connection, now, held=held: connection.execute(  # type: ignore[misc]
                        queue_rows.RENEW, [row | {"until": now + self._lease} for row in held]
                    )
                )
            except Unavailable as error:
                _log.error("renewal_failed", queue=self._queue, problem=str(error))


class _Delivery:
    """The delivery port on a claimed row."""

    def __init__(self, consumer: _Consumer, row: Row[Any], receipt: str, queue: str, body: bytes) -> None:
        self._consumer = consumer
        self.row_id: int = row.id
        self.receipt = receipt
        self._queue = queue
        self._attempts: int = row.attempts
        self._failed_at: float | None = row.failed_at
        self._message = Message(row.routing_key, row.headers, body)

    @property
    def message(self) -> Message:
        """See the port."""
        return self._message

    @property
    def queue(self) -> str:
        """See the port."""
        return self._queue

    @property
    def attempts(self) -> int:
        """See the port."""
        return self._attempts

    async def ack(self) -> None:
        """See the port."""
        await self._consumer.settle(self, queue_rows.ACK, lambda _: {}, None)

    async def retry(self, after: float, *, counted: bool = True) -> None:
        """See the port."""

        def again(now: float) -> dict[str, Any]:
            failed_at = now if counted and self._failed_at is None else self._failed_at
            return {
                "visible_at": now + after,
                "attempts": self._attempts + counted,
                "deliveries": 0,
                "receipt": None,
                "failed_at": failed_at,
            }

        await self._consumer.settle(self, queue_rows.SETTLE, again, self._queue)

    async def park(self, reason: str) -> None:
        """See the port."""
        await self._consumer.settle(self, queue_rows.SETTLE, lambda now: self._parked(reason, now), topics.DEAD_LETTERS)

    def _parked(self, reason: str, now: float) -> dict[str, Any]:
        headers = parked_headers(self._message, reason, self._queue, self._attempts, self._failed_at, now)
        return queue_rows.in_dead_letters(headers, now)
