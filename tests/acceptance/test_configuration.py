"""A broken configuration, as the person who wrote it meets it: real commands, their words and their exit status."""

import json
from pathlib import Path

import aiohttp
import pytest

from sandbox.server import Options, Sandbox
from tests.brokers import until
from tests.processes import ACCEPT_ALL, Home, Process, command

BROKEN = """
[ingress]
prot = 80
[broker]
url = "redis://x"
[customers.acme]
public_keys = ["nowhere.pem"]
"""


@pytest.mark.parametrize("name", ["run", "ingress", "worker", "check"])
async def test_all_problems_are_listed_with_their_place_and_nothing_is_connected(tmp_path: Path, name: str) -> None:
    (tmp_path / "receiver.toml").write_text(BROKEN)
    status, printed = await command(name, folder=tmp_path, variables={"RECEIVER_STOER__URL": "x"})
    assert status == 2
    for place in ("ingress.prot", "broker.url", "RECEIVER_STOER__URL"):
        assert place in printed
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == [tmp_path / "receiver.toml"]


@pytest.mark.parametrize("arguments", [["worker", "no-such-role"], ["no-such-command"], ["run", "--no-such-option"]])
async def test_a_wrong_call_exits_with_2_and_says_why(tmp_path: Path, arguments: list[str]) -> None:
    status, printed = await command(*arguments, folder=tmp_path)
    assert status == 2
    assert "Traceback" not in printed
    assert "no-such" in printed


async def test_a_file_that_is_not_there_exits_with_2(tmp_path: Path) -> None:
    status, printed = await command("run", "--config", "nowhere.toml", folder=tmp_path)
    assert (status, "nowhere.toml: there is no such file" in printed) == (2, True)


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.port = sandbox.port
        home.customer("acme")
        variables = {"RECEIVER_INGRESS__PORT": str(sandbox.port)}
        status, printed = await command("run", "--config", str(home.file), folder=tmp_path, variables=variables)
    assert status == 2
    assert "ingress.port: can't listen there" in printed


async def test_a_second_worker_of_a_machine_works_although_its_admin_port_is_taken(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        text = home.file.read_text().replace("[worker]\nadmin_port = 0", f"[worker]\nadmin_port = {home.admin_port}")
        home.file.write_text(text)
        async with Process(home, "worker", "lifecycle") as first:
            await first.ready()
            async with Process(home, "worker", "broadcast-received") as second:
                await second.logged("admin_not_served")
                await second.logged("started")
                assert await second.terminate() == 0


async def test_check_says_what_is_wrong_with_each_customer_and_tries_credentials(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        status, printed = await command("check", "--config", str(home.file), folder=tmp_path)
        assert (status, "credentials" in printed) == (0, True), printed
        home.customer("birch", client_secret="open-sesame")
        status, printed = await command("check", "--config", str(home.file), folder=tmp_path)
        assert status == 1
        assert "the token endpoint answered 401" in printed
        assert "open-sesame" not in printed
        home.customer("cedar", public_keys=["receiver.toml"], policy=ACCEPT_ALL.replace("true", "request."))
        status, printed = await command("check", "--config", str(home.file), folder=tmp_path)
        assert status == 2
        assert "customers.cedar.public_keys[0]" in printed
        assert "is not a PEM public key" in printed
        assert "is not CEL, line 1" in printed


async def test_a_broken_customer_is_disabled_loudly_and_the_others_go_on(tmp_path: Path) -> None:
    async with Sandbox(Options(attempt_delays=(0.0,))) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        home.customer("birch", public_keys=["nowhere.pem"])
        async with Process(home, "run") as process:
            await process.ready()
            request = sandbox.create_request("bls")
            await sandbox.broadcast(request, ["acme", "birch"])
            await until(lambda: sandbox.requests[request].assigned_to == "acme", 10)
            await sandbox.idle(10)
            codes = {attempt.receiver: attempt.response_code for attempt in sandbox.record.webhooks()}
            assert codes == {"acme": 202, "birch": 503}
            assert '"event":"customer_disabled"' in process.log.read_text()
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{home.admin_port}/healthz/ready") as response,
            ):
                health = json.loads(await response.read())
            assert health["ready"]
            assert health["notes"]["customers.birch"].startswith("disabled: customers.birch.public_keys[0]")


async def test_policy_check_tells_what_a_policy_reads_and_what_is_wrong_with_one(tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text('[[rules]]\nname = "old"\nwhen = "request.patient_age > 64"\nthen = "decline"\n')
    status, printed = await command("policy", "check", str(good), folder=tmp_path)
    assert status == 0
    assert "where request.patient_age is not known, the offer is held" in printed
    bad = tmp_path / "bad.toml"
    bad.write_text('defalt = "hold"\n[[rules]]\nname = "old"\nwhen = "request.patient_age >"\nthen = "decline"\n')
    status, printed = await command("policy", "check", str(bad), folder=tmp_path)
    assert status == 2
    assert "bad.toml: defalt" in printed
    assert "bad.toml: rules[0].when: is not CEL, line 1" in printed
