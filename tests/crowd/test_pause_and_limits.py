"""Two hundred offers a second: a pause stops every worker within a second, and limits hold to the unit."""

import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from sandbox.server import Options, Sandbox
from sandbox.verify import verify
from tests.acceptance.test_rides import Subscriber, taken
from tests.brokers import until
from tests.crowd.houses import BOTH, House, built, loaded
from tests.crowd.numbers import FULL, say
from tests.processes import Home, command

pytestmark = pytest.mark.timeout(300)  # on a busy machine; idle, it takes seconds

RATE: Final = 200
SECONDS: Final = 5 if FULL else 2
HELD: Final = '"note":"held"'
AGAIN: Final = 20  # accepts after `resume` that show that it goes on
PROMISED: Final = 1.0  # seconds after the pause in which an accept may yet begin
MAX_OPEN, MAX_ACCEPTS, UNITS = 30, 20, 5
FIVE_UNITS: Final = f"""
[levels]
fields = ["service_level_type"]
map = {{ BLS = "ambulance" }}
[[capacity]]
level = "ambulance"
units = {UNITS}
[[rules]]
name = "a crew is free"
when = "capacity.free >= 1"
then = "accept"
"""


@pytest.mark.parametrize("kind", BOTH)
async def test_a_pause_stops_every_accept_within_a_second_also_of_workers_that_start_and_resume_goes_on(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    async with Sandbox(Options(seed=31)) as sandbox, contextlib.AsyncExitStack() as stack:
        house = await built(kind, request, tmp_path, sandbox, stack, lambda home: home.customer("acme"))
        config = ("--config", str(house.home.file))
        async with loaded(sandbox, {"acme": RATE}):
            await until(lambda: len(taken(sandbox)) >= RATE // 2, 60)
            status, printed = await command("pause", "acme", *config, folder=tmp_path)
            paused_at = time.time()
            assert status == 0, printed
        await holding(sandbox, house)
        await house.kill_and_start()
        await holding(sandbox, house)
        assert time.time() > paused_at + 2 * PROMISED
        late = [call.at - paused_at for call in sandbox.record.calls("accept") if call.at > paused_at]
        resumed_at = time.time()
        status, printed = await command("resume", "acme", *config, folder=tmp_path)
        assert status == 0, printed
        async with loaded(sandbox, {"acme": RATE}, SECONDS):
            await until(lambda: sum(call.at > resumed_at for call in sandbox.record.calls("accept")) >= AGAIN, 60)
        assert max(late, default=0.0) <= PROMISED
        assert max(taken(sandbox).values()) == 1
        assert "unexpected_error" not in house.logs()
        say(
            capsys,
            f"\npause, {kind}: {len(late)} accepts began after it, the last {max(late, default=0.0):.3f} s after",
        )


@pytest.mark.parametrize("kind", BOTH)
async def test_limits_and_capacity_hold_to_the_unit(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    def customers(home: Home) -> None:
        home.customer("acme", limits={"max_open": MAX_OPEN})
        home.customer("birch", limits={"max_accepts_per_hour": MAX_ACCEPTS})
        home.customer("cedar", policy=FIVE_UNITS)

    may_take = {"acme": MAX_OPEN, "birch": MAX_ACCEPTS, "cedar": UNITS}
    async with Sandbox(Options(seed=32)) as sandbox, contextlib.AsyncExitStack() as stack:
        house = await built(kind, request, tmp_path, sandbox, stack, customers)
        rates = dict.fromkeys(may_take, RATE / len(may_take))
        async with house.subscribed() as subscriber, loaded(sandbox, rates, SECONDS) as loads:
            await until(lambda: not any(load.running for load in loads), 60)
            await until(lambda: len(subscriber.states()) == len(sandbox.requests), 60)
            await until(lambda: subscriber.assigned() == sum(may_take.values()), 20)
        assert Counter(customer for customer, _ in taken(sandbox)) == may_take
        assert len(sandbox.record.calls("accept")) == sum(may_take.values())  # nothing was tried beyond it either
        assert held(subscriber, "limit", "default") == len(sandbox.requests) - sum(may_take.values())
        assert verify(sandbox.record) == []
        behind = max(load.behind for load in loads)
        say(
            capsys,
            f"\nlimits, {kind}: {len(sandbox.requests)} offers, the stream {behind:.2f} s late at most, {may_take}",
        )


async def holding(sandbox: Sandbox, house: House) -> None:
    """Offers go on coming, and are handled and held."""
    before = house.logs().count(HELD)
    async with loaded(sandbox, {"acme": RATE}, SECONDS) as loads:
        await until(lambda: loads[0].broadcast == RATE * SECONDS, 60)
    await until(lambda: house.logs().count(HELD) >= before + RATE * SECONDS // 2, 90)


def held(subscriber: Subscriber, *codes: str) -> int:
    """How many requests were held for one of these reasons."""
    told = [each for each in subscriber.outcomes if each["state"] == "held" and each["reason_code"] in codes]
    return len({(each["customer_id"], each["service_request_id"]) for each in told})
