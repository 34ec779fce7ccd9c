"""The sandbox's own JSON API: all that the Python API does, from outside."""

import tomllib
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from sandbox import configuration
from sandbox.record import from_json, to_json
from sandbox.server import Sandbox
from tests.sandbox.client import Client
from tests.sandbox.endpoint import Endpoint


async def ask(sandbox: Sandbox, method: str, path: str, value: Any = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{sandbox.url}/sandbox/{path}", data=orjson.dumps(value) if value is not None else None
        ) as answer,
    ):
        text = await answer.text()
        is_json = answer.content_type == "application/json"
        return answer.status, orjson.loads(text) if is_json else text


async def test_a_request_is_made_broadcast_and_read_over_http(sandbox: Sandbox, acme_endpoint: Endpoint) -> None:
    status, made = await ask(sandbox, "POST", "requests", {"kind": "bls", "data": {"escalated": True}})
    assert status == 201
    assert made["data"]["escalated"] is True
    request_id = made["id"]
    status, told = await ask(sandbox, "POST", f"requests/{request_id}/broadcast", {"to": ["acme"]})
    assert (status, told["offers"]["acme"]["status"]) == (200, "AVAILABLE")
    assert (await ask(sandbox, "POST", f"requests/{request_id}/assign", {"to": "birch"}))[0] == 200
    assert (await ask(sandbox, "GET", f"requests/{request_id}"))[1]["assigned_to"] == "birch"
    assert (await ask(sandbox, "GET", "idle"))[1] == {"idle": True, "pending": 0}
    assert len(acme_endpoint.bodies) == 2


@pytest.mark.parametrize("deed", ["competitor", "cancel", "expire"])
async def test_each_deed_of_the_requester_has_a_path(sandbox: Sandbox, deed: str) -> None:
    _, made = await ask(sandbox, "POST", "requests", {"broadcast_to": ["acme"]})
    _, after = await ask(sandbox, "POST", f"requests/{made['id']}/{deed}")
    assert after["offers"]["acme"]["status"] == "UNAVAILABLE"
    await sandbox.idle()


@pytest.mark.parametrize(
    ("method", "path", "value", "status"),
    [
        ("GET", "requests/VC-NONE", None, 404),
        ("POST", "requests/VC-NONE/cancel", None, 404),
        ("POST", "requests", {"kind": "boat"}, 400),
        ("POST", "requests", {"broadcast_to": ["nobody"]}, 404),
        ("POST", "requests", [], 400),
        ("POST", "receivers", {"name": "cedar", "webhook": "http://example.com/"}, 409),
        ("POST", "receivers", {"name": "acme"}, 409),
        ("PUT", "receivers/acme/webhook", {}, 400),
        ("GET", "record?since=x", None, 400),
        ("GET", "nowhere", None, 404),
        ("DELETE", "requests", None, 405),
    ],
)
async def test_a_wrong_call_is_answered_with_a_message(
    sandbox: Sandbox, method: str, path: str, value: Any, status: int
) -> None:
    answer = await ask(sandbox, method, path, value)
    assert answer[0] == status
    assert answer[1]["message"]


async def test_what_cannot_be_done_now_is_409(sandbox: Sandbox) -> None:
    request_id = sandbox.create_request()
    sandbox.cancel(request_id)
    assert (await ask(sandbox, "POST", f"requests/{request_id}/broadcast", {"to": ["acme"]}))[0] == 409


async def test_a_receiver_is_added_with_its_secret_shown_once(sandbox: Sandbox) -> None:
    status, made = await ask(sandbox, "POST", "receivers", {"name": "cedar"})
    assert status == 201
    assert made["client_secret"]
    _, listed = await ask(sandbox, "GET", "receivers/cedar")
    assert "client_secret" not in listed
    _, changed = await ask(sandbox, "PUT", "receivers/cedar/webhook", {"url": "http://127.0.0.1:9/w"})
    assert [w["url"] for w in changed["webhooks"]] == ["http://127.0.0.1:9/w"]


async def test_the_record_is_read_from_where_one_stopped_and_comes_back_the_same(
    sandbox: Sandbox, acme: Client
) -> None:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme"])
    await sandbox.idle()
    _, first = await ask(sandbox, "GET", "record")
    await acme.accept(request_id)
    await sandbox.idle()
    _, second = await ask(sandbox, "GET", f"record?since={first['next']}")
    assert [e["kind"] for e in second["entries"]].count("call") == 1
    assert [from_json(e) for e in first["entries"] + second["entries"]] == list(sandbox.record)
    assert [to_json(e) for e in sandbox.record] == sandbox.record.to_json()


async def test_the_configuration_names_what_a_receiver_needs(sandbox: Sandbox, tmp_path: Path) -> None:
    _, text = await ask(sandbox, "GET", "configuration")
    acme = tomllib.loads(text)["customers"]["acme"]
    assert acme["client_secret"] == sandbox.receivers["acme"].client_secret
    path = configuration.write(tmp_path, sandbox.url, sandbox.receivers.values(), "automatic")
    written = tomllib.loads(path.read_text())["customers"]["acme"]
    assert written["mode"] == "automatic"
    assert "accept" in (tmp_path / written["policy"]).read_text()
    assert (tmp_path / written["public_keys"][0]).read_text() == sandbox.receivers["acme"].public_key_pem
    assert path.stat().st_mode & 0o077 == 0
