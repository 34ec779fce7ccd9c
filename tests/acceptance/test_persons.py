"""A person's part, by commands alone: held offers answered, pauses, what was missed, what came of it all."""

import sqlite3
from pathlib import Path

import orjson
import pytest

from sandbox.server import Options, Sandbox
from tests.acceptance.test_rides import SOON, broadcast, subscribed, taken
from tests.brokers import embedded, until
from tests.processes import Home, Process, command

HELD_BY_RULE = '[[rules]]\nname = "ask"\nwhen = "true"\nthen = "hold"\n'


async def test_a_person_accepts_declines_and_proposes_and_the_audit_says_who(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme", policy=HELD_BY_RULE)
        config = ("--config", str(home.file))
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                first, second, third = await broadcast(sandbox, 3, "acme")
                await until(lambda: len(subscriber.outcomes) == 3, 10)
                _, listed = await command("offers", "list", "--json", *config, folder=tmp_path)
                assert {orjson.loads(line)["offer"] for line in listed.splitlines() if line.startswith("{")} == {
                    f"acme/{request}" for request in (first, second, third)
                }
                for words in (
                    ("accept", f"acme/{first}", "--notes", "Gladly."),
                    ("decline", f"acme/{second}"),
                    ("propose", f"acme/{third}", "--at", "2030-01-01T10:00:00Z"),
                ):
                    status, said = await command("offers", *words, "--actor", "ann", *config, folder=tmp_path)
                    assert status == 0, said
                await until(lambda: subscriber.states()["acme", first] == ["held", "accepting", "assigned"], 10)
                await until(lambda: subscriber.states()["acme", second] == ["held", "declining", "closed"], 10)
                await until(lambda: subscriber.states()["acme", third] == ["held", "proposing"], 10)
            told = [each for each in subscriber.outcomes if each["state"] in {"accepting", "declining", "proposing"}]
            assert {(each["reason_code"], each["decided_by"], each["actor"]) for each in told} == {
                ("person", "person", "ann")
            }
            status, said = await command("offers", "accept", f"acme/{second}", *config, folder=tmp_path)
            assert (status, "not_open" in said) == (1, True)
            status, said = await command("offers", "accept", "acme/VC-NEVER", *config, folder=tmp_path)
            assert (status, "unknown_request" in said) == (1, True)
        with sqlite3.connect(tmp_path / "receiver.db") as store:
            deeds = store.execute("SELECT actor, deed, subject, result FROM audit ORDER BY id").fetchall()
        assert ("ann", "accept", first, "accepted") in deeds


async def test_what_was_offered_while_paused_is_held_and_after_resume_the_policy_decides_again(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        config = ("--config", str(home.file))
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                assert (await command("pause", "acme", *config, folder=tmp_path))[0] == 0
                held, *_ = await broadcast(sandbox, 1, "acme")
                await until(lambda: len(subscriber.outcomes) == 1, 10)
                assert (subscriber.outcomes[0]["state"], subscriber.outcomes[0]["reason_code"]) == ("held", "paused")
                status, said = await command("offers", "accept", f"acme/{held}", *config, folder=tmp_path)
                assert (status, "paused" in said) == (1, True)
                assert (await command("resume", "acme", *config, folder=tmp_path))[0] == 0
                await broadcast(sandbox, 1, "acme")
                await until(lambda: subscriber.assigned() == 1, 10)
                assert (await command("offers", "accept", f"acme/{held}", *config, folder=tmp_path))[0] == 0
                await until(lambda: subscriber.assigned() == 2, 10)
            assert len(taken(sandbox)) == 2


async def test_an_accept_that_is_never_confirmed_is_told_and_is_missed_until_its_webhook_comes(tmp_path: Path) -> None:
    async with Sandbox(Options(attempt_delays=SOON)) as sandbox:
        home = Home(tmp_path, sandbox, worker_more="confirm_within = 1")
        home.customer("acme")
        sandbox.plan("lose", "BROADCAST_ACCEPTED", "acme")
        config = ("--config", str(home.file))
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                (request,) = await broadcast(sandbox, 1, "acme")
                await until(lambda: len(subscriber.outcomes) == 2, 20)
            last = subscriber.outcomes[-1]
            assert (last["state"], last["confirmed"], last["needs_attention"]) == ("assigned", False, True)
            status, said = await command("missed", "--json", *config, folder=tmp_path)
            found = [orjson.loads(line) for line in said.splitlines() if line.startswith("{")]
            assert (status, [(each["request"], each["kind"]) for each in found]) == (0, [(request, "confirmation")])


@pytest.mark.parametrize("mode", ["observe", "suggest"])
async def test_the_report_says_what_the_policy_would_have_done(tmp_path: Path, mode: str) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme", mode=mode)
        async with Process(home, "run") as process:
            await process.ready()
            async with embedded(tmp_path / "receiver.db")() as broker, subscribed(broker) as subscriber:
                requests = await broadcast(sandbox, 4, "acme")
                await until(lambda: len(subscriber.outcomes) == 4, 10)
                sandbox.competitor_accepts(requests[0])
                await until(lambda: len(subscriber.outcomes) == 5, 10)
        _, said = await command("report", "--json", "--config", str(home.file), folder=tmp_path)
        figures = next(orjson.loads(line) for line in said.splitlines() if line.startswith('{"customer"'))
        assert (figures["offers"], figures["would_accept"], figures["missed"], figures["by_policy"]) == (4, 4, 1, 0)
        assert figures["median_seconds"] < 5
