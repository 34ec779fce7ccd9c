"""A Receiver's settings over the JSON API: credentials, webhooks, permissions, keys, history, trouble, load."""

from typing import Any

import pytest

from sandbox.options import Options
from sandbox.organizations import PERMISSIONS
from sandbox.remote import Refused, ask
from sandbox.server import Sandbox
from tests.sandbox.client import Client
from tests.sandbox.endpoint import Endpoint


async def test_several_credentials_are_good_until_they_are_deleted(sandbox: Sandbox, acme: Client) -> None:
    made = await ask(sandbox.url, "POST", "receivers/acme/credentials")
    old = acme.receiver.credentials[0]
    both = [(made["client_id"], made["client_secret"]), (old.client_id, old.client_secret)]
    for client_id, secret in both:
        assert (await acme.get_token(client_id=client_id, client_secret=secret)).status == 200
    await ask(sandbox.url, "DELETE", f"receivers/acme/credentials/{old.client_id}")
    assert (await acme.get_token(client_id=old.client_id, client_secret=old.client_secret)).status == 401
    with pytest.raises(Refused, match="no credentials"):
        await ask(sandbox.url, "DELETE", f"receivers/acme/credentials/{old.client_id}")


async def test_two_webhooks_may_be_active_and_both_get_every_event(sandbox: Sandbox, acme_endpoint: Endpoint) -> None:
    async with Endpoint() as green:
        made = await ask(sandbox.url, "POST", "receivers/acme/webhooks", {"url": green.url})
        with pytest.raises(Refused, match="at most 2"):
            await ask(sandbox.url, "POST", "receivers/acme/webhooks", {"url": green.url})
        await sandbox.broadcast(sandbox.create_request(), ["acme"])
        await sandbox.idle()
        assert (len(acme_endpoint.bodies), len(green.bodies)) == (1, 1)
        assert acme_endpoint.events[0]["event_id"] != green.events[0]["event_id"]
        path = f"receivers/acme/webhooks/{made['id']}"
        assert (await ask(sandbox.url, "PUT", path, {"active": False}))["active"] is False
        await sandbox.broadcast(sandbox.create_request(), ["acme"])
        await sandbox.idle()
        assert len(green.bodies) == 1
        assert len((await ask(sandbox.url, "DELETE", path))["webhooks"]) == 1


async def test_with_the_option_both_webhooks_get_the_event_under_one_id() -> None:
    async with Endpoint() as blue, Endpoint() as green, Sandbox(Options(shared_event_id=True)) as sandbox:
        receiver = sandbox.add_receiver("acme", blue.url)
        receiver.add_webhook(green.url)
        await sandbox.broadcast(sandbox.create_request(), ["acme"])
        await sandbox.idle()
        assert blue.events[0]["event_id"] == green.events[0]["event_id"]


@pytest.mark.parametrize(
    ("permission", "path", "value"),
    [
        (PERMISSIONS[1], "receivers/acme/credentials", None),
        (PERMISSIONS[3], "receivers/acme/webhooks", {"url": "https://example.com/"}),
    ],
)
async def test_without_its_permission_a_setting_is_refused(
    sandbox: Sandbox, permission: str, path: str, value: Any
) -> None:
    others = [p for p in PERMISSIONS if p != permission]
    await ask(sandbox.url, "PUT", "receivers/acme/permissions", {"permissions": others})
    with pytest.raises(Refused, match=permission):
        await ask(sandbox.url, "POST", path, value)


async def test_the_history_has_the_columns_of_the_original_and_redelivers(
    sandbox: Sandbox, acme_endpoint: Endpoint
) -> None:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme"])
    await sandbox.idle()
    (row,) = await ask(sandbox.url, "GET", "receivers/acme/history")
    assert row["request_id"] == request_id
    assert row["webhook_id"] == sandbox.receivers["acme"].webhooks[0].id
    assert (row["response_code"], row["event_type"]) == (202, "BROADCAST_RECEIVED")
    assert row["data"].encode() == acme_endpoint.bodies[0]
    assert row["created"].endswith("Z")
    assert (await ask(sandbox.url, "POST", f"history/{row['id']}/redeliver"))["response_code"] == 202
    assert acme_endpoint.bodies[0] == acme_endpoint.bodies[1]
    with pytest.raises(Refused, match="no webhook call"):
        await ask(sandbox.url, "POST", "history/WC-999999/redeliver")


async def test_a_person_accepts_in_vectorcares_own_interface(sandbox: Sandbox, acme_endpoint: Endpoint) -> None:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme"])
    (seen,) = await ask(sandbox.url, "GET", "receivers/acme/requests")
    assert seen["id"] == request_id
    after = await ask(sandbox.url, "POST", f"requests/{request_id}/accept", {"receiver": "acme"})
    assert after["assigned_to"] == "acme"
    await sandbox.idle()
    assert sorted(e["action"] for e in acme_endpoint.events) == ["BROADCAST_ACCEPTED", "BROADCAST_RECEIVED"]


async def test_the_announced_key_is_the_one_after_the_rotation(sandbox: Sandbox) -> None:
    announced = await ask(sandbox.url, "POST", "receivers/acme/announce-key")
    assert await ask(sandbox.url, "POST", "receivers/acme/rotate-key") == announced
    assert (await ask(sandbox.url, "GET", "receivers/acme"))["public_key_pem"] == announced["public_key_pem"]


async def test_trouble_is_set_read_ended_and_planned_over_http(sandbox: Sandbox, acme: Client) -> None:
    told = await ask(sandbox.url, "PUT", "trouble?receiver=acme", {"lose": 1.0})
    assert told["acme"]["lose"] == 1.0
    assert await ask(sandbox.url, "PUT", "trouble?receiver=acme", {}) == {}
    await ask(sandbox.url, "POST", "trouble/plan", {"what": "throttle", "match": "accept"})
    assert (await acme.accept("VC-1")).status == 429
    for wrong in ({"what": "boredom"}, {"when": "now"}):
        with pytest.raises(Refused):
            await ask(sandbox.url, "POST", "trouble/plan", wrong)


async def test_tokens_are_expired_and_any_bytes_sent_over_http(
    sandbox: Sandbox, acme: Client, acme_endpoint: Endpoint
) -> None:
    await ask(sandbox.url, "POST", "receivers/acme/expire-tokens")
    assert (await acme.accept(sandbox.create_request())).status == 401
    assert sandbox.record.calls("accept")[-1].token == "revoked"
    for body in ("no JSON", {"hex": "ff00"}):
        assert (await ask(sandbox.url, "POST", "receivers/acme/send", {"body": body}))["status"] == 202
    assert acme_endpoint.bodies == [b"no JSON", b"\xff\x00"]


@pytest.mark.parametrize("wrong", [{"rate": 0, "duration": 1}, {"rate": 5}, {"rate": 5, "duration": 1, "to": ["x"]}])
async def test_a_load_that_makes_no_sense_is_refused(sandbox: Sandbox, wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        await ask(sandbox.url, "POST", "load", wrong)


async def test_a_standing_order_is_made_over_http(sandbox: Sandbox) -> None:
    assert len(await ask(sandbox.url, "POST", "standing-orders", {"times": 2})) == 4
