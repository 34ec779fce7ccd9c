"""One AMQP connection kept open: several addresses in turn, jitter, a start without a broker.

Why not `connect_robust`: docs/decisions/0005-rabbitmq.md.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Literal

import aio_pika
import structlog
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelPreconditionFailed
from pamqp.common import FieldTable
from yarl import URL

LOSSES: Final = (TimeoutError, asyncio.CancelledError, *CONNECTION_EXCEPTIONS)
_HEARTBEAT_SECONDS: Final = 5  # a black hole is noticed after (5 + 1) * 3 s
_CONNECT_SECONDS: Final = 5.0
_DOUBTED_SECONDS: Final = 1.5  # how long a node that did not do something in time may take for a sign of life
_LOOK_SECONDS: Final = 5.0  # how often the topology is made sure of
_SLOWEST_RECONNECT: Final = 5.0

_RUNNING: Final[set[asyncio.Future[Any]]] = set()

_log = structlog.get_logger("broker")


class Link:
    """One connection, opened again whenever it is lost, by turns to each of the addresses."""

    def __init__(
        self, name: str, urls: Sequence[str], prepare: Callable[[AbstractConnection], Coroutine[Any, Any, None]]
    ) -> None:
        self._name = name
        self._urls = [_with_heartbeat(url) for url in urls]
        self._prepare = prepare
        self._connection: AbstractConnection | None = None
        self._up = asyncio.Event()
        self._look = asyncio.Event()
        self._prepared = asyncio.Event()
        self._doubted = False
        self._problem: str | None = "not connected yet"
        self._leaving: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._keep(), name=f"amqp {name}")

    @property
    def problem(self) -> str | None:
        """Why there is no usable connection now; None where there is one."""
        return "the connection is kept no more" if self._task.done() else self._problem

    async def connection(self) -> AbstractConnection:
        """The open connection; waits for one."""
        await self._up.wait()
        assert self._connection is not None
        return self._connection

    def look_now(self) -> None:
        """Have the topology declared and the consumers started soon, rather than at the next look."""
        self._look.set()

    def doubt(self) -> None:
        """A node that hangs is left for the next within seconds; its heartbeat would tell after 18."""
        self._doubted = True
        self._look.set()

    async def prepare_again(self) -> None:
        """Have the topology declared now, and wait until it was."""
        self._prepared.clear()
        self._look.set()
        await self._prepared.wait()

    async def close(self) -> None:
        """Close the connection and open none any more."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._let_go()
        if self._leaving:
            await asyncio.wait(self._leaving)

    async def _keep(self) -> None:
        failures = 0
        for url in itertools.cycle(self._urls):
            # Made before it connects and closed in any case: a Connection that was not closed closes itself when it is
            # collected, in whatever thread that happens.
            properties: FieldTable = {"connection_name": f"vectorcare-receiver {self._name}"}
            connection = self._connection = aio_pika.Connection(url, client_properties=properties)
            served = False
            try:
                await bounded(connection.connect(), _CONNECT_SECONDS)
            except LOSSES as error:
                raise_if_asked_to_stop()
                self._problem = describe(error)
                _log.warning("broker_unreachable", link=self._name, host=url.host, problem=self._problem)
            else:
                _log.info("broker_connected", link=self._name, host=url.host)
                served = await self._watch(connection)
                _log.warning("broker_lost", link=self._name, host=url.host, problem=self._problem)
            self._let_go()
            failures = 0 if served else failures + 1
            if failures:
                slowest = min(_SLOWEST_RECONNECT, 0.1 * 2 ** min(failures, 10))
                await asyncio.sleep(slowest * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _watch(self, connection: AbstractConnection) -> bool:
        """Until the connection is lost, or hangs; the topology is declared every few seconds, in case it went. Whether
        it ever was.

        The connection is used before that, because a cluster with a node that hangs routes and confirms, and declares
        nothing for a minute.
        """
        # connection.closed() tells only of a close of ours, so this listens for the others.
        closed: asyncio.Future[Literal[True]] = asyncio.get_running_loop().create_future()
        connection.close_callbacks.add(lambda *_: None if closed.done() else closed.set_result(True))
        self._up.set()
        served = False
        while not closed.done():
            self._look.clear()
            doubted, self._doubted = self._doubted, False
            if doubted and not await _answers(connection):
                self._problem = "the node hangs"
                return served
            try:
                await bounded(self._prepare(connection), _CONNECT_SECONDS)
                self._problem = None
                served = True
            except LOSSES as error:
                raise_if_asked_to_stop()
                self._problem = describe(error)
                _log.error("topology_not_declared", link=self._name, problem=self._problem)
                self._doubted = isinstance(error, TimeoutError)
            self._prepared.set()
            if not self._doubted:
                await self._look_or_loss(closed)
        return served

    async def _look_or_loss(self, closed: asyncio.Future[Literal[True]]) -> None:
        look = asyncio.create_task(self._look.wait())
        try:
            await asyncio.wait([closed, look], timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            look.cancel()

    def _let_go(self) -> None:
        """Leave the connection behind; a node that hangs may take long to say goodbye, and the next is not kept
        waiting for that."""
        self._up.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._problem = self._problem or "the connection was lost"
            leaving = asyncio.create_task(_say_goodbye(connection))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)


async def _answers(connection: AbstractConnection) -> bool:
    """Whether the node does the least that it can be asked for."""
    channel = connection.channel()
    try:
        await bounded(channel.initialize(), _DOUBTED_SECONDS)
        await bounded(channel.close(), _DOUBTED_SECONDS)
    except LOSSES:
        raise_if_asked_to_stop()
        return False
    return True


async def _say_goodbye(connection: AbstractConnection) -> None:
    try:
        await bounded(connection.close(), _CONNECT_SECONDS)
    except LOSSES:
        raise_if_asked_to_stop()


def _with_heartbeat(url: str) -> URL:
    parsed = URL(url)
    return parsed if "heartbeat" in parsed.query else parsed.update_query(heartbeat=_HEARTBEAT_SECONDS)


async def bounded(work: Awaitable[Any], seconds: float) -> None:
    """Wait for `work`, `seconds` at the most and not a moment longer; TimeoutError then.

    It runs in a task of its own, because aiormq meets a cancellation with a handshake, and one that a stalled broker
    never answers would keep whoever was cancelled for as long.
    """
    task = asyncio.ensure_future(work)
    _RUNNING.add(task)
    task.add_done_callback(_seen)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
        if not done:
            raise TimeoutError
        with losses_named():
            task.result()
    finally:
        task.cancel()


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Around what waits inside aiormq, which ends a waiter with a bare Exception where a connection closed without
    saying why: a ConnectionResetError instead, which is one of the LOSSES."""
    try:
        yield
    except Exception as error:
        if type(error) is Exception:
            raise ConnectionResetError("the connection closed without a reason") from None
        raise


def _seen(task: "asyncio.Future[Any]") -> None:
    _RUNNING.discard(task)
    if not task.cancelled():
        task.exception()


def raise_if_asked_to_stop() -> None:
    """A stalled broker ends what waits for it with a cancellation that nobody asked for; this tells it from ours."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def describe(error: BaseException) -> str:
    """An error's kind and, where RabbitMQ says it, which object has other arguments; never a URL or a body."""
    if isinstance(error, ChannelPreconditionFailed):
        return f"the topology on the broker has other arguments: {error}"
    return type(error).__name__
