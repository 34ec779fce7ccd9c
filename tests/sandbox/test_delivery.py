"""How webhooks are delivered: signature, attempts, deadline."""

from base64 import b64decode

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sandbox.chance import stream
from sandbox.identifiers import EventIds
from sandbox.options import Options
from sandbox.server import Sandbox
from tests.sandbox.client import Client
from tests.sandbox.conftest import QUICK
from tests.sandbox.endpoint import Endpoint


def verify(pem: str, body: bytes, signature: str) -> None:
    key = load_pem_public_key(pem.encode())
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(b64decode(signature, validate=True), body, padding.PKCS1v15(), SHA256())


async def test_every_webhook_is_signed_over_its_raw_body_with_the_receivers_own_key(
    sandbox: Sandbox, acme: Client, acme_endpoint: Endpoint
) -> None:
    request_id = sandbox.create_request()
    await sandbox.broadcast(request_id, ["acme"])
    await acme.accept(request_id)
    await sandbox.idle()
    for body, headers in zip(acme_endpoint.bodies, acme_endpoint.headers, strict=True):
        verify(acme.receiver.public_key_pem, body, headers["X-VectorCare-Signature"])
        with pytest.raises(InvalidSignature):
            verify(sandbox.receivers["birch"].public_key_pem, body, headers["X-VectorCare-Signature"])


async def test_a_refused_webhook_is_tried_three_times_with_the_same_bytes() -> None:
    async with Endpoint(500, 302, 400) as endpoint, Sandbox(Options(attempt_delays=QUICK)) as sandbox:
        sandbox.add_receiver("acme", endpoint.url)
        await sandbox.broadcast(sandbox.create_request(), ["acme"])
        await sandbox.idle()
        attempts = sandbox.record.webhooks()
        assert [(a.attempt, a.cause, a.response_code) for a in attempts] == [
            (1, "event", 500),
            (2, "retry", 302),
            (3, "retry", 400),
        ]
        assert len(endpoint.bodies) == 3
        assert len(set(endpoint.bodies)) == 1


async def test_no_further_attempt_follows_a_2xx() -> None:
    async with Endpoint(503, 204) as endpoint, Sandbox(Options(attempt_delays=QUICK)) as sandbox:
        sandbox.add_receiver("acme", endpoint.url)
        await sandbox.broadcast(sandbox.create_request(), ["acme"])
        await sandbox.idle()
        assert [a.response_code for a in sandbox.record.webhooks()] == [503, 204]


async def test_an_endpoint_that_is_silent_or_not_there_is_recorded_as_such() -> None:
    options = Options(attempt_delays=(0.0,), webhook_deadline=0.05)
    async with Endpoint(silent=True) as endpoint, Sandbox(options) as sandbox:
        sandbox.add_receiver("slow", endpoint.url)
        sandbox.add_receiver("gone", "http://127.0.0.1:9/webhook")
        await sandbox.broadcast(sandbox.create_request(), ["slow", "gone"])
        await sandbox.idle()
        assert {a.receiver: a.error for a in sandbox.record.webhooks()} == {
            "slow": "timeout",
            "gone": "unreachable",
        }


async def test_a_silent_endpoint_holds_up_no_other_webhook() -> None:
    async with Endpoint(silent=True) as slow, Endpoint() as quick, Sandbox(Options()) as sandbox:
        sandbox.add_receiver("slow", slow.url)
        sandbox.add_receiver("quick", quick.url)
        for _ in range(5):
            await sandbox.broadcast(sandbox.create_request(), ["slow", "quick"])
        assert len(await quick.seen(5)) == 5
        assert len(await slow.seen(5)) == 5


async def test_a_restamped_retry_has_another_timestamp_the_same_id_and_a_right_signature() -> None:
    options = Options(attempt_delays=(0.0, 0.005), restamp=True)
    async with Endpoint(500) as endpoint, Sandbox(options) as sandbox:
        pem = sandbox.add_receiver("acme", endpoint.url).public_key_pem
        await sandbox.broadcast(sandbox.create_request(), ["acme"])
        await sandbox.idle()
        first, second = endpoint.events
        assert first["event_id"] == second["event_id"]
        assert first["event_timestamp"] < second["event_timestamp"]
        verify(pem, endpoint.bodies[1], endpoint.headers[1]["X-VectorCare-Signature"])


async def test_any_bytes_can_be_sent_signed_unsigned_or_with_any_signature(
    sandbox: Sandbox, acme_endpoint: Endpoint
) -> None:
    body = b"\xff not json"
    answer = await sandbox.send("acme", body)
    assert answer.status == 202
    await sandbox.send("acme", body, signature="missing")
    await sandbox.send("acme", body, signature="abc")
    assert acme_endpoint.bodies == [body] * 3
    signatures = [h.get("X-VectorCare-Signature") for h in acme_endpoint.headers]
    assert signatures == [sandbox.sign("acme", body), None, "abc"]
    assert orjson_safe(sandbox)
    large = b"x" * 2_000_000
    assert (await sandbox.send("acme", large)).status == 413


def orjson_safe(sandbox: Sandbox) -> bool:
    """Whether the whole record can be told as JSON, bytes that are no text included."""
    return all(isinstance(entry["body"], dict) for entry in sandbox.record.to_json())


def test_later_event_ids_are_greater_also_within_a_millisecond() -> None:
    ids = EventIds(stream(0), sortable=True)
    made = [ids.next() for _ in range(5000)]
    assert made == sorted(set(made))
    assert {len(i) for i in made} == {32}


def test_event_ids_are_random_with_the_option() -> None:
    ids = EventIds(stream(0), sortable=False)
    made = [ids.next() for _ in range(50)]
    assert made != sorted(made)
