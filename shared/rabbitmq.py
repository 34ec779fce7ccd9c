"""The broker port on RabbitMQ, through aio-pika: connections kept open, confirmed publishes, settling by hand.

Publishing and consuming have a connection each, because a broker that blocks publishers must not stop
acknowledgements. Reconnecting is ours, see `shared.amqp_link`.
"""

import asyncio
import contextlib
import itertools
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, cast

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError, PublishError
from aiormq.channel import Channel
from pamqp.common import Arguments

from shared import topics
from shared.amqp_link import LOSSES, Link, bounded, describe, losses_named, raise_if_asked_to_stop
from shared.broker import Binding, Delivery, Message, Topology
from shared.errors import DeliveryLost, NotTaken, Unavailable, Unroutable
from shared.parking import ATTEMPTS, FIRST_FAILED_AT, ORIGIN_KEY, ORIGIN_QUEUE, REASON, parked_headers

RETRY_SECONDS: Final = (1, 5, 30, 120)
DEAD_LETTERING: Final[Arguments] = {
    "x-queue-type": "quorum",
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": topics.DEAD_LETTERS,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
_SUBSCRIPTION: Final[Arguments] = {"x-queue-type": "quorum"}
_RETRY_KEY: Final = "receiver-retry-key"
_RETRY_ATTEMPTS: Final = "receiver-retry-attempts"
_RETRY_DUE: Final = "receiver-retry-due"
_RETRY_FAILED_AT: Final = "receiver-retry-failed-at"
_PUBLISHING_CHANNELS: Final = 4
_IN_FLIGHT: Final = 64  # unconfirmed publishes; more are no faster and wait longer
_SETTLE_SECONDS: Final = 5.0
_DECLARE_SECONDS: Final = 2.5  # of the 5 that restoring may take
_PUBLISH_AGAIN_SECONDS: Final = 0.1
_SMALL_NUMBER: Final = re.compile(r"\d{1,12}(\.\d{1,6})?")

_log = structlog.get_logger("broker")


def delayed_headers(
    headers: Mapping[str, str], key: str, attempts: int, due: float, failed_at: float | None
) -> dict[str, str]:
    """Headers of a message that has been handed back `attempts` times, first at `failed_at`, and is not to be handed
    out before `due`; `key` is its original routing key."""
    if attempts == 0 and failed_at is None and due <= time.time():
        return dict(headers)
    return _waiting_headers(headers, key, attempts, due, failed_at)


def _waiting_headers(
    headers: Mapping[str, str], key: str, attempts: int, due: float, failed_at: float | None
) -> dict[str, str]:
    return {
        **headers,
        _RETRY_KEY: key,
        _RETRY_ATTEMPTS: str(attempts),
        _RETRY_DUE: f"{due:.3f}",
        **({_RETRY_FAILED_AT: f"{failed_at:.3f}"} if failed_at is not None else {}),
    }


def retry_queue(seconds: int) -> str:
    """The delay queue, and the fanout exchange of the same name that leads to it."""
    return f"receiver.retry.{seconds}s"


class RabbitBroker:
    """The broker port (`shared.broker.Broker`). Start it without a broker: it connects behind."""

    def __init__(self, urls: Sequence[str], topology: Topology) -> None:
        self._topology = topology
        self._publishing = Link("publish", urls, self._declare)
        self._consuming = Link("consume", urls, self._restore)
        self._channels: list[AbstractChannel | None] = [None] * _PUBLISHING_CHANNELS
        self._opening = [asyncio.Lock() for _ in self._channels]
        self._turn = itertools.cycle(range(_PUBLISHING_CHANNELS))
        self._in_flight = asyncio.Semaphore(_IN_FLIGHT)
        self._consumers: list[_Consumer] = []
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def problem(self) -> str | None:
        """See the port."""
        return self._publishing.problem or self._consuming.problem

    async def publish(self, exchange: str, message: Message, *, mandatory: bool, timeout: float) -> None:
        """See the port. Until its time is up a publish is made again, on a new connection if need be, so that a broker
        that restarts in a second costs a second; a message that was confirmed unheard is then published twice.
        """
        body = aio_pika.Message(
            message.body,
            headers=dict(message.headers),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        failures: list[Unavailable] = []
        try:
            # Around everything: waiting for a connection or a channel is outside any timeout of aio-pika's.
            async with asyncio.timeout(timeout), self._in_flight:
                await self._publish_until_confirmed(exchange, message.routing_key, body, mandatory, failures)
        except TimeoutError:
            if failures and isinstance(failures[-1], NotTaken):
                raise NotTaken(f"a queue took nothing for {timeout:g} s") from None
            self._publishing.doubt()
            raise Unavailable(f"the broker did not confirm within {timeout:g} s") from None

    async def put(self, queue: str, message: Message, *, timeout: float) -> None:
        """See the port. The default exchange leads to the queue; its own key travels as it does through a delay."""
        headers = {**message.headers, _RETRY_KEY: message.routing_key}
        await self.publish("", Message(queue, headers, message.body), mandatory=True, timeout=timeout)

    async def _publish_until_confirmed(
        self, exchange: str, key: str, body: aio_pika.Message, mandatory: bool, failures: list[Unavailable]
    ) -> None:
        declared_again = False
        while True:
            try:
                return await self._publish(exchange, key, body, mandatory)
            except Unroutable:
                if declared_again:
                    raise
                declared_again = True
                await self._publishing.prepare_again()
            except Unavailable as error:
                failures.append(error)
                await asyncio.sleep(_PUBLISH_AGAIN_SECONDS)

    async def _publish(self, exchange: str, key: str, body: aio_pika.Message, mandatory: bool) -> None:
        # Fresh each time: with two in flight under one id, aiormq reports a returned message as confirmed.
        body.message_id = uuid.uuid4().hex
        try:
            target = await self._exchange(exchange)
            with losses_named():
                await target.publish(body, key, mandatory=mandatory)
        except PublishError:  # its text holds the body, so it is neither chained nor logged
            raise Unroutable("no queue is bound for this message") from None
        except DeliveryError:
            self._drop_channels()  # after a leader's death a channel is nacked for long, a new one is not
            raise NotTaken("a queue refused the message") from None
        except LOSSES as error:
            raise_if_asked_to_stop()
            raise Unavailable(describe(error)) from None

    async def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> "_Consumer":
        """See the port."""
        consumer = _Consumer(self, queue, prefetch, on_delivery)
        self._consumers.append(consumer)
        self._consuming.look_now()
        return consumer

    async def tail(self, bindings: tuple[Binding, ...]) -> AsyncGenerator[Message, None]:
        """See the port. What is published while the connection is down is not seen."""
        while True:
            connection = await self._consuming.connection()
            arrived: asyncio.Queue[Message | None] = asyncio.Queue()
            try:
                async with connection.channel() as channel:
                    channel.close_callbacks.add(lambda *_: arrived.put_nowait(None), weak=False)  # noqa: B023
                    queue = await channel.declare_queue(exclusive=True, auto_delete=True)
                    for binding in bindings:
                        await queue.bind(binding.exchange, binding.pattern)

                    async def keep(incoming: AbstractIncomingMessage) -> None:
                        arrived.put_nowait(_message(incoming))  # noqa: B023

                    await queue.consume(keep, no_ack=True)
                    while (message := await arrived.get()) is not None:
                        yield message
            except CONNECTION_EXCEPTIONS as error:
                _log.warning("tail_interrupted", problem=describe(error))

    async def close(self) -> None:
        """See the port."""
        await self._consuming.close()
        await self._publishing.close()

    def forget(self, consumer: "_Consumer") -> None:
        """This consumer is closed."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    async def _exchange(self, name: str) -> AbstractExchange:
        turn = next(self._turn)
        async with self._opening[turn]:
            channel = self._channels[turn]
            if channel is None or channel.is_closed:
                connection = await self._publishing.connection()
                channel = connection.channel(on_return_raises=True)
                await bounded(channel.initialize(), _SETTLE_SECONDS)
                self._channels[turn] = channel
        return await channel.get_exchange(name, ensure=False) if name else channel.default_exchange

    def _drop_channels(self) -> None:
        for channel in filter(None, self._channels):
            closing = asyncio.create_task(_close(channel))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        self._channels = [None] * _PUBLISHING_CHANNELS

    async def _declare(self, connection: AbstractConnection) -> None:
        async with connection.channel() as channel:
            for name in self._topology.exchanges:
                await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
            for queue in self._topology.queues:
                arguments = DEAD_LETTERING if queue.ours else _SUBSCRIPTION
                declared = await channel.declare_queue(queue.name, durable=True, arguments=arguments)
                for binding in queue.bindings:
                    await declared.bind(binding.exchange, binding.pattern)
            for seconds in RETRY_SECONDS:
                await _declare_retry(channel, seconds)

    async def _restore(self, connection: AbstractConnection) -> None:
        """Declare and consume; where declaring hangs, because a node of the cluster does, consuming may not."""
        try:
            await bounded(self._declare(connection), _DECLARE_SECONDS)
        finally:
            for consumer in list(self._consumers):
                await consumer.start(connection)


async def _declare_retry(channel: AbstractChannel, seconds: int) -> None:
    # A fanout in front, so that the routing key stays free to name the queue to which the message goes back.
    name = retry_queue(seconds)
    exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.FANOUT, durable=True)
    arguments: Arguments = {
        "x-queue-type": "quorum",
        "x-message-ttl": seconds * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    queue = await channel.declare_queue(name, durable=True, arguments=arguments)
    await queue.bind(exchange)


class _Consumer:
    """One queue's consumer, started again on each new connection and whenever the broker cancelled it."""

    def __init__(
        self, broker: RabbitBroker, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> None:
        self._broker = broker
        self._name = queue
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._channel: AbstractChannel | None = None
        self._tag = ""
        self._consumers: dict[str, Any] = {}
        self._cancelled = False

    @property
    def alive(self) -> bool:
        """See the port."""
        return self._channel is not None and not self._channel.is_closed and self._tag in self._consumers

    async def start(self, connection: AbstractConnection) -> None:
        """Consume on a channel of this connection, unless it is being done."""
        if self._cancelled or self.alive:
            return
        if self._channel is not None:
            await self._channel.close()
        self._channel = connection.channel()
        await self._channel.initialize()
        await self._channel.set_qos(prefetch_count=self._prefetch)
        queue = await self._channel.get_queue(self._name, ensure=False)
        self._tag = await queue.consume(self._receive)
        # aiormq forgets the tag when the broker cancels a consumer (its queue was deleted); nothing else tells.
        self._consumers = cast("Channel", await self._channel.get_underlay_channel()).consumers

    async def cancel(self) -> None:
        """See the port."""
        self._cancelled = True
        if self._channel is None or not self.alive:
            return
        with contextlib.suppress(TimeoutError, *CONNECTION_EXCEPTIONS):
            queue = await self._channel.get_queue(self._name, ensure=False)
            await bounded(queue.cancel(self._tag), _SETTLE_SECONDS)

    async def close(self) -> None:
        """See the port."""
        await self.cancel()
        self._broker.forget(self)
        if self._channel is not None:
            await _close(self._channel)

    async def _receive(self, incoming: AbstractIncomingMessage) -> None:
        delivery = _Delivery(self._broker, incoming, self._name)
        if self._cancelled:
            await delivery.retry(0, counted=False)
        elif delivery.due > time.time():
            await delivery.wait_on()
        else:
            self._on_delivery(delivery)


class _Delivery:
    """The delivery port on a message that aio-pika handed over."""

    def __init__(self, broker: RabbitBroker, incoming: AbstractIncomingMessage, queue: str) -> None:
        self._broker = broker
        self._incoming = incoming
        self._queue = queue
        self._message = _message(incoming)
        was_delayed = _was_delayed(incoming)
        self._attempts = int(_number(incoming.headers.get(_RETRY_ATTEMPTS))) if was_delayed else 0
        self._failed_at = (_number(incoming.headers.get(_RETRY_FAILED_AT)) or None) if was_delayed else None
        self.due = _number(incoming.headers.get(_RETRY_DUE)) if was_delayed else 0.0

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
        with _settling():
            await self._incoming.ack()

    async def retry(self, after: float, *, counted: bool = True) -> None:
        """See the port. Goes through the delay queues, in as many steps as it takes, so never early."""
        if after <= 0 and not counted:
            with _settling():
                await self._incoming.nack(requeue=True)
        else:
            now = time.time()
            failed_at = now if counted and self._failed_at is None else self._failed_at
            await self._delay(now + after, self._attempts + counted, failed_at)

    async def wait_on(self) -> None:
        """Not due yet: the next step of a delay."""
        with contextlib.suppress(Unavailable, DeliveryLost):
            await self._delay(self.due, self._attempts, self._failed_at)

    async def park(self, reason: str) -> None:
        """See the port."""
        headers = parked_headers(self._message, reason, self._queue, self._attempts, self._failed_at, time.time())
        await self._move("", Message(topics.DEAD_LETTERS, headers, self._message.body))

    async def _delay(self, due: float, attempts: int, failed_at: float | None) -> None:
        left = due - time.time()
        seconds = max((step for step in RETRY_SECONDS if step <= left), default=RETRY_SECONDS[0])
        message = self._message
        headers = _waiting_headers(message.headers, message.routing_key, attempts, due, failed_at)
        await self._move(retry_queue(seconds), Message(self._queue, headers, self._message.body))

    async def _move(self, exchange: str, message: Message) -> None:
        """Confirmed there before acknowledged here: a crash between leaves two, never none. What can't be moved is
        handed back, because on a channel that lives an unsettled message would never come again."""
        try:
            await self._broker.publish(exchange, message, mandatory=True, timeout=_SETTLE_SECONDS)
        except Unavailable:
            with _settling():
                await self._incoming.nack(requeue=True)
            raise
        with _settling():
            await self._incoming.ack()


@contextlib.contextmanager
def _settling() -> Any:
    try:
        with losses_named():
            yield
    except CONNECTION_EXCEPTIONS:
        raise DeliveryLost("the channel of this delivery is gone; it comes again") from None


def _message(incoming: AbstractIncomingMessage) -> Message:
    """What was published: retry's own headers and the server's (x-…) are left out, the key is the original one."""
    headers = {
        name: value
        for name, value in incoming.headers.items()
        if isinstance(value, str) and not name.startswith(("x-", "receiver-retry-"))
    }
    key = incoming.headers.get(_RETRY_KEY) if _was_delayed(incoming) else None
    if incoming.routing_key == topics.DEAD_LETTERS:
        headers = _dead_lettered(incoming) | headers
        key = headers.get(ORIGIN_KEY, key)
    return Message(key if isinstance(key, str) else incoming.routing_key or "", headers, incoming.body)


def _was_delayed(incoming: AbstractIncomingMessage) -> bool:
    """Whether it came through an exchange of ours, as what we delay, park or move does. The headers of a message that
    was published to an exchange of topics are its publisher's: they must not give it another key or customer."""
    return not incoming.exchange or incoming.exchange.startswith("receiver.")


def _dead_lettered(incoming: AbstractIncomingMessage) -> dict[str, str]:
    """The story of a message that the broker itself dead-lettered, its delivery limit reached for example; nothing for
    one that came out of a delay."""
    deaths = incoming.headers.get("x-death")
    last = deaths[0] if isinstance(deaths, list) and deaths else None
    if not isinstance(last, dict):
        return {}
    queue, reason, keys = last.get("queue"), last.get("reason"), last.get("routing-keys")
    if not isinstance(queue, str) or not isinstance(reason, str) or queue.startswith("receiver.retry."):
        return {}
    story: dict[str, Any] = {ORIGIN_QUEUE: queue, REASON: f"broker_{reason}"}
    story[ORIGIN_KEY] = incoming.headers.get(_RETRY_KEY) or (keys[0] if isinstance(keys, list) and keys else None)
    story[ATTEMPTS] = incoming.headers.get(_RETRY_ATTEMPTS)
    failed_at = _number(incoming.headers.get(_RETRY_FAILED_AT))
    story[FIRST_FAILED_AT] = topics.rfc3339(failed_at) if failed_at else None
    return {name: value for name, value in story.items() if isinstance(value, str)}


def _number(value: object) -> float:
    return float(value) if isinstance(value, str) and _SMALL_NUMBER.fullmatch(value) else 0.0


async def _close(channel: AbstractChannel) -> None:
    with contextlib.suppress(*LOSSES):
        await bounded(channel.close(), _SETTLE_SECONDS)
