"""Dispatch systems get every trip and report on it, over every door; VectorCare's own record is the judge."""

import contextlib
from collections import defaultdict
from pathlib import Path

import orjson

from sandbox.server import Options, Sandbox
from sandbox.trouble import Trouble
from sandbox.verify import verify
from tests.acceptance.cad import STATES, Cad
from tests.acceptance.test_rides import broadcast
from tests.brokers import until
from tests.processes import Home, Process, free_port

TOKEN = "a-token-for-the-cad-of-acme"
TRIPS = 40


def with_http(home: Home, port: int, **more: str) -> str:
    """A subscription that pulls."""
    lines = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'[client]\nport = {port}\n[[subscriptions]]\nname = "cad"\ncustomers = ["acme"]\ntoken = "{TOKEN}"\n{lines}'


def states_at_vectorcare(sandbox: Sandbox) -> dict[str, list[str]]:
    """The states of each trip as VectorCare has them, in the order in which they came; repeats of the last left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for call in sandbox.record.calls("state"):
        name = orjson.loads(call.body)["name"]
        if call.took_effect and found[call.request_id][-1:] != [name]:
            found[call.request_id].append(name)
    return found


async def test_a_cad_over_http_makes_trips_and_drives_them_to_completed_through_an_outage(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=1)) as sandbox:
        home, port = Home(tmp_path, sandbox), free_port()
        home.customer("acme")
        home.write(with_http(home, port, acknowledges="true"))
        cad = Cad(f"http://127.0.0.1:{port}", TOKEN)
        async with Process(home, "run") as process, contextlib.AsyncExitStack() as stack:
            await process.ready()
            requests = await broadcast(sandbox, TRIPS // 2, "acme")
            await stack.enter_async_context(cad.running())
            await until(lambda: sum(len(each) > 1 for each in states_at_vectorcare(sandbox).values()) > 3, 30)
            sandbox.set_trouble(Trouble(fail=1.0, calls=("state",)))
            requests += await broadcast(sandbox, TRIPS // 4, "acme")
            await until(lambda: len(sandbox.record.calls("state")) > 60, 30)
            sandbox.set_trouble(Trouble())
            requests += await broadcast(sandbox, TRIPS - len(requests), "acme")
            await until(lambda: sum(trip["state"] == "completed" for trip in cad.trips.values()) == TRIPS, 60)
            await until(lambda: len(cad.results) >= 6 * TRIPS, 30)
            assert await process.terminate() == 0
        assert states_at_vectorcare(sandbox) == {request: list(STATES) for request in requests}
        assert {result["result"] for result in cad.results} == {"done"}
        assert len({result["id"] for result in cad.results}) == 6 * TRIPS
        assert verify(sandbox.record) == []
