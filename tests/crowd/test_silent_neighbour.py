"""One customer's API hangs on every call, and another customer's time to accept stays what it was."""

import contextlib
from pathlib import Path
from typing import Final

import pytest

from sandbox.server import Options, Sandbox
from sandbox.trouble import Trouble
from tests.brokers import until
from tests.crowd.houses import LARGE, built, loaded
from tests.crowd.numbers import FULL, quantile, show, times_to_accept
from tests.processes import Home

RATE, NEIGHBOURS_RATE = 25, 15  # offers a second
SECONDS: Final = 12
MORE: Final = 1.2
NOISE: Final = 0.015  # seconds: what two cores that also play VectorCare, RabbitMQ and PostgreSQL add by chance
ROLES: Final = (("broadcast-received",), ("broadcast-accepted", "lifecycle"))
FOR_EVER: Final = 10_000
SILENCE: Final = 20.0  # seconds; the caller gives up after five
MOST_ROUNDS: Final = 3
MEASURABLE: Final = 0.25  # seconds; where even the undisturbed p99 is longer, offers queue, and nothing is shown


@pytest.mark.timeout(300)  # on a busy machine
async def test_a_customer_whose_api_is_silent_does_not_slow_another(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if not FULL:
        pytest.skip("a figure for a machine that does nothing else: `make crowd` measures it")

    def customers(home: Home) -> None:
        home.customer("acme")
        home.customer("birch")

    async with Sandbox(Options(seed=41)) as sandbox, contextlib.AsyncExitStack() as stack:
        await built(LARGE, request, tmp_path, sandbox, stack, customers, ROLES)
        sandbox.set_trouble(Trouble(throttle=0.5), "birch")
        await measured(sandbox, 1)  # the first connections, and what RabbitMQ makes at the first delay
        sandbox.set_trouble(Trouble(), "birch")
        rounds: list[tuple[list[float], list[float]]] = []
        # A neighbour that slows does so each time; a machine that has something else to do does not.
        while len(rounds) < MOST_ROUNDS and not any(map(is_kept, rounds)):
            answering = await measured(sandbox, SECONDS)
            sandbox.plan("slow", receiver="birch", times=FOR_EVER, seconds=SILENCE)
            silent = await measured(sandbox, SECONDS)
            sandbox.market.trouble.clear()
            assert len(silent) == len(answering) == RATE * SECONDS
            show(capsys, "time to accept of acme", {"birch answers": answering, "birch is silent": silent})
            rounds.append((answering, silent))
        assert any(map(is_kept, rounds)), [(quantile(answering), quantile(silent)) for answering, silent in rounds]


def is_kept(times: tuple[list[float], list[float]]) -> bool:
    """Whether the silence made the p99 no more than 1.2 times as long, chance aside."""
    answering, silent = times
    return quantile(answering) <= MEASURABLE and quantile(silent) <= MORE * quantile(answering) + NOISE


async def measured(sandbox: Sandbox, seconds: float) -> list[float]:
    """acme's times to accept while both are sent offers for so long."""
    before = set(sandbox.requests)
    async with loaded(sandbox, {"acme": RATE, "birch": NEIGHBOURS_RATE}, seconds) as loads:
        await until(lambda: not any(load.running for load in loads), 60)
    mine = [each for each, known in sandbox.requests.items() if each not in before and "acme" in known.offers]
    await until(lambda: len(times_to_accept(sandbox.record, "acme", mine)) == len(mine), 60)
    return times_to_accept(sandbox.record, "acme", mine)
