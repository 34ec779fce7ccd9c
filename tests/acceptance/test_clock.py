"""The wall clock of a receiver jumps by an hour while it works, or while a dispatch system is away."""

from collections import Counter
from pathlib import Path

import pytest

from sandbox.server import Options, Sandbox
from sandbox.verify import verify
from tests.acceptance.cad import STATES, Cad
from tests.acceptance.test_doors import TOKEN, states_at_vectorcare, with_http
from tests.acceptance.test_rides import broadcast, taken
from tests.brokers import until
from tests.processes import Home, Process, free_port

HOUR = 3600


class Clock:
    """A process's wall clock, some seconds off the machine's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.variables = {"RECEIVER_TEST_CLOCK": str(file)}
        self.move(0)

    def move(self, seconds: int) -> None:
        """So many seconds off, from now on."""
        moved = self._file.with_suffix(".new")
        moved.write_text(str(seconds))
        moved.replace(self._file)


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
async def test_a_clock_that_jumps_by_an_hour_loses_no_ride_and_doubles_none(tmp_path: Path, seconds: int) -> None:
    clock = Clock(tmp_path / "clock")
    async with Sandbox(Options(seed=4)) as sandbox:
        home, port = Home(tmp_path, sandbox), free_port()
        home.customer("acme")
        home.write(with_http(home, port))
        cad = Cad(f"http://127.0.0.1:{port}", TOKEN, drives=False)
        async with Process(home, "run", module="tests.clocked", variables=clock.variables) as process, cad.running():
            await process.ready()
            requests = await broadcast(sandbox, 20, "acme")
            clock.move(seconds)
            requests += await broadcast(sandbox, 20, "acme")
            clock.move(0)
            requests += await broadcast(sandbox, 20, "acme")
            await until(lambda: all(sandbox.requests[each].assigned_to == "acme" for each in requests), 30)
            await until(lambda: sum(trip["state"] == "assigned" for trip in cad.trips.values()) == len(requests), 30)
            assert await process.terminate() == 0
        assert taken(sandbox) == Counter(("acme", request) for request in requests)
        assert "unexpected_error" not in process.log.read_text()


async def test_a_dispatch_system_that_was_off_for_an_hour_misses_nothing(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock")
    async with Sandbox(Options(seed=5)) as sandbox:
        home, port = Home(tmp_path, sandbox), free_port()
        home.customer("acme")
        home.write(with_http(home, port, acknowledges="true"))
        cad = Cad(f"http://127.0.0.1:{port}", TOKEN)
        async with Process(home, "run", module="tests.clocked", variables=clock.variables) as process:
            await process.ready()
            async with cad.running():
                requests = await broadcast(sandbox, 5, "acme")
                await until(lambda: _completed(cad) == 5, 20)
                await until(lambda: len(cad.results) == 6 * 5, 20)
            requests += await broadcast(sandbox, 10, "acme")
            await until(lambda: all(sandbox.requests[each].assigned_to == "acme" for each in requests), 20)
            clock.move(HOUR)
            async with cad.running():
                await until(lambda: _completed(cad) == 15, 60)
                await until(lambda: len({result["id"] for result in cad.results}) == 6 * 15, 30)
            assert await process.terminate() == 0
        assert states_at_vectorcare(sandbox) == {request: list(STATES) for request in requests}
        assert verify(sandbox.record) == []


def _completed(cad: Cad) -> int:
    return sum(trip["state"] == "completed" for trip in cad.trips.values())
