"""A trial: a load of webhooks, a fault in the middle of it, time to recover, and the verdict."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Final

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.house import CUSTOMERS, House
from tests.chaos.judge import Verdict, judge

BEFORE: Final = 1.0  # seconds of load before the fault, and after it
AFTER: Final = 2.0
SETTLE: Final = 180.0  # how long the house may take to catch up, beside as long as it was broken
_MALFORMED_EVERY: Final = 50

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """A row of the result's table. `settled`: seconds until everything was handled, once the load had ended."""

    fault: str
    seconds: float
    rate: float
    settled: float
    spooled: int
    undelivered_allowed: bool
    verdict: Verdict
    reasons: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether every promise was kept; a webhook that could have been kept was."""
        return self.verdict.holds and (self.undelivered_allowed or self.verdict.undelivered == 0)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values; of long lists the first few."""
        verdict = asdict(self.verdict)
        for name in ("lost", "doubled"):
            verdict[name] = {"count": len(verdict[name]), "first": list(verdict[name][:5])}
        return {**{k: v for k, v in asdict(self).items() if k != "verdict"}, **verdict, "holds": self.holds}


class Load:
    """So many broadcasts a second, to the customers in turn, and now and then a signed body that can't be read."""

    def __init__(self, house: House, rate: float) -> None:
        self._house = house
        self._rate = rate
        self.sent = 0
        self._malformed: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled. What can't be sent in time is sent late, not left out."""
        sandbox, began = self._house.sandbox, time.perf_counter()
        while True:
            due = int((time.perf_counter() - began) * self._rate) + 1
            for _ in range(min(4, due - self.sent)):
                customer = CUSTOMERS[self.sent % len(CUSTOMERS)]
                await sandbox.broadcast(sandbox.create_request("bls"), [customer])
                self.sent += 1
                if self.sent % _MALFORMED_EVERY == 0:
                    task = asyncio.create_task(self._unreadable(customer, self._house.sandbox.record.total))
                    self._malformed.add(task)
                    task.add_done_callback(self._malformed.discard)
            await asyncio.sleep(0 if self.sent < due else 0.005)

    async def drained(self) -> None:
        """Until the malformed ones have been answered."""
        if self._malformed:
            await asyncio.wait(self._malformed)

    async def _unreadable(self, customer: str, number: int) -> None:
        self._house.malformed_sent += 1
        answer = await self._house.sandbox.send(customer, b"no JSON, number %d" % number)
        self._house.malformed_taken += answer.ok


@contextlib.asynccontextmanager
async def _loaded(house: House, rate: float) -> AsyncIterator[Load]:
    load = Load(house, rate)
    task = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        raise error


async def alone(house: House, name: str, seconds: float, rate: float, say: Say = lambda _: None) -> Result:
    """One fault in this house."""
    fault = FAULTS[name].make()

    async def play() -> None:
        say("begins")
        await fault.begin(house)
        try:
            await asyncio.sleep(seconds)
        finally:
            say("ends")
            await fault.end(house)

    return await _tried(house, name, seconds, rate, play, say, refuses=FAULTS[name].refuses)


async def mixed(house: House, seconds: float, rate: float, random: Random, say: Say) -> Result:
    """Faults of this kind of house at random, up to two at a time."""
    names = [name for name, entry in FAULTS.items() if entry.mixes and entry.plan.postgres == house.plan.postgres]
    over = time.monotonic() + seconds
    busy: set[str] = set()

    async def one_after_the_other(group: int) -> None:
        while time.monotonic() < over:
            await asyncio.sleep(random.uniform(0.5, 4.0))
            name = random.choice([each for each in names if _group(each) % 2 == group])
            fault: Fault = FAULTS[name].make()
            busy.add(name)
            say(" + ".join(sorted(busy)))
            await fault.begin(house)
            try:
                await asyncio.sleep(random.uniform(2.0, 12.0))
            finally:
                await fault.end(house)
                busy.discard(name)

    async def play() -> None:
        await asyncio.gather(one_after_the_other(0), one_after_the_other(1))

    return await _tried(house, "mixed", seconds, rate, play, say, refuses=True)


def _group(name: str) -> int:
    """Two faults at a time are of different things: the broker's on one side, all others on the other."""
    return 0 if name.startswith(("broker_", "memory_", "disk_")) else 1


async def _tried(
    house: House, name: str, seconds: float, rate: float, play: Callable[[], Any], say: Say, *, refuses: bool
) -> Result:
    first, spooled = house.sandbox.record.total, house.spooled
    parked_before = len(await asyncio.to_thread(house.parked))
    taken_before, sent_before = house.malformed_taken, house.malformed_sent
    began = time.monotonic()
    async with _loaded(house, rate) as load:
        await asyncio.sleep(BEFORE)
        await play()
        await asyncio.sleep(AFTER)
        lasted = time.monotonic() - began
    await load.drained()
    stopped = time.monotonic()

    async def verdict() -> Verdict:
        parked = await asyncio.to_thread(house.parked)
        entries = house.sandbox.record.since(first)
        malformed = range(house.malformed_taken - taken_before, house.malformed_sent - sent_before)
        # In a thread: over many events it takes seconds, in which VectorCare's part would answer nobody.
        return await asyncio.to_thread(judge, entries, house.told, len(parked) - parked_before, malformed)

    while True:
        found = await verdict()
        depth = house.spool_depth()
        left = len(found.lost) + abs(found.parked) + house.sandbox.delivery.pending + depth
        if not left or time.monotonic() - stopped > SETTLE + seconds:
            break
        say(f"{left} to go ({len(found.lost)} events, {depth} in the spool)")
        await asyncio.sleep(0.5)
    settled = time.monotonic() - stopped
    await asyncio.sleep(0.5)  # for what would be done once too often
    found = await verdict()
    reasons = tuple(sorted(set(await asyncio.to_thread(house.parked)))) if found.parked else ()
    return Result(
        name,
        round(seconds, 1),
        round(load.sent / lasted, 1),
        round(settled, 1),
        round(house.spooled - spooled),
        refuses,
        replace(found, slowest=round(found.slowest, 2)),
        reasons,
    )
