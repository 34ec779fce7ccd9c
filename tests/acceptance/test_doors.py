"""Dispatch systems get every trip and report on it, over every door; VectorCare's own record is the judge."""

import asyncio
import contextlib
import os
import random
import sqlite3
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from sandbox.server import Options, Sandbox
from sandbox.trouble import Trouble
from sandbox.verify import verify
from shared.broker import Message
from tests import witness
from tests.acceptance.cad import STATES, Cad
from tests.acceptance.test_rides import SOON, broadcast, taken
from tests.brokers import emptied, until
from tests.processes import Home, Process, command, free_port
from tests.rabbit_node import Node

TOKEN = "a-token-for-the-cad-of-acme"
TRIPS = int(os.environ.get("RECEIVER_TEST_TRIPS", "40"))


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


async def test_rabbitmq_and_a_cad_over_amqp_are_killed_again_and_again_and_no_trip_is_missing_or_doubled(
    tmp_path: Path, mortal_rabbit: Node
) -> None:
    chance, file = random.Random(TRIPS), tmp_path / "cad.sqlite"
    kills = sorted(chance.sample(range(TRIPS // 2, 5 * TRIPS), 3 * max(1, TRIPS // 100)))
    async with Sandbox(Options(seed=6, attempt_delays=SOON)) as sandbox:
        home = Home(tmp_path, sandbox, broker=mortal_rabbit.url)
        home.customer("acme")
        home.write(
            '[ingress.spool]\npath = "spool.db"\n'
            '[[subscriptions]]\nname = "cad"\ncustomers = ["acme"]\nacknowledges = true\n'
        )
        variables = {"AMQP_URL": mortal_rabbit.url, "CAD_FILE": str(file)}
        cad = Process(home, "cad", module="tests.acceptance.amqp_cad", variables=variables)
        async with Process(home, "run") as process, cad:
            await process.ready()
            broadcasting = asyncio.create_task(broadcast(sandbox, TRIPS, "acme", pause=0.02))
            for number, kill in enumerate(kills):
                await until(lambda kill=kill: len(sandbox.record.calls("state")) > kill, 60)  # type: ignore[misc]
                await cad.kill()
                if number % 3 == 1:
                    await asyncio.to_thread(mortal_rabbit.kill)
                    await asyncio.to_thread(mortal_rabbit.start)
                await cad.__aenter__()
            requests = await broadcasting
            await until(lambda: len(rows(file, "SELECT id FROM results")) == 6 * TRIPS, 120)
            await until(lambda: rows(file, "SELECT 1 FROM trips WHERE state != 'completed'") == [], 60)
            assert await process.terminate() == 0
        heard = rows(file, "SELECT exchange, key, headers, body FROM heard")
        for exchange, key, headers, body in heard:
            witness.message(exchange, Message(key, orjson.loads(headers), body))
        assert taken(sandbox) == Counter({("acme", request): 1 for request in requests})
        assert states_at_vectorcare(sandbox) == {request: list(STATES) for request in requests}
        assert sorted(rows(file, "SELECT request FROM trips")) == sorted((request,) for request in requests)
        assert set(rows(file, "SELECT result FROM results")) == {("done",)}
        acknowledged = "SELECT service_request_id, state FROM commands WHERE command = 'acknowledge'"
        assert sorted(rows(tmp_path / "receiver.db", acknowledged)) == sorted((request, "done") for request in requests)
        assert verify(sandbox.record) == []


def rows(file: Path, statement: str) -> list[tuple[Any, ...]]:
    """What a file that another process writes holds; nothing where it has not begun."""
    with contextlib.closing(sqlite3.connect(file, timeout=10)) as connection:
        try:
            return connection.execute(statement).fetchall()
        except sqlite3.OperationalError:
            return []


async def test_a_cad_whose_data_were_wiped_is_given_every_open_trip_by_a_replay(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=2)) as sandbox:
        home, port = Home(tmp_path, sandbox), free_port()
        home.customer("acme")
        home.write(with_http(home, port))
        async with Process(home, "run") as process:
            await process.ready()
            url = f"http://127.0.0.1:{port}"
            first = Cad(url, TOKEN, drives=False)
            async with first.running():
                requests = await broadcast(sandbox, 12, "acme")
                await until(lambda: _all_are(first, "assigned", 12), 30)
                sandbox.complete(requests[0])
                sandbox.cancel(requests[1])
                await until(lambda: first.trips[requests[1]]["state"] == "released", 10)
                await until(lambda: first.trips[requests[0]]["state"] == "completed", 10)
            wiped = Cad(url, TOKEN, drives=False)
            wiped.cursor = first.cursor
            async with wiped.running():
                status, output = await command("events", "replay", "--customer", "acme", folder=tmp_path)
                assert (status, output) == (0, "10 assignments of acme were told again\n")
                await until(lambda: len(wiped.trips) == 10, 20)
                assert wiped.trips == {request: first.trips[request] for request in requests[2:]}
                since = ("--since", "2000-01-01T00:00:00Z")
                await command("events", "replay", "--customer", "acme", *since, folder=tmp_path)
                await until(lambda: wiped.trips == first.trips, 20)
            status, exported = await command("assignments", "export", folder=tmp_path)
            assert {orjson.loads(line)["service_request_id"] for line in exported.splitlines()} == set(requests[2:])
            status, listed = await command("assignments", "list", "--json", folder=tmp_path)
            assert (status, len(listed.splitlines())) == (0, 10)
            assert "patient" not in listed
            assert await process.terminate() == 0


def _all_are(cad: Cad, state: str, count: int) -> bool:
    return len(cad.trips) == count and all(trip["state"] == state for trip in cad.trips.values())


async def test_a_trip_that_no_dispatch_system_acknowledges_is_an_alarm_until_one_does(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=3)) as sandbox:
        home, port = Home(tmp_path, sandbox), free_port()
        home.customer("acme")
        home.write(with_http(home, port, acknowledge_within="1"))
        async with Process(home, "run") as process:
            await process.ready()
            (request,) = await broadcast(sandbox, 1, "acme")
            await process.logged("trip_not_acknowledged")
            assert await _metric(home, 'receiver_unacknowledged{customer="acme"}') == 1.0
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{home.admin_port}/healthz/ready") as response:
                    health = await response.json()
                assert health["ready"]
                assert "1 trips" in health["notes"]["unacknowledged acme"]
                cad = Cad("", TOKEN)
                told = {"service_request_id": request, "customer_id": "acme"}
                headers = {"Authorization": f"Bearer {TOKEN}"}
                async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as client:
                    await cad.command(client, told, "acknowledge", {"trip_id": "T-1"})
            async with asyncio.timeout(10):
                while await _metric(home, 'receiver_unacknowledged{customer="acme"}') != 0.0:
                    await asyncio.sleep(0.1)
            assert await process.terminate() == 0


async def _metric(home: Home, name: str) -> float | None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{home.admin_port}/metrics") as response,
    ):
        lines = (await response.text()).splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), None)


async def test_5000_positions_of_20_vehicles_reach_vectorcare_in_few_calls(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=4)) as sandbox:
        home, port = Home(tmp_path, sandbox), free_port()
        home.customer("acme")
        home.write(with_http(home, port))
        async with Process(home, "run") as process:
            await process.ready()
            cad = Cad(f"http://127.0.0.1:{port}", TOKEN, drives=False)
            async with cad.running():
                requests = await broadcast(sandbox, 20, "acme")
                await until(lambda: _all_are(cad, "assigned", 20), 30)
                began = time.time() - 3600
                headers = {"Authorization": f"Bearer {TOKEN}"}
                async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as client:
                    for part in range(10):
                        for request in requests:
                            points = [
                                {"lat": 37.9, "lng": -122.5, "timestamp": began + part * 25 + second}
                                for second in range(25)
                            ]
                            told = {"service_request_id": request, "customer_id": "acme"}
                            await cad.command(client, told, "locations", {"points": points}, str(part))
                await until(lambda: len(cad.results) == 200, 40)
            assert await process.terminate() == 0
        calls = [call for call in sandbox.record.calls("locations") if call.took_effect]
        arrived = {(call.request_id, point["timestamp"]) for call in calls for point in orjson.loads(call.body)}
        assert len(arrived) == 5000
        assert len(calls) <= 80
        assert {result["result"] for result in cad.results} == {"done"}


@pytest.mark.parametrize("kind", ["sqlite", "amqp"])
async def test_a_subscriptions_queue_is_shown_without_being_emptied_until_asked(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    url = "sqlite:receiver.db" if kind == "sqlite" else request.getfixturevalue("amqp_url")
    if kind == "amqp":
        await emptied(url, "cad")
    async with Sandbox(Options(seed=5)) as sandbox:
        home = Home(tmp_path, sandbox, broker=url)
        home.customer("acme")
        home.write('[[subscriptions]]\nname = "cad"\npattern = "assignment.assigned.*"\ncustomers = ["acme"]\n')
        async with Process(home, "run") as process:
            await process.ready()
            requests = await broadcast(sandbox, 3, "acme")
            seen = [await _consumed(tmp_path, *more) for more in ((), ("--ack",))]
            assert seen == [sorted(requests)] * 2
            assert await process.terminate() == 0
    if kind == "amqp":
        await emptied(url, "cad")


async def _consumed(folder: Path, *more: str) -> list[Any]:
    status, output = await command("events", "consume", "cad", "--most", "3", *more, folder=folder)
    assert status == 0, output
    lines = [orjson.loads(line) for line in output.splitlines() if line.startswith('{"schema"')]
    return sorted(line["service_request_id"] for line in lines)
