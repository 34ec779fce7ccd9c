"""How far the policy may go: observe and suggest call nothing, limits hold to the unit, parked events are kept."""

import sqlite3
from pathlib import Path

import orjson
import pytest

from sandbox.server import Options, Sandbox
from shared import topics
from shared.broker import Message
from tests.acceptance.test_rides import broadcast, subscribed, taken
from tests.brokers import embedded, until
from tests.processes import Home, Process

HELD_BY_RULE = '[[rules]]\nname = "ask"\nwhen = "true"\nthen = "hold"\n'


@pytest.mark.parametrize("mode", ["observe", "suggest"])
async def test_observe_and_suggest_hold_each_offer_say_what_they_would_do_and_call_nothing(
    tmp_path: Path, mode: str
) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme", mode=mode)
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                await broadcast(sandbox, 5, "acme")
                await until(lambda: len(subscriber.outcomes) == 5, 10)
            assert await process.terminate() == 0
        told = {(each["state"], each["reason_code"], each["suggested"]) for each in subscriber.outcomes}
        assert told == {("held", "suggested", "accept")}
        assert not sandbox.record.calls("accept")


async def test_without_a_policy_and_by_a_hold_rule_an_offer_is_held(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme", policy=HELD_BY_RULE)
        home.customer("birch", policy="")
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                await broadcast(sandbox, 1, "acme", "birch")
                await until(lambda: len(subscriber.outcomes) == 2, 10)
        told = {(each["customer_id"], each["reason_code"], each["decided_by"]) for each in subscriber.outcomes}
        assert told == {("acme", "rule", "ask"), ("birch", "default", None)}


async def test_limits_hold_to_the_unit_when_many_offers_come_at_once(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme", limits={"max_open": 7})
        home.customer("birch", limits={"max_accepts_per_hour": 3})
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                for customer in ("acme", "birch"):
                    await broadcast(sandbox, 30, customer, pause=0)
                await until(lambda: sum(each["state"] == "held" for each in subscriber.outcomes) == 50, 20)
                await until(lambda: subscriber.assigned() == 10, 10)
        accepted = [customer for customer, _ in taken(sandbox)]
        assert (accepted.count("acme"), accepted.count("birch")) == (7, 3)
        assert {each["reason_code"] for each in subscriber.outcomes if each["state"] == "held"} == {"limit"}


async def test_what_is_parked_is_kept_in_the_store_with_its_reason_once(tmp_path: Path) -> None:
    async with Sandbox(Options(attempt_delays=(0.0,))) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        home.customer("birch", organization_ids=["ANOTHER"])
        async with Process(home, "run") as process:
            await process.ready()
            await broadcast(sandbox, 1, "birch")
            for _ in range(2):
                assert (await sandbox.send("acme", b"not json")).status == 202
            async with embedded(tmp_path / "receiver.db")() as broker:
                for headers in ({}, {"ce-customerid": "nobody"}):
                    forged = Message("A.AVAILABLE.acme", headers, orjson.dumps({}))
                    await broker.publish(topics.WEBHOOKS, forged, mandatory=True, timeout=5)
            await until(lambda: process.log.read_text().count('"note":"parked"') == 5, 10)
            assert await process.terminate() == 0
        with sqlite3.connect(tmp_path / "receiver.db") as connection:
            rows = connection.execute("SELECT reason, customer_id, origin_queue, routing_key FROM parked").fetchall()
        connection.close()
        assert sorted(rows, key=str) == sorted(
            [
                ("other_organization", "birch", topics.BROADCAST_RECEIVED, "BROADCAST_RECEIVED.AVAILABLE.birch"),
                ("unreadable", "acme", "", "UNREADABLE.NONE.acme"),
                ("unknown_customer", None, topics.BROADCAST_RECEIVED, "A.AVAILABLE.acme"),
                ("unknown_customer", "nobody", topics.BROADCAST_RECEIVED, "A.AVAILABLE.acme"),
            ],
            key=str,
        )
