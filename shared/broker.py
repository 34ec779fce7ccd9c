"""The broker port: what ingress and workers ask of a broker, whichever it is.

Two adapters keep it, `shared.rabbitmq` and `shared.embedded`; `tests/contract` holds both to one behaviour.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """What travels: a routing key, headers that are all strings, and the exact bytes."""

    routing_key: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Binding:
    """Messages of `exchange` whose key matches `pattern` (AMQP topic syntax) reach the queue."""

    exchange: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and what reaches it. `ours` queues dead-letter into the parked events' inbox."""

    name: str
    bindings: tuple[Binding, ...] = ()
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Topology:
    """Every exchange (topic, durable) and queue that must exist before anything is published."""

    exchanges: tuple[str, ...]
    queues: tuple[Queue, ...]


class Delivery(Protocol):
    """One message handed to us. One of ack, retry and park settles it; DeliveryLost where it is ours no more."""

    @property
    def message(self) -> Message:
        """The message under its original routing key."""

    @property
    def queue(self) -> str:
        """The queue that it came from."""

    @property
    def attempts(self) -> int:
        """How often it was handed back by `retry`; 0 the first time."""

    async def ack(self) -> None:
        """It is dealt with."""

    async def retry(self, after: float, *, counted: bool = True) -> None:
        """Hand it out again in `after` seconds, not earlier; `counted` raises `attempts`."""

    async def park(self, reason: str) -> None:
        """Move it to `receiver.dead-letters` with `reason` (a code, no PHI), its origin and its attempts."""


class Consumer(Protocol):
    """A running consumer of one queue."""

    @property
    def alive(self) -> bool:
        """Whether the broker is handing messages to it now."""

    async def cancel(self) -> None:
        """No delivery comes after this; those in hand can still be settled."""

    async def close(self) -> None:
        """Cancel and let go; what is in hand comes again to the next consumer."""


class Publisher(Protocol):
    """The half of a broker that the ingress needs; `ingress.spool` is one that needs no broker for a while."""

    async def publish(self, exchange: str, message: Message, *, mandatory: bool, timeout: float) -> None:
        """Return once the message is durable on the broker and, if `mandatory`, in at least one queue.

        Raises Unroutable where a mandatory message reached no queue, and Unavailable where that is not known
        within `timeout` seconds.
        """


class Broker(Publisher, Protocol):
    """A topic broker with confirmed publishes."""

    @property
    def problem(self) -> str | None:
        """Why nothing can be published now; None where it can."""

    async def put(self, queue: str, message: Message, *, timeout: float) -> None:
        """Put a message straight into one queue, from where it comes under its own routing key with no attempts.

        Raises as a mandatory `publish` does.
        """

    async def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> Consumer:
        """Call `on_delivery` for each message, at most `prefetch` unsettled at a time, and go on after every loss
        of the connection. Messages in the hands of a consumer that died come again."""

    def tail(self, bindings: tuple[Binding, ...]) -> AsyncGenerator[Message, None]:
        """Live copies of what is published from now on; nothing is kept when the iteration ends."""

    async def close(self) -> None:
        """Settle nothing more and let go; unsettled deliveries come again to the next consumer."""
