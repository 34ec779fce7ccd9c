"""What the handlers stand on in the property test: a virtual clock over the real store, a broker whose delays are
virtual too, and an API whose calls hang until the test answers them.

Everything runs on one event loop and comes to rest before the next rule: each handler has then ended or hangs in a
call. So an example goes the same way each time, and hypothesis can make it smaller.
"""

import asyncio
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, delete, select

from shared.broker import Message
from shared.database import Database, Work
from shared.errors import Unavailable
from shared.sealing import Sealer
from shared.settings import Limits
from tests.lives.vectorcare import QUEUES, VectorCare, Webhook
from tests.webhooks import public_key
from worker import app as workers
from worker import pausing, policy
from worker.assignment import Answer, Answered, Mode, Rules, Settle
from worker.assignment.values import PERMISSION_DENIED
from worker.calls import ApiCall
from worker.customers import Customer
from worker.desk import Desk
from worker.ledger import Ledger
from worker.outbox import Outbox
from worker.tables import assignments, audit, capacities, commands, customers, gaps, offers, outbox

T = TypeVar("T")

CALL_SECONDS: Final = 5.0
LEASE: Final = 15.0
CONFIRM_WITHIN: Final = 120.0
MORNING: Final = 1_800_000_000.0
LIMITED: Final = "beta"
MAX_OPEN: Final = 2
OURS: Final = frozenset({"accepting", "assigned", "updated"})
KINDS: Final = ("accept", "decline", "propose", "hold", "wait", "ignore")
_HANDLERS: Final = {queue: handle for role in workers.ROLES.values() for queue, handle in role.items()}
_COMMANDS: Final = "receiver.commands"
_TABLES: Final = (assignments, audit, capacities, commands, customers, gaps, offers, outbox)
_POLICY: Final = """
[round_trips]
wait_seconds = 20

[[rules]]
name = "accept"
when = "request.notes == 'accept' && load.open < 100"
then = "accept"
[[rules]]
name = "decline"
when = "request.notes == 'decline'"
then = "decline"
[[rules]]
name = "propose"
when = "request.notes == 'propose'"
then = "propose"
propose_minutes_after_pickup = 60
[[rules]]
name = "wait"
when = "request.notes == 'wait'"
then = "hold"
answer_within_minutes = 5
then_after = "accept"
[[rules]]
name = "ignore"
when = "request.notes == 'ignore'"
then = "ignore"
"""


class Crash(Exception):
    """The process dies here."""


@functools.cache
def people() -> dict[str, Customer]:
    """Two customers that share everything but their names and a limit."""
    rules = policy.read(_POLICY)
    return {
        name: Customer(
            name,
            "production",
            (public_key("acme"),),
            frozenset(),
            "https://api.invalid",
            "https://token.invalid",
            "",
            "",
            rules,
            Mode.AUTOMATIC,
            Limits(max_open=MAX_OPEN if name == LIMITED else None),
        )
        for name in ("acme", LIMITED)
    }


class Store:
    """The real store under the test's clock; the transaction whose turn comes may fail as it was told to."""

    def __init__(self, real: Database) -> None:
        self.real = real
        self.now = MORNING
        self.fault = ""
        self.fault_in = 0

    async def transact(self, work: Work[T]) -> T:
        fault, self.fault_in = (self.fault if self.fault_in == 0 else ""), self.fault_in - 1
        if fault:
            self.fault = ""
        if fault == "refused":
            raise Unavailable("nothing was kept")
        result = await self.real.transact(lambda connection, _: self._work(work, connection, fault))
        if fault == "answer lost":
            raise Unavailable("all was kept")
        if fault == "crash after":
            raise Crash
        return result

    def _work(self, work: Work[T], connection: Connection, fault: str) -> T:
        result = work(connection, self.now)
        if fault == "crash before":
            raise Crash
        return result

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self.real.read(work)

    async def migrate(self, package: str, version_table: str) -> tuple[str, ...]:
        return await self.real.migrate(package, version_table)

    async def close(self) -> None:
        await self.real.close()

    async def empty(self) -> None:
        """As it was after its migration."""
        self.now, self.fault = MORNING, ""

        def work(connection: Connection, _: float) -> None:
            for table in _TABLES:
                connection.execute(delete(table))

        await self.real.transact(work)


FAULTS: Final = ("refused", "answer lost", "crash before", "crash after")


class Noted:
    """In the outbox's place: what is to be told is read from its table."""

    def publish_soon(self) -> None:
        """Nothing to do."""


@dataclass(eq=False)
class Handed:
    """A delivery; what is delayed waits on the stage."""

    stage: "Stage" = field(repr=False)
    queue: str
    message: Message = field(repr=False)
    name: str = ""
    attempts: int = 0
    due: float = 0.0

    async def ack(self) -> None:
        """It is dealt with."""

    async def retry(self, after: float, *, counted: bool = True) -> None:
        self.attempts += counted
        self.due = self.stage.now + after
        self.stage.waiting.append(self)

    async def park(self, reason: str) -> None:
        self.stage.wrongs.append(f"{self.name} was parked: {reason}")


@dataclass(eq=False)
class Call:
    """A call that hangs. `effect` is VectorCare's answer, once the call has reached it."""

    delivery: Handed
    customer: str
    request: str
    name: str
    sent_at: float
    future: asyncio.Future[Answer]
    effect: Answer | None = None

    @property
    def by_rule(self) -> bool:
        return self.delivery.queue != _COMMANDS


class Stage:
    """One process of the workers, again and again, and all that it works with."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store, vectorcare: VectorCare) -> None:
        self.loop = loop
        self.store = store
        self.vectorcare = vectorcare
        self.waiting: list[Handed] = []
        self.calls: dict[asyncio.Task[None], Call] = {}
        self.ghosts: list[Call] = []  # their caller is gone, and they may reach VectorCare yet
        self.wrongs: list[str] = []
        self.away = 0.0  # seconds in which nothing was handed out
        self.unsettled = False  # the next handler that ends dies before it settles
        self._running: dict[asyncio.Task[None], Handed] = {}
        self._hangs = asyncio.Event()
        self._desk = self._new_desk()

    @property
    def now(self) -> float:
        return self.store.now

    @property
    def ledger(self) -> Ledger:
        return self._desk.ledger

    # What the rules do

    def deliver(self, webhook: Webhook) -> None:
        """Hand a webhook out for the first time, once more, or late."""
        self.start(Handed(self, QUEUES[webhook.status], webhook.message, f"{webhook.status} {webhook.number}"))

    def command(self, message: Message) -> None:
        """Hand out a person's command."""
        self.start(Handed(self, _COMMANDS, message, message.routing_key))

    def start(self, delivery: Handed) -> None:
        """Handle it until it is settled or hangs in a call."""
        task = self.loop.create_task(self._handle(delivery))
        self._running[task] = delivery
        self._run(task)

    def reach(self, call: Call) -> None:
        """The call arrives at VectorCare and has its effect; nothing travels for longer than an intent binds."""
        if call.effect is None and self.now < call.sent_at + LEASE:
            yes = self.vectorcare.call(call.customer, call.request, call.name, self.now, by_rule=call.by_rule)
            code = None if yes else PERMISSION_DENIED
            call.effect = Answer(Answered.TAKEN if yes else Answered.GONE, 201 if yes else 403, code)

    def answer(self, call: Call, answer: Answer) -> None:
        """The answer arrives at the caller."""
        task = next(task for task, each in self.calls.items() if each is call)
        call.future.set_result(answer)
        self._run(task)

    def honest(self, call: Call) -> None:
        """Effect and answer at once."""
        self.reach(call)
        self.answer(call, call.effect or Answer(Answered.UNKNOWN))

    def crash(self, call: Call, *, ghost: bool) -> None:
        """The caller dies; its delivery comes again as it was."""
        task = next(task for task, each in self.calls.items() if each is call)
        task.cancel()
        self.loop.run_until_complete(asyncio.wait([task]))
        if ghost and call.effect is None:
            self.ghosts.append(call)
        call.delivery.due = self.now
        self.waiting.append(call.delivery)

    def restart(self) -> None:
        """All that was in flight is dropped; a new process begins with the store alone."""
        for call in list(self.calls.values()):
            self.crash(call, ghost=False)
        self._desk = self._new_desk()

    def pause(self, who: str, *, on: bool) -> None:
        """A person pauses a customer or all, or resumes."""
        if on:
            work: Work[bool] = lambda connection, now: pausing.pause(connection, now, who, "sam")  # noqa: E731
        else:
            work = lambda connection, _: pausing.resume(connection, who)  # noqa: E731
        self.loop.run_until_complete(self.store.real.transact(lambda connection, _: work(connection, self.now)))

    def advance(self, seconds: float) -> None:
        """Time passes; what is due is handed out when it is, and a call that hangs for too long is given up."""
        end = self.now + seconds
        while (due := self._next_due()) <= end:
            self.store.now = max(self.now, due)
            self._do_due()
        self.store.now = end

    def sleep(self, seconds: float) -> None:
        """Time passes and this process stands still."""
        self.store.now += seconds
        self.away += seconds

    def rest(self) -> None:
        """Honest answers to everything until nothing waits any more."""
        self.store.fault, self.unsettled = "", False
        for _ in range(5000):
            if self.calls:
                self.honest(next(iter(self.calls.values())))
            elif self.waiting:
                self.store.now = max(self.now, self._next_due())
                self._do_due()
            else:
                return
        raise AssertionError(f"it does not come to rest: {[each.name for each in self.waiting]}")

    def read(self, work: Callable[[Connection], T]) -> T:
        """A look into the store."""
        return self.loop.run_until_complete(self.store.real.read(work))

    def close(self) -> None:
        """End what hangs."""
        for call in list(self.calls.values()):
            self.crash(call, ghost=False)

    # What the handlers see

    async def send(
        self, customer: Customer, service_request_id: str, call: ApiCall, *, start_by: float = math.inf
    ) -> Answer:
        """In the place of `worker.vectorcare.VectorCare.send`."""
        task = asyncio.current_task()
        assert task is not None
        mine = Call(
            self._running[cast("asyncio.Task[None]", task)],
            customer.customer_id,
            service_request_id,
            call.name,
            self.now,
            self.loop.create_future(),
        )
        await self._judge(mine)
        self.calls[cast("asyncio.Task[None]", task)] = mine
        self._hangs.set()
        try:
            return await mine.future
        finally:
            del self.calls[cast("asyncio.Task[None]", task)]

    def _new_desk(self) -> Desk:
        environments = dict.fromkeys(people(), "production")
        return Desk(
            people(),
            frozenset(),
            Ledger(self.store, Sealer(), environments),
            cast("Outbox", Noted()),
            cast("Any", self),
            Rules(LEASE, CONFIRM_WITHIN),
            CALL_SECONDS,
        )

    async def _handle(self, delivery: Handed) -> None:
        try:
            settle = (await _HANDLERS[delivery.queue](self._desk, delivery)).settle
        except Unavailable:
            settle = Settle(2.0, counted=False)
        except Crash:
            settle = Settle(0.0, counted=False)
        if self.unsettled:
            self.unsettled, settle = False, Settle(0.0, counted=False)
        if settle.reason is not None:
            await delivery.park(settle.reason)
        elif settle.after is not None:
            await delivery.retry(settle.after, counted=settle.counted)
        else:
            await delivery.ack()

    def _run(self, task: asyncio.Task[None]) -> None:
        self.loop.run_until_complete(self._until_it_rests(task))
        if task.done():
            del self._running[task]
            if not task.cancelled():
                task.result()

    async def _until_it_rests(self, task: asyncio.Task[None]) -> None:
        await asyncio.sleep(0)
        while not task.done() and task not in self.calls:
            self._hangs.clear()
            hangs = asyncio.ensure_future(self._hangs.wait())
            await asyncio.wait([task, hangs], return_when=asyncio.FIRST_COMPLETED)
            hangs.cancel()

    def _next_due(self) -> float:
        due = [each.due for each in self.waiting]
        return min(due + [call.sent_at + CALL_SECONDS for call in self.calls.values()], default=math.inf)

    def _do_due(self) -> None:
        late = next((call for call in self.calls.values() if call.sent_at + CALL_SECONDS <= self.now), None)
        if late is not None:
            self.answer(late, Answer(Answered.UNKNOWN))
            return
        delivery = min(self.waiting, key=lambda each: each.due)
        self.waiting.remove(delivery)
        self.start(delivery)

    async def _judge(self, call: Call) -> None:
        """What must hold whenever a call is begun."""
        who = f"{call.name} {call.customer}/{call.request}"
        for other in self.calls.values():
            same = (other.customer, other.request) == (call.customer, call.request)
            if same and self.now < other.sent_at + LEASE:
                self.wrongs.append(f"{who} began while {other.name} was in flight")
        paused, told = await self.store.real.read(lambda connection: (pausing.paused(connection), _told(connection)))
        if {call.customer, "*"} & set(paused) and (call.by_rule or call.name != "decline"):
            self.wrongs.append(f"{who} began although paused")
        if call.name == "accept":
            if told.get((call.customer, call.request)) in OURS:
                self.wrongs.append(f"{who} began although it is told as ours")
            held = [key for key, state in told.items() if key[0] == call.customer and state in OURS]
            held = [key for key in held if key[1] != call.request]
            if call.customer == LIMITED and call.by_rule and len(held) >= MAX_OPEN:
                self.wrongs.append(f"{who} began although {len(held)} are ours")


_LAST: Final = select(outbox.c.customer_id, outbox.c.service_request_id, outbox.c.routing_key).order_by(outbox.c.id)


def _told(connection: Connection) -> dict[tuple[str, str], str]:
    """What was told last of each request."""
    rows: Sequence[Any] = connection.execute(_LAST.where(outbox.c.routing_key.startswith("assignment."))).all()
    return {(row.customer_id, row.service_request_id): row.routing_key.split(".")[1] for row in rows}
