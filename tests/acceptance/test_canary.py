"""No output holds a patient's data or a secret: payloads full of marked values, and every place that prints is read.

Outputs that are there to show patients' data (pulled and pushed events, `--reveal`, `assignments export`) are read only
to see that the marks were truly there.
"""

import asyncio
import base64
import json
import os
import sqlite3
import time
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
from tests.hooks import Hook, hook, refuses, takes
from tests.processes import Home, Process, command, free_port

MARK = "CANARY"
TOKEN = f"{MARK}-token-of-a-puller"
PATIENCE = 60.0
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


@pytest.mark.timeout(300)  # its waits are long for slow machines, and its commands many
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
        port = free_port()
        async with hook(refuses, f"{MARK}-answer") as cad, hook(takes) as person:
            home.write(_doors(port, cad.url, person.url))
            async with Process(home, "run") as process, Process(home, "events", "tail") as tail:
                await process.ready()
                requests = await _everything_happens(sandbox, home, process)
                printed += await _answers_to_strangers(sandbox, home)
                printed += await _answers_of_the_door(f"http://127.0.0.1:{port}", requests)
                await until(lambda: process.log.read_text().count('"event":"push_not_taken"') > 3, PATIENCE)
                assert any(MARK.encode() in body for _, body in cad.asked), "the canary was not pushed"
                printed += await _notices(person)
                printed += await _pages(home)
                if broker == "embedded":  # what they print comes from the store alone
                    printed += await _commands(tmp_path)
                await until(lambda: "assignment.released.acme" in tail.log.read_text(), PATIENCE)
                await until(lambda: "command.refused.acme" in tail.log.read_text(), PATIENCE)
                assert await tail.terminate() in {0, -15}
                assert await process.terminate() == 0
                printed += [process.log.read_text(), tail.log.read_text()]
        for arguments in (["check", "--offline"], ["policy", "check", "acme.toml"]):
            printed.append((await command(*arguments, folder=tmp_path))[1])
        secrets = [MARK, *(receiver.credentials[0].client_secret for receiver in sandbox.receivers.values())]
    if broker == "rabbitmq":
        printed.append(await _headers_in_queues(url))
    everything = "\n".join(printed)
    for shown in (
        '"event":"webhook"',
        '"event":"api_call"',
        "receiver_webhooks_total",
        "receiver_pushes_total",
        "assignment.released.acme",
        '"result":"done"',
        '"other_customer"',
        *(("rabbitmqctl add_user", "other_organization") if broker == "embedded" else ()),
    ):
        assert shown in everything, "the canary was not where it should look"
    for mark in secrets:
        found = [text[max(0, text.find(mark) - 200) :][:300] for text in printed if mark in text]
        assert not found, found[0]
    at_rest = b"".join(file.read_bytes() for file in tmp_path.glob("receiver.db*"))
    assert MARK.encode() not in at_rest, "a body lies unsealed in the file"


def _doors(port: int, cad: str, person: str) -> str:
    """Somebody who pulls, somebody who is pushed to, somebody who is told what wants a person."""
    return f"""
[client]
port = {port}
[[subscriptions]]
name = "puller"
customers = ["acme"]
token = "{TOKEN}"
acknowledge_within = 1
[[subscriptions]]
name = "pushed"
url = "{cad}/{MARK}-path"
secret = "{MARK}-secret-of-24-characters-or-more"
[notify]
webhook_url = "{person}/{MARK}-path"
"""


async def _everything_happens(sandbox: Sandbox, home: Home, process: Process) -> dict[str, str]:
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
    # Not once VectorCare says that it is ours, but once the worker has heard it: else the change may be heard first.
    await until(lambda: _noted(process, "assigned", requests["accept"]), PATIENCE)
    sandbox.change_data(requests["accept"], {"patient_last_name": f"{MARK}-changed"})
    await until(lambda: process.log.read_text().count('"note":"parked"') == 4, PATIENCE)
    await until(lambda: _noted(process, "updated", requests["accept"]), PATIENCE)
    sandbox.cancel(requests["accept"])
    await until(lambda: _noted(process, "released", requests["accept"]), PATIENCE)
    await until(lambda: _noted(process, "held", requests["unknown"]), PATIENCE)
    await until(lambda: _noted(process, "assigned", requests["throttle"]), PATIENCE)
    return requests


def _noted(process: Process, note: str, request: str) -> bool:
    """Whether an event of this request was handled so."""
    return any(f'"note":"{note}"' in line and request in line for line in process.log.read_text().splitlines())


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


async def _answers_of_the_door(url: str, requests: dict[str, str]) -> list[str]:
    """With a token and without: each answer but the events themselves."""
    held, ours, gone = requests["unknown"], requests["throttle"], requests["accept"]
    wanted: list[tuple[int, str | None, dict[str, Any]]] = [
        (200, "accepted", _asks("accept", held, {"notes": f"{MARK}-notes"})),
        (200, "not_open", _asks("decline", gone, {"notes": f"{MARK}-notes"})),
        (200, "done", _asks("acknowledge", ours, {"trip_id": "T-1"})),
        (200, "too_old", _asks("state", ours, {"name": "en_route", "timestamp": "2020-01-01T00:00:00Z"})),
        (200, "done", _asks("locations", ours, {"points": [{"lat": 1.5, "lng": 2.5, "timestamp": time.time()}]})),
        (200, "not_ours", _asks("locations", gone, {"points": [{"lat": 1.5, "lng": 2.5, "timestamp": 1e9}]})),
        (200, "unknown_request", _asks("accept", "VC-NEVER", {"notes": f"{MARK}-notes"})),
        (400, "malformed", _asks("accept", held, {"notes": [f"{MARK}-notes"]})),
        (400, "malformed", _asks("accept", held, {f"{MARK}-field": f"{MARK}-value"})),
        (400, "unknown_command", _asks(f"{MARK}-command", held, {})),
        (
            403,
            "other_customer",
            _asks("accept", held, {"notes": f"{MARK}-notes"}) | {"customer_id": f"{MARK}-customer"},
        ),
    ]
    answers = []
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        for status, code, body in wanted:
            async with session.post("/v1/commands?wait=60", json=body) as response:
                answer = await response.json()
                assert (response.status, answer["code"]) == (status, code), answer
                answers.append(f"{dict(response.headers)} {await response.text()}")
        async with session.post("/v1/commands", data=f'{{"{MARK}"') as response:
            assert response.status == 400
            answers.append(f"{dict(response.headers)} {await response.text()}")
        for path in (f"events?after={MARK}", f"events?wait={MARK}", f"commands/acme/{MARK}", f"commands/{MARK}/1"):
            async with session.get(f"/v1/{path}") as response:
                assert response.status in {400, 404}
                answers.append(f"{dict(response.headers)} {await response.text()}")
        async with session.get(f"/v1/commands/acme/accept-{held}") as response:
            assert response.status == 200
            answers.append(f"{dict(response.headers)} {await response.text()}")
        async with session.get("/v1/events") as response:
            assert MARK in await response.text(), "the canary was not pulled"
            answers.append(f"{dict(response.headers)}")
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}-not"}, {"Authorization": f"Basic {TOKEN}"}):
        async with aiohttp.ClientSession(url, headers=headers) as session:
            for method, path in (("GET", "/v1/events"), ("POST", "/v1/commands"), ("GET", "/v1/commands/acme/1")):
                async with session.request(method, path) as response:
                    assert response.status == 401
                    answers.append(f"{dict(response.headers)} {await response.text()}")
    return answers


def _asks(word: str, request: str, args: dict[str, Any]) -> dict[str, Any]:
    named = {"id": f"{word.lower()}-{request}", "customer_id": "acme", "service_request_id": request}
    return {"schema": "command/1", "command": word, "args": args, "actor": "cad", **named}


async def _notices(person: Hook) -> list[str]:
    """What people were told, of the kinds that there must be."""

    def kinds() -> set[str]:
        return {orjson.loads(body)["kind"] for _, body in person.asked}

    await until(lambda: {"held", "parked", "bad_signature", "unacknowledged"} <= kinds(), PATIENCE)
    return [f"{headers} {body.decode()}" for headers, body in person.asked]


async def _commands(folder: Path) -> list[str]:
    """What persons' commands print, but for those that are there to reveal."""
    with sqlite3.connect(folder / "receiver.db") as store:
        ids = [str(row[0]) for row in store.execute("SELECT id FROM parked ORDER BY id")]
    assert len(ids) == 4
    nobody = f"http://{MARK}-user:{MARK}-password@127.0.0.1:{free_port()}"
    add = ("subscribers", "add", "cad", "--customer", "acme")
    called: list[tuple[int, tuple[str, ...]]] = [
        *((0, words) for words in _LISTS),
        (0, ("dead-letters", "show", ids[0])),
        (0, ("dead-letters", "show", ids[-1], "--json")),
        (0, add),
        (1, (*add, "--management-url", nobody)),
        (1, ("offers", "accept", "acme/VC-NEVER", "--notes", f"{MARK}-notes")),
    ]
    reveals = (("assignments", "export"), ("dead-letters", "show", ids[0], "--reveal", "--reason", "a test"))
    turns = asyncio.Semaphore(2)

    async def run(status: int, words: tuple[str, ...]) -> str:
        async with turns:
            ended, output = await command(*words, folder=folder)
        assert ended == status, (words, output)
        return output

    printed = await asyncio.gather(*(run(*each) for each in called))
    for words in reveals:
        assert MARK in await run(0, words), words
    return printed


_LISTS = (
    ("missed",),
    ("report",),
    ("assignments", "list"),
    ("assignments", "list", "--json"),
    ("offers", "list"),
    ("dead-letters", "list"),
    ("dead-letters", "list", "--json"),
)


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
