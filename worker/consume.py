"""Takes deliveries of one queue, keeps customers out of each other's way, and settles each by what its handler said."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from shared import metrics, topics, traces
from shared.broker import Broker, Consumer, Delivery, Message
from shared.errors import DeliveryLost, Unavailable
from worker.assignment import Settle
from worker.brake import Brake, pause
from worker.lane import Lane

UNEXPECTED: Final = "unexpected_error"
_HANDED_BACK_FOR: Final = 5.0  # seconds, where a customer's lane hangs: as long as a call may, and one delay queue's
_UNAVAILABLE_AGAIN: Final = 2.0
_UNEXPECTED_AGAIN: Final = (1.0, 5.0, 30.0)  # then it is parked
_BRAKED_AGAIN: Final = 5.0

_log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class Handled:
    """What a handler did: how to settle, a stable name for it, and ids for the log."""

    settle: Settle
    note: str
    ids: dict[str, str]


Handler = Callable[[Delivery], Awaitable[Handled]]


def _customer_of(message: Message) -> str:
    return message.headers.get("ce-customerid", "")


async def _nothing(_: Delivery) -> None:
    pass


async def _hand_back(delivery: Delivery) -> None:
    with contextlib.suppress(DeliveryLost, Unavailable):  # then it comes again when its lease or channel ends
        await delivery.retry(0, counted=False)


class Intake:
    """One queue's deliveries, each handled in a task of its own; `stop` waits for those in hand. `note` writes down
    what has to wait for its turn, where its order matters.

    Braked (`worker.brake`), it takes nothing, and tries one delivery after a pause that grows until one succeeds.
    """

    def __init__(
        self,
        queue: str,
        handler: Handler,
        in_flight_per_customer: int,
        known: frozenset[str],
        customer_of: Callable[[Message], str] = _customer_of,
        note: Callable[[Delivery], Awaitable[None]] = _nothing,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._known = known
        self._customer_of = customer_of
        self._note = note
        self._limit = in_flight_per_customer
        self._lanes: dict[str, Lane] = {}
        self._tasks: dict[asyncio.Task[None], Delivery] = {}
        self._broker: Broker
        self._prefetch = 0
        self._consumer: Consumer | None = None
        self._brake = Brake(len(known))
        self._braking: asyncio.Task[None] | None = None
        self._tried: asyncio.Future[bool] | None = None

    @property
    def queue(self) -> str:
        """The queue."""
        return self._queue

    @property
    def problem(self) -> str | None:
        """Why nothing is taken from the queue; None where it is."""
        if self._braking is not None:
            return f"{self._queue} is braked after unexpected errors in a row; see unexpected_error in the log"
        return None if self._alive() else f"nothing is being consumed from {self._queue}"

    async def start(self, broker: Broker, prefetch: int) -> None:
        """Begin to take deliveries."""
        self._broker = broker
        self._prefetch = prefetch
        self._consumer = await broker.consume(self._queue, prefetch, self._take)
        metrics.CONSUMERS.labels(self._queue).set_function(self._alive)
        metrics.BRAKE.labels(self._queue).set_function(lambda: self._braking is not None)

    async def stop(self, within: float) -> None:
        """Take no more, finish what is in hand; what is not finished `within` seconds is handed back."""
        if self._braking is not None:
            self._braking.cancel()
            await asyncio.wait([self._braking])
        if self._consumer is not None:
            await self._consumer.cancel()
        if self._tasks:
            _, unfinished = await asyncio.wait(self._tasks, timeout=within)
            if unfinished:
                _log.warning("stopped_unfinished", queue=self._queue, deliveries=len(unfinished))
            handed_back = [self._tasks[task] for task in unfinished]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
            await asyncio.gather(*(_hand_back(delivery) for delivery in handed_back))

    def _alive(self) -> bool:
        return self._consumer is not None and self._consumer.alive

    def _take(self, delivery: Delivery) -> None:
        # A task of our own: those of the AMQP library are cancelled when its channel drops, in the middle of a call.
        task = asyncio.create_task(self._handle(delivery), name=f"handle {self._queue}")
        self._tasks[task] = delivery
        task.add_done_callback(self._tasks.pop)

    async def _handle(self, delivery: Delivery) -> None:
        customer = self._customer_of(delivery.message)
        customer = customer if customer in self._known else "unknown"
        lane = self._lanes.setdefault(customer, Lane(self._limit))
        if lane.is_full:
            await self._note_waiting(delivery)
        async with lane.place() as has_place:
            if not has_place:
                # This customer's calls hang: its deliveries must not fill the prefetch that all customers share.
                await self._settle(delivery, customer, Settle(_HANDED_BACK_FOR, counted=False))
                return
            with traces.handling(self._queue, delivery.message, delivery.attempts) as span:
                await self._handle_in_place(delivery, customer, span)

    async def _note_waiting(self, delivery: Delivery) -> None:
        try:
            await self._note(delivery)
        except Unavailable:
            return  # its turn will say so
        except Exception as error:  # noqa: BLE001 - its turn will meet it again, and count it
            _log.error("not_noted", queue=self._queue, exc_info=error)

    async def _handle_in_place(self, delivery: Delivery, customer: str, span: traces.Span) -> None:
        received = topics.received_at(delivery.message.headers)
        if received is not None and delivery.attempts == 0:
            metrics.QUEUE_WAIT.labels(self._queue).observe(max(0.0, time.time() - received))
        started = time.perf_counter()
        handled = await self._outcome(delivery, customer)
        seconds = time.perf_counter() - started
        settled = await self._settle(delivery, customer, handled.settle)
        span.say(customer=customer, note=handled.note, settled=settled, **handled.ids)
        metrics.EVENT_SECONDS.labels(self._queue).observe(seconds)
        _log.info(
            "event_handled",
            queue=self._queue,
            customer=customer,
            note=handled.note,
            settled=settled,
            attempts=delivery.attempts,
            milliseconds=round(seconds * 1000, 1),
            **handled.ids,
        )

    async def _outcome(self, delivery: Delivery, customer: str) -> Handled:
        try:
            handled = await self._handler(delivery)
        except Unavailable as error:
            _log.warning("store_or_broker_unavailable", queue=self._queue, problem=str(error))
            traces.running().fail(type(error).__name__)
            return Handled(Settle(_UNAVAILABLE_AGAIN, counted=False), "unavailable", {})
        except Exception as error:  # noqa: BLE001 - logged with its place, tried again a few times, then parked
            _log.error("unexpected_error", queue=self._queue, exc_info=error)
            traces.running().fail(type(error).__name__)
            if self._is_braked(customer, delivery.message.headers.get("ce-id", "")):
                return Handled(Settle(_BRAKED_AGAIN, counted=False), UNEXPECTED, {})
            if delivery.queue == topics.DEAD_LETTERS:
                return Handled(Settle(_UNEXPECTED_AGAIN[-1], counted=False), UNEXPECTED, {})
            if delivery.attempts < len(_UNEXPECTED_AGAIN):
                return Handled(Settle(_UNEXPECTED_AGAIN[delivery.attempts]), UNEXPECTED, {})
            return Handled(Settle(reason=UNEXPECTED), UNEXPECTED, {})
        self._brake.succeeded()
        self._tell_trial(succeeded=True)
        return handled

    def _is_braked(self, customer: str, event_id: str) -> bool:
        """Whether an unexpected error is one of a run: then nobody's attempts are counted for it."""
        self._tell_trial(succeeded=False)
        if self._braking is None and self._brake.failed(customer, event_id):
            _log.error("braked", queue=self._queue, problem=self.problem)
            self._braking = asyncio.create_task(self._hold_the_brake(), name=f"brake {self._queue}")
        return self._braking is not None

    def _tell_trial(self, *, succeeded: bool) -> None:
        if self._tried is not None and not self._tried.done():
            self._tried.set_result(succeeded)

    async def _hold_the_brake(self) -> None:
        released = False
        for trials in itertools.count():
            await self._consume(None)
            if released:
                break
            await asyncio.sleep(pause(trials))
            self._tried = asyncio.get_running_loop().create_future()
            await self._consume(1)
            released = await self._tried
            _log.warning("brake_tried", queue=self._queue, released=released)
        await self._consume(self._prefetch)
        self._braking = None

    async def _consume(self, prefetch: int | None) -> None:
        """Take so many at a time from now on; None: nothing, once what is in hand is settled."""
        if self._consumer is not None and prefetch is None:
            await self._consumer.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._consumer.close()
        elif prefetch is not None:
            self._consumer = await self._broker.consume(self._queue, prefetch, self._take)

    async def _settle(self, delivery: Delivery, customer: str, settle: Settle) -> str:
        try:
            if settle.reason is not None:
                name = "park"
                await delivery.park(settle.reason)
                metrics.PARKED.labels(customer, settle.reason).inc()
            elif settle.after is not None:
                name = "retry"
                await delivery.retry(settle.after, counted=settle.counted)
            else:
                name = "ack"
                await delivery.ack()
        except (DeliveryLost, Unavailable) as error:
            name = "lost"
            _log.warning("not_settled", queue=self._queue, problem=str(error))
        metrics.EVENTS.labels(self._queue, customer, name).inc()
        return name
