"""Lanes: a customer that floods waits in memory, one that hangs waits elsewhere, and nobody waits twice."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.brokers import until
from worker.lane import STUCK_SECONDS, Lane


class Visitors:
    """Deliveries of one customer: each goes in, and stays until it is told to leave."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._leave: list[asyncio.Event] = []
        self.inside: list[int] = []
        self.sent_away: list[int] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, count: int = 1) -> None:
        for _ in range(count):
            self._leave.append(asyncio.Event())
            self._tasks.append(asyncio.create_task(self._visit(len(self._leave) - 1)))
        await asyncio.sleep(0)

    async def leave(self, visitor: int) -> None:
        self._leave[visitor].set()
        await until(lambda: visitor not in self.inside, 1)

    async def give_up(self, visitor: int) -> None:
        self._tasks[visitor].cancel()
        await asyncio.wait([self._tasks[visitor]])

    def are_inside(self, *numbers: int) -> bool:
        return self.inside == list(numbers)

    async def _visit(self, number: int) -> None:
        async with self._lane.place() as has_place:
            if not has_place:
                self.sent_away.append(number)
                return
            self.inside.append(number)
            try:
                await self._leave[number].wait()
            finally:
                self.inside.remove(number)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def visitors() -> AsyncIterator[Callable[[int], Visitors]]:
    all_of_them: list[Visitors] = []

    def of(limit: int) -> Visitors:
        all_of_them.append(Visitors(Lane(limit)))
        return all_of_them[-1]

    yield of
    for each in all_of_them:
        await each.end()


async def test_a_lane_lets_its_limit_in_and_the_rest_in_their_order(visitors: Callable[[int], Visitors]) -> None:
    each = visitors(2)
    await each.come(5)
    assert each.inside == [0, 1]
    for leaves in range(3):
        await each.leave(leaves)
        await until(functools.partial(each.are_inside, leaves + 1, leaves + 2), 1)
    assert not each.sent_away


async def test_a_full_lane_that_moves_keeps_its_waiters_for_longer_than_a_hung_one_would(
    visitors: Callable[[int], Visitors],
) -> None:
    each = visitors(1)
    await each.come(8)
    for number in range(7):  # 7 times 0.1 s: each waits longer than a hung lane lets wait
        await asyncio.sleep(0.1)
        await each.leave(number)
        await until(functools.partial(each.are_inside, number + 1), 1)
    assert not each.sent_away


async def test_a_lane_that_hangs_sends_its_waiters_away_at_once_and_whoever_comes_later_immediately(
    visitors: Callable[[int], Visitors],
) -> None:
    each = visitors(2)
    began = asyncio.get_running_loop().time()
    await each.come(40)
    await until(lambda: len(each.sent_away) == 38, 1)
    assert STUCK_SECONDS <= asyncio.get_running_loop().time() - began < STUCK_SECONDS + 0.3
    await each.come(100)
    await asyncio.sleep(0)
    assert len(each.sent_away) == 138
    await each.leave(0)
    await each.come()
    await until(lambda: each.inside == [1, 140], 1)


async def test_one_that_gives_up_while_it_waits_takes_nobodys_place(visitors: Callable[[int], Visitors]) -> None:
    each = visitors(1)
    await each.come(3)
    await each.give_up(1)
    await each.leave(0)
    await until(lambda: each.inside == [2], 1)
    await each.leave(2)
    await each.come()
    assert each.inside == [3]


@given(some.lists(some.sampled_from(["come", "leave", "give up"]), max_size=40), some.integers(1, 3))
def test_never_more_than_the_limit_and_never_a_free_place_while_one_waits(deeds: list[str], limit: int) -> None:
    async def play() -> None:
        each, came = Visitors(Lane(limit)), 0
        left: set[int] = set()
        for deed in deeds:
            if deed == "come":
                await each.come()
                came += 1
            else:
                there = [number for number in range(came) if number not in left]
                if not there:
                    continue
                left.add(there[0])
                if deed == "leave" and there[0] in each.inside:
                    await each.leave(there[0])
                else:
                    await each.give_up(there[0])
            for _ in range(3):
                await asyncio.sleep(0)
            assert len(each.inside) == min(limit, came - len(left))
        await each.end()

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(play())


async def test_a_customer_whose_api_is_always_slow_is_not_taken_for_one_that_hangs() -> None:
    lane = Lane(1)
    for _ in range(20):
        async with lane.place():
            await asyncio.sleep(0.2)  # how long a call takes is what this is about
    visitors = Visitors(lane)
    await visitors.come(2)
    await asyncio.sleep(STUCK_SECONDS + 0.1)  # nothing may happen in this time
    assert visitors.sent_away == []
    await visitors.leave(0)
    await until(lambda: visitors.inside == [1], 1)
    await visitors.end()
