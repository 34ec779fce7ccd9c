"""The parked events in a person's hands: by commands alone, with real processes, on both brokers."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from sandbox.server import Options, Sandbox
from shared import topics
from shared.broker import Message
from tests.acceptance.test_rides import broadcast, taken
from tests.brokers import embedded, emptied, until
from tests.processes import Home, Process, command
from tests.webhooks import envelope

MARK = "MRS-CANARY-PATIENT"
MISTAKE = 'organization_ids = ["ANOTHER"]'


def query(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "receiver.db")) as connection:
        return connection.execute(statement).fetchall()


class Desk:
    """A person at a terminal beside the receiver."""

    def __init__(self, home: Home, sandbox: Sandbox) -> None:
        self.home = home
        self.sandbox = sandbox

    async def says(self, *words: str) -> tuple[int, str]:
        return await command("dead-letters", *words, "--config", str(self.home.file), folder=self.home.folder)

    async def listed(self, *filters: str) -> list[dict[str, Any]]:
        status, output = await self.says("list", "--json", *filters)
        assert status == 0, output
        return [orjson.loads(line) for line in output.splitlines()]

    async def park(self, process: Process, count: int) -> list[str]:
        """Broadcast to birch, which is configured for another organization by mistake."""
        before = process.log.read_text().count('"note":"parked"')
        requests = await broadcast(self.sandbox, count, "birch")
        await until(lambda: process.log.read_text().count('"note":"parked"') == before + count, 20)
        return requests

    def audit(self) -> list[tuple[Any, ...]]:
        return query(self.home.folder, "SELECT actor, deed, customer_id, result FROM audit ORDER BY id")

    def mend(self) -> None:
        self.home.file.write_text(self.home.file.read_text().replace(MISTAKE, ""))


@contextlib.asynccontextmanager
async def sitting(folder: Path, broker: str = "sqlite:receiver.db") -> AsyncIterator[Desk]:
    async with Sandbox(Options()) as sandbox:
        home = Home(folder, sandbox, broker=broker)
        home.customer("acme")
        home.customer("birch", organization_ids=["ANOTHER"])
        yield Desk(home, sandbox)


@pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])
async def test_what_was_parked_by_a_mistake_becomes_trips_once_that_is_mended_and_it_is_redriven(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    url = "sqlite:receiver.db"
    if kind == "rabbitmq":
        url = request.getfixturevalue("amqp_url")
        await emptied(url)
    async with sitting(tmp_path, url) as desk:
        async with Process(desk.home, "run") as process:
            await process.ready()
            requests = await desk.park(process, 3)
            rows = await desk.listed("--customer", "birch", "--reason", "other_organization")
            assert sorted(row["service_request_id"] for row in rows) == sorted(requests)
            status, output = await desk.says("redrive", str(rows[0]["id"]), "--actor", "kim")
            assert (status, "went back to receiver.broadcast-received" in output) == (0, True), output
            # The mistake is still there, so it is parked again, and not lost between the two.
            await until(lambda: process.log.read_text().count('"note":"parked"') == 4, 20)
            assert len(await desk.listed()) == 3
            assert await process.terminate() == 0
        desk.mend()
        async with Process(desk.home, "run") as process:
            await process.ready()
            status, output = await desk.says("redrive", "--all", "--customer", "birch", "--actor", "kim")
            assert (status, output.count("went back")) == (0, 3), output
            await until(lambda: sum(taken(desk.sandbox).values()) == 3, 20)
            assert set(taken(desk.sandbox)) == {("birch", each) for each in requests}
            assert await desk.listed() == []
            assert await process.terminate() == 0
        assert [row[:3] for row in desk.audit()] == [("kim", "dead_letters_redrive", "birch")] * 4
        assert {row[3] for row in desk.audit()} <= {"redriven", "parked_again"}


async def test_an_offer_that_is_gone_is_not_accepted_when_it_is_redriven(tmp_path: Path) -> None:
    async with sitting(tmp_path) as desk:
        async with Process(desk.home, "run") as process:
            await process.ready()
            (request,) = await desk.park(process, 1)
            assert await process.terminate() == 0
        desk.mend()
        async with Process(desk.home, "run") as process:
            await process.ready()
            desk.sandbox.cancel(request)
            await until(lambda: f'"request":"{request}"' in process.log.read_text(), 20)
            await until(lambda: process.log.read_text().count("receiver.lifecycle") > 0, 20)
            handled = process.log.read_text().count('"event":"event_handled"')
            assert (await desk.says("redrive", "--all"))[0] == 0
            await until(lambda: process.log.read_text().count('"event":"event_handled"') > handled, 20)
            assert not desk.sandbox.record.calls("accept")
            assert await desk.listed() == []


async def test_a_body_is_shown_to_whoever_says_why_and_that_is_written_down_before(tmp_path: Path) -> None:
    async with sitting(tmp_path) as desk, Process(desk.home, "run") as process:
        await process.ready()
        body = orjson.dumps({**envelope(), "request_status": 7, "data": {"patient_last_name": MARK}})
        assert (await desk.sandbox.send("acme", body)).status == 202
        await until(lambda: '"note":"parked"' in process.log.read_text(), 20)
        (row,) = await desk.listed()
        assert (row["reason"], row["customer_id"], row["attempts"]) == ("unreadable", "acme", 0)
        number = str(row["id"])
        for words in (["show", number], ["list"], ["list", "--json"], ["show", number, "--json"]):
            status, output = await desk.says(*words)
            assert (status, MARK in output) == (0, False), output
            assert "unreadable" in output
        assert desk.audit() == []
        assert (await desk.says("show", number, "--reveal", "--reason", " "))[0] == 2
        status, output = await desk.says("show", number, "--reveal", "--reason", "ticket 7", "--actor", "kim")
        assert (status, MARK in output) == (0, True)
        assert desk.audit() == [("kim", "dead_letters_reveal", "acme", "ticket 7")]
        status, output = await desk.says("redrive", number)
        assert (status, "stays parked" in output) == (1, True)


async def test_one_is_discarded_only_by_whoever_means_it(tmp_path: Path) -> None:
    async with sitting(tmp_path) as desk, Process(desk.home, "run") as process:
        await process.ready()
        await desk.park(process, 1)
        (row,) = await desk.listed()
        status, output = await desk.says("discard", str(row["id"]))  # nobody is there to say yes
        assert (status, len(await desk.listed())) == (1, 1), output
        status, output = await desk.says("discard", str(row["id"]), "--yes", "--actor", "kim")
        assert (status, await desk.listed()) == (0, []), output
        assert desk.audit() == [("kim", "dead_letters_discard", "birch", "discarded")]
        status, output = await desk.says("discard", str(row["id"]), "--yes")
        assert (status, "no event" in output) == (1, True)


async def test_filters_choose_by_customer_reason_and_age_and_a_wrong_call_is_2(tmp_path: Path) -> None:
    async with sitting(tmp_path) as desk, Process(desk.home, "run") as process:
        await process.ready()
        await desk.park(process, 2)
        assert (await desk.sandbox.send("acme", b"not json")).status == 202
        async with embedded(tmp_path / "receiver.db")() as broker:
            forged = Message("A.AVAILABLE.gone", {"ce-customerid": "gone", "ce-id": "\x1b[2J"}, b"{}")
            await broker.publish(topics.WEBHOOKS, forged, mandatory=True, timeout=5)
        await until(lambda: process.log.read_text().count('"note":"parked"') == 4, 20)
        counts = [
            (["--customer", "birch"], 2),
            (["--reason", "unreadable"], 1),
            (["--customer", "birch", "--reason", "unreadable"], 0),
            (["--older-than", "1h"], 0),
            (["--older-than", "0s"], 4),
        ]
        results = await asyncio.gather(*(desk.listed(*filters) for filters, _ in counts))
        assert [len(rows) for rows in results] == [count for _, count in counts]
        status, output = await desk.says("list")
        assert (status, "\x1b[2J" in output) == (0, False)
        status, output = await desk.says("redrive", "--all", "--customer", "gone")
        assert (status, "customer gone is not configured" in output) == (1, True), output
        for wrong in (
            ["redrive"],
            ["redrive", "1", "--all"],
            ["redrive", "1", "--customer", "acme"],
            ["list", "--older-than", "yesterday"],
            ["show", "one"],
        ):
            assert (await desk.says(*wrong))[0] == 2, wrong
        assert (await desk.says("show", "999"))[0] == 1
