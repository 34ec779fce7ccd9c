"""No output holds a patient's data or a secret: payloads full of marked values, and every place that prints is read."""

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import orjson
import pytest

from sandbox.server import Options, Sandbox
from sandbox.trips import FIELDS
from shared import topics
from shared.parking import REASON
from shared.rabbitmq import RETRY_SECONDS, retry_queue
from tests.brokers import emptied, until
from tests.processes import Home, Process, command

MARK = "CANARY"
POLICY = f"""
[lists]
marks = ["{MARK}-list"]
[[rules]]
name = "declined"
when = "request.facility_name == 'decline'"
then = "decline"
notes = "{MARK}-notes"
[[rules]]
name = "fails"
when = "request.facility_name == 'error' && request.patient_last_name > 7"
then = "accept"
[[rules]]
name = "rest"
when = "request.facility_name != 'unknown'"
then = "accept"
[[rules]]
name = "unknown"
when = "request.no_such_field"
then = "accept"
"""


def marked(facility: str) -> dict[str, Any]:
    """Every documented field says who the patient is, in its own way."""
    data: dict[str, Any] = {name: f"{MARK}-{name}" for name in FIELDS if name != "pickup_date_time"}
    place = {name: f"{MARK}-{name}" for name in ("address", "city", "name", "street", "zip")}
    return data | {"pickup_location": place, "destination_location": place, "facility_name": facility}


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
async def test_no_log_metric_answer_header_or_page_holds_a_patient_or_a_secret(
    tmp_path: Path, request: pytest.FixtureRequest, broker: str
) -> None:
    url = "sqlite:receiver.db"
    if broker == "rabbitmq":
        url = request.getfixturevalue("amqp_url")
        await emptied(url)
    key = tmp_path / "ring"
    key.write_bytes(base64.b64encode(os.urandom(32)))
    key.chmod(0o600)
    printed: list[str] = []
    async with Sandbox(Options(seed=8, attempt_delays=(0.0,))) as sandbox:
        home = Home(tmp_path, sandbox, broker=url, store_more='encryption_key_files = ["ring"]')
        home.customer("acme", policy=POLICY, token=f"{MARK}-token")
        home.customer("birch", policy=POLICY, organization_ids=["ANOTHER"])
        async with Process(home, "run") as process, Process(home, "events", "tail") as tail:
            await process.ready()
            await _everything_happens(sandbox, home, process)
            printed += await _answers_to_strangers(sandbox, home)
            printed += await _pages(home)
            await until(lambda: "assignment.released.acme" in tail.log.read_text(), 10)
            assert await tail.terminate() in {0, -15}
            assert await process.terminate() == 0
            printed += [process.log.read_text(), tail.log.read_text()]
        for arguments in (["check", "--offline"], ["policy", "check", "acme.toml"]):
            printed.append((await command(*arguments, folder=tmp_path))[1])
        secrets = [MARK, *(receiver.credentials[0].client_secret for receiver in sandbox.receivers.values())]
    if broker == "rabbitmq":
        printed.append(await _headers_in_queues(url))
    everything = "\n".join(printed)
    for shown in ('"event":"webhook"', '"event":"api_call"', "receiver_webhooks_total", "assignment.released.acme"):
        assert shown in everything, "the canary was not where it should look"
    for mark in secrets:
        found = [text[max(0, text.find(mark) - 200) :][:300] for text in printed if mark in text]
        assert not found, found[0]
    at_rest = b"".join(file.read_bytes() for file in tmp_path.glob("receiver.db*"))
    assert MARK.encode() not in at_rest, "a body lies unsealed in the file"


async def _everything_happens(sandbox: Sandbox, home: Home, process: Process) -> None:
    """Accepted, declined, held, lost, changed, released, refused, failing, unreadable, forged, foreign."""
    requests = {}
    for facility in ("accept", "decline", "error", "unknown", "throttle", "fail", "drop", "token"):
        requests[facility] = sandbox.create_request("bls", marked(facility))
    for trouble in ("throttle", "fail", "drop_after"):
        sandbox.plan(trouble, "accept", "acme")
    for each in requests.values():
        await sandbox.broadcast(each, ["acme"])
    lost = sandbox.create_request("bls", marked("lost"))
    await sandbox.broadcast(lost, ["acme"])
    sandbox.competitor_accepts(lost)
    await sandbox.broadcast(sandbox.create_request("bls", marked("foreign")), ["birch"])
    for body in (f'{{"{MARK}"'.encode(), orjson.dumps({"event_id": MARK}), orjson.dumps([marked("x")])):
        assert (await sandbox.send("acme", body)).status == 202
    await until(lambda: sandbox.requests[requests["accept"]].assigned_to == "acme", 20)
    sandbox.change_data(requests["accept"], {"patient_last_name": f"{MARK}-changed"})
    await until(lambda: process.log.read_text().count('"note":"parked"') == 4, 20)
    await until(lambda: '"note":"updated"' in process.log.read_text(), 20)
    sandbox.cancel(requests["accept"])
    await until(lambda: '"note":"released"' in process.log.read_text(), 20)


async def _answers_to_strangers(sandbox: Sandbox, home: Home) -> list[str]:
    body = orjson.dumps(marked("x"))
    calls = [
        sandbox.send("acme", body, signature="missing"),
        sandbox.send("acme", body, signature="QUJD"),
        sandbox.send("acme", body, url=home.webhook("acme", f"{MARK}-wrong")),
        sandbox.send("acme", body, url=home.webhook(f"{MARK}-nobody")),
        sandbox.send("acme", body * 400),
    ]
    answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [401, 401, 401, 401, 413]
    return [repr(answer.body) for answer in answers]


async def _pages(home: Home) -> list[str]:
    pages = []
    async with aiohttp.ClientSession() as session:
        for path in ("/metrics", "/healthz/ready", "/healthz/live", "/nowhere"):
            async with session.get(f"http://127.0.0.1:{home.admin_port}{path}") as response:
                pages.append(f"{dict(response.headers)} {await response.text()}")
    return pages


async def _headers_in_queues(url: str) -> str:
    """The headers of whatever still lies in a queue, as RabbitMQ's own management page would show them."""
    found = []
    names = [queue.name for queue in topics.topology().queues] + [retry_queue(step) for step in RETRY_SECONDS]
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for name in names:
            queue = await channel.get_queue(name)
            while (message := await queue.get(fail=False)) is not None:
                found.append(json.dumps({**message.headers, "key": message.routing_key}, default=str))
    return "\n".join(found) + REASON
