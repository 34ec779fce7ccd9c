"""The HTTP contract, on both brokers: every webhook gets its exact answer, and only the verified gets in."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import orjson
import pytest
from prometheus_client import REGISTRY

from ingress import app
from ingress.address import Network
from ingress.customers import Sender
from ingress.receive import Reception
from shared import topics
from shared.broker import Broker
from shared.configuration import load as load_settings
from shared.settings import Settings
from tests import witness
from tests.brokers import Hands, OpenBroker, embedded, emptied, rabbitmq
from tests.webhooks import envelope, public_key, sign

MARK = "MRS-CANARY-PATIENT"
LIMIT = 1048576


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]


@dataclass
class Ingress:
    """A listening ingress, and what it has published."""

    url: str
    broker: Broker
    queues: dict[str, Hands] = field(default_factory=dict)

    async def post(
        self,
        body: bytes,
        *,
        query: str = "customer_id=acme",
        signature: str | None = "right",
        path: str = "/webhook",
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        signed = sign("acme", body) if signature == "right" else signature
        sent = {**({"X-VectorCare-Signature": signed} if signed is not None else {}), **(headers or {})}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.url}{path}?{query}", data=body, headers=sent) as response,
        ):
            return Answer(response.status, await response.read(), dict(response.headers))

    async def published(self) -> tuple[str, bytes]:
        """The next thing on any of our queues: its key and its bytes."""
        waits = {asyncio.ensure_future(hands.next(5)) for hands in self.queues.values()}
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in pending:
            each.cancel()
        delivery = done.pop().result()
        await delivery.ack()
        witness.message(topics.WEBHOOKS, delivery.message)
        return delivery.message.routing_key, delivery.message.body

    async def nothing_published(self) -> bool:
        return all(await asyncio.gather(*(hands.nothing(0.1) for hands in self.queues.values())))


@pytest.fixture(params=["embedded", "rabbitmq"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> OpenBroker:
    if request.param == "embedded":
        return embedded(tmp_path / "broker.db", lease=10.0)
    url: str = request.getfixturevalue("amqp_url")
    await emptied(url)
    return rabbitmq(url)


@contextlib.asynccontextmanager
async def listening(
    broker: Broker, allow_from: Sequence[Network] = (), trusted_proxies: Sequence[Network] = ()
) -> AsyncIterator[Ingress]:
    senders = {
        "acme": Sender("acme", (public_key("old"), public_key("acme")), None),
        "birch": Sender("birch", (public_key("birch"),), b"for-birch"),
        "broken": None,
    }
    reception = Reception(
        broker=broker,
        senders=senders,
        max_body_bytes=LIMIT,
        allow_from=allow_from,
        trusted_proxies=trusted_proxies,
    )
    runner = await app.listen(reception, _settings())
    ingress = Ingress(f"http://127.0.0.1:{app.port(runner)}", broker)
    for queue in topics.topology().queues:
        ingress.queues[queue.name] = Hands()
        await broker.consume(queue.name, 100, ingress.queues[queue.name])
    try:
        yield ingress
    finally:
        await runner.cleanup()


def _settings() -> Settings:
    return load_settings(None, {"RECEIVER_INGRESS__HOST": "127.0.0.1", "RECEIVER_INGRESS__PORT": "0"})


@pytest.fixture
async def ingress(opened: OpenBroker) -> AsyncIterator[Ingress]:
    async with opened() as broker, listening(broker) as each:
        yield each


def body(**changes: object) -> bytes:
    return orjson.dumps(envelope(data={"patient_last_name": MARK}, **changes))


async def test_a_signed_webhook_is_answered_202_with_its_id_once_its_exact_bytes_are_on_the_topic(
    ingress: Ingress,
) -> None:
    answer = await ingress.post(body())
    assert (answer.status, orjson.loads(answer.body)) == (202, {"event_id": "0" * 31 + "1"})
    assert await ingress.published() == ("BROADCAST_RECEIVED.AVAILABLE.acme", body())


REFUSALS = [
    pytest.param({"signature": None}, 401, id="no signature"),
    pytest.param({"signature": "not base64 !"}, 401, id="not base64"),
    pytest.param({"signature": "QUJD"}, 401, id="a short signature"),
    pytest.param({"signature": "A" * 8000}, 401, id="an endless signature"),
    pytest.param({"signature": sign("birch", body())}, 401, id="another customer's key"),
    pytest.param({"signature": sign("acme", body()[:-1] + b" ")}, 401, id="one byte flipped"),
    pytest.param({"query": "customer_id=nobody"}, 401, id="an unknown customer"),
    pytest.param({"query": ""}, 401, id="no customer"),
    pytest.param({"query": "customer_id="}, 401, id="an empty customer"),
    pytest.param({"query": "customer_id=acme&customer_id=acme"}, 401, id="the customer twice"),
    pytest.param({"query": "customer_id=birch"}, 401, id="no token"),
    pytest.param({"query": "customer_id=birch&token=wrong"}, 401, id="a wrong token"),
    pytest.param({"query": "customer_id=birch&token=for-birch&token=for-birch"}, 401, id="the token twice"),
    pytest.param({"query": "customer_id=birch&token=for-birch"}, 401, id="the right token, the wrong key"),
    pytest.param({"method": "GET"}, 405, id="the wrong method"),
    pytest.param({"path": "/other"}, 404, id="the wrong path"),
    pytest.param({"path": "/metrics", "method": "GET"}, 404, id="the metrics, which are not public"),
    pytest.param({"query": "customer_id=broken"}, 503, id="a customer whose configuration is broken"),
]


@pytest.mark.parametrize(("how", "status"), REFUSALS)
async def test_what_is_not_verified_is_refused_and_never_published(
    ingress: Ingress, how: dict[str, str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await ingress.post(body(), **how)  # type: ignore[arg-type]
    assert answer.status == status
    assert await ingress.nothing_published()
    assert MARK.encode() not in answer.body
    assert answer.headers["Server"] == "vectorcare-receiver"
    logged = capsys.readouterr().err
    assert ('"event":"webhook"' in logged) == (status not in {404, 405})
    assert MARK not in logged
    assert "wrong" not in logged.replace("wrong token", "")
    assert "for-birch" not in logged


@pytest.mark.parametrize("encoding", ["gzip", "br", "nonsense"])
async def test_the_bytes_that_were_signed_are_the_bytes_that_came_whatever_their_encoding_says(
    ingress: Ingress, encoding: str
) -> None:
    answer = await ingress.post(body(), headers={"Content-Encoding": encoding})
    assert answer.status == 202
    assert (await ingress.published())[1] == body()


async def first_line(ingress: Ingress, query: str, length: int, start: bytes) -> bytes:
    """What is answered to a request that promises `length` bytes and sends `start`."""
    host, _, port = ingress.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /webhook?{query} HTTP/1.1\r\nHost: x\r\nX-VectorCare-Signature: QUJD\r\nContent-Length: {length}\r\n\r\n"
    )
    writer.write(head.encode() + start)
    try:
        return await asyncio.wait_for(reader.readline(), 5)
    finally:
        writer.close()


async def test_a_body_that_does_not_come_is_answered_in_time(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingress.receive.BODY_WITHIN", 0.3)
    assert b" 408 " in await first_line(ingress, "customer_id=acme", 9, b"half")


@pytest.mark.parametrize("query", ["customer_id=acme", "customer_id=nobody"])
async def test_a_stranger_learns_no_customer_from_the_size_that_is_refused(ingress: Ingress, query: str) -> None:
    assert b" 413 " in await first_line(ingress, query, LIMIT + 1, b"")


async def test_every_401_is_one_and_the_same_answer(ingress: Ingress) -> None:
    refusals = [each.values[0] for each in REFUSALS if each.values[1] == 401]
    answers = [await ingress.post(body(), **how) for how in refusals]  # type: ignore[arg-type]
    assert len({answer.body for answer in answers}) == 1
    assert len({tuple(sorted(answer.headers)) for answer in answers}) == 1


async def test_a_rotated_key_shows_in_the_metrics_with_the_fingerprints_that_were_tried(ingress: Ingress) -> None:
    tried = ", ".join(public_key(name).fingerprint for name in ("old", "acme"))
    labels = {"customer": "acme", "why": "wrong_key", "keys": tried}
    before = REGISTRY.get_sample_value("receiver_webhooks_refused_total", labels) or 0
    await ingress.post(body(), signature=sign("birch", body()))
    assert REGISTRY.get_sample_value("receiver_webhooks_refused_total", labels) == before + 1


async def test_two_signatures_are_refused(ingress: Ingress) -> None:
    async with aiohttp.ClientSession() as session:
        headers = [("X-VectorCare-Signature", sign("acme", body()))] * 2
        async with session.post(f"{ingress.url}/webhook?customer_id=acme", data=body(), headers=headers) as response:
            assert response.status == 401


async def test_an_old_and_a_new_key_are_both_good_while_one_is_rotated(ingress: Ingress) -> None:
    assert (await ingress.post(body(), signature=sign("old", body()))).status == 202
    assert (await ingress.post(body(), signature=sign("acme", body()))).status == 202


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_at_the_limit_is_taken_and_one_over_it_is_413(ingress: Ingress, chunked: bool) -> None:
    fixed = len(body(action="A", padding=""))

    def padded(size: int) -> bytes:
        return body(action="A", padding="x" * (size - fixed))

    async def send(content: bytes) -> int:
        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(content), 65536):
                yield content[start : start + 65536]

        headers = {"X-VectorCare-Signature": sign("acme", content)}
        data = chunks() if chunked else io.BytesIO(content)
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{ingress.url}/webhook?customer_id=acme", data=data, headers=headers) as response,
        ):
            return response.status

    assert await send(padded(LIMIT)) == 202
    assert await ingress.published() == ("A.AVAILABLE.acme", padded(LIMIT))
    with contextlib.suppress(aiohttp.ClientConnectionError):  # the rest of a body that is too large may not be read
        assert await send(padded(LIMIT + 1)) == 413
    assert await ingress.nothing_published()


UNREADABLE = [
    pytest.param(b"", id="empty"),
    pytest.param(b"not json", id="not JSON"),
    pytest.param(b"[]", id="not an object"),
    pytest.param(b'"text"', id="a string"),
    pytest.param(b"{}", id="no fields"),
    pytest.param(b'{"a":' * 200_000, id="1 MB of nesting, open"),
    pytest.param(b'{"a":' * 150_000 + b"1" + b"}" * 150_000, id="1 MB of nesting, closed"),
    pytest.param(b"[" * 500_000 + b"]" * 500_000, id="1 MB of lists"),
    pytest.param(b"\xff\xfe" + body(), id="invalid UTF-8"),
    pytest.param(body().replace(b"VC-BSBBCY5Q", b"\xc3\x28"), id="invalid UTF-8 in a field"),
    pytest.param(body()[:-1] + b"\x00}", id="a NUL byte"),
    pytest.param(body(event_id="x" * 140_000), id="a 140 KB id"),
    pytest.param(body(event_id=""), id="an empty id"),
    pytest.param(body(event_id=7), id="a number for an id"),
    pytest.param(body(event_id="a\x00b"), id="NUL in an id"),
    pytest.param(body(event_id="é"), id="an id that is not ASCII"),
    pytest.param(body(action=None), id="a null action"),
    pytest.param(body(action="a\r\nb"), id="a line break in the action"),
    pytest.param(body(request_status=["AVAILABLE"]), id="a list for a status"),
    pytest.param(body(service_request_id="../accept"), id="a path for a request id"),
    pytest.param(body(service_request_id="VC-1/"), id="a slash in a request id"),
    pytest.param(body(service_request_id="VC-1\n"), id="a line break after a request id"),
    pytest.param(body(service_request_id="x" * 65), id="a request id of 65"),
    pytest.param(body(event_timestamp="yesterday"), id="a word for a time"),
    pytest.param(body(event_timestamp="2026-13-01T00:00:00Z"), id="a 13th month"),
    pytest.param(body(event_timestamp="2026-11-23"), id="a date for a time"),
    pytest.param(orjson.dumps(envelope(data="text")), id="text for data"),
    pytest.param(orjson.dumps(envelope(data=[1])), id="a list for data"),
]


@pytest.mark.parametrize("content", UNREADABLE)
async def test_a_signed_body_that_is_unreadable_is_202_null_and_parked_with_its_reason(
    ingress: Ingress, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await ingress.post(content)
    assert (answer.status, orjson.loads(answer.body)) == (202, {"event_id": None})
    delivery = await ingress.queues[topics.DEAD_LETTERS].next()
    assert delivery.message.routing_key == "UNREADABLE.NONE.acme"
    assert delivery.message.body == content
    assert delivery.message.headers["ce-reason"]
    assert delivery.message.headers["ce-id"].startswith("sha256-")
    assert not {"ce-subject", "ce-time", "ce-action", "ce-requeststatus"} & delivery.message.headers.keys()
    assert MARK not in capsys.readouterr().err
    assert (await ingress.post(body())).status == 202


READABLE = [
    pytest.param({"action": "NEVER_HEARD_OF"}, "NEVER_HEARD_OF.AVAILABLE.acme", id="an unknown action"),
    pytest.param({"action": "a.b#c*d e"}, "a_b_c_d_e.AVAILABLE.acme", id="dots and # in the action"),
    pytest.param({"action": "x" * 128}, "x" * 64 + ".AVAILABLE.acme", id="a long action"),
    pytest.param({"request_status": "ON_HOLD"}, "BROADCAST_RECEIVED.OTHER.acme", id="an unknown status"),
    pytest.param({"request_status": "available"}, "BROADCAST_RECEIVED.OTHER.acme", id="a status in lower case"),
    pytest.param({"new_field": {"a": 1}}, "BROADCAST_RECEIVED.AVAILABLE.acme", id="an unknown field"),
    pytest.param({"data": None}, "BROADCAST_RECEIVED.AVAILABLE.acme", id="null data"),
    pytest.param(
        {"event_timestamp": "2026-11-23t12:00:00.123456789+02:00"}, "BROADCAST_RECEIVED.AVAILABLE.acme", id="ns"
    ),
]


@pytest.mark.parametrize(("changes", "key"), READABLE)
async def test_what_is_unknown_but_readable_flows_untouched(
    ingress: Ingress, changes: dict[str, object], key: str
) -> None:
    content = orjson.dumps({**envelope(), **changes})
    assert (await ingress.post(content)).status == 202
    assert await ingress.published() == (key, content)


async def test_duplicate_keys_and_missing_data_flow_untouched(ingress: Ingress) -> None:
    for content in (
        body()[:-1] + b',"action":"SECOND"}',
        orjson.dumps({name: value for name, value in envelope().items() if name != "data"}),
    ):
        assert (await ingress.post(content)).status == 202
        assert (await ingress.published())[1] == content


async def test_an_address_outside_allow_from_is_refused_and_a_trusted_proxy_speaks_for_its_client(
    opened: OpenBroker,
) -> None:
    ours, theirs = ip_network("10.1.0.0/16"), ip_network("127.0.0.0/8")
    async with opened() as broker:
        async with listening(broker, allow_from=[ours]) as ingress:
            assert (await ingress.post(body())).status == 403
            assert (await ingress.post(body(), headers={"X-Forwarded-For": "10.1.2.3"})).status == 403
        async with listening(broker, allow_from=[ours], trusted_proxies=[theirs]) as ingress:
            assert (await ingress.post(body(), headers={"X-Forwarded-For": "10.1.2.3"})).status == 202
            assert (await ingress.post(body(), headers={"X-Forwarded-For": "10.1.2.3, 8.8.8.8"})).status == 403
            assert (await ingress.post(body(), headers={"X-Forwarded-For": "rubbish"})).status == 403
