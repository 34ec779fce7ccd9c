"""One trace from webhook to call, with real processes, a real collector and both brokers; and none of it in the way."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest

from sandbox.server import Options, Sandbox
from sandbox.trips import FIELDS
from shared import topics
from shared.signature import SIGNATURE_HEADER
from tests.acceptance.collector import Collector, Span, collecting
from tests.acceptance.test_rides import broadcast, taken
from tests.brokers import emptied, until
from tests.processes import Home, Process, command, free_port
from tests.proxy import Mode, in_front_of

MARK = "CANARY"
OFFERED, CONFIRMED = "process receiver.broadcast-received", "process receiver.broadcast-accepted"
CALL = "PUT /requests/{service_request_id}/accept/"
FORGED = f"00-{'a' * 32}-{'b' * 16}-01"
FLAGS = "03"  # sampled, and its id is random
POLICY = f'[[rules]]\nname = "{MARK}-rule"\nwhen = "true"\nthen = "accept"\nnotes = "{MARK}-notes"\n'


def marked() -> dict[str, Any]:
    """Every documented field says who the patient is, in its own way."""
    data: dict[str, Any] = {name: f"{MARK}-{name}" for name in FIELDS if name != "pickup_date_time"}
    place = {name: f"{MARK}-{name}" for name in ("address", "city", "name", "street", "zip")}
    return data | {"pickup_location": place, "destination_location": place}


def only(spans: list[Span]) -> Span:
    (span,) = spans
    return span


def assert_one_trace_from_webhook_to_call(collector: Collector, request: str) -> Span:
    """The parents are right; the span of the offer's handling."""
    about = {"vectorcare__service_request_id": request, "receiver__customer": "acme"}
    offered = {**about, "vectorcare__request_status": "AVAILABLE"}
    webhook = only(collector.named("POST /webhook", **offered))
    mine = [span for span in collector.spans if span.trace_id == webhook.trace_id]
    children = {span.name: span for span in mine if span.parent_id == webhook.span_id}
    assert webhook.parent_id == ""
    assert webhook.kind == "SERVER"
    assert webhook.attributes["http.response.status_code"] == 202
    assert set(children) == {"verify", "publish vectorcare.events"}
    published = children["publish vectorcare.events"]
    assert published.kind == "PRODUCER"
    handling = only(collector.named(OFFERED, **offered))
    assert (handling.trace_id, handling.parent_id) == (webhook.trace_id, published.span_id)
    assert handling.kind == "CONSUMER"
    assert handling.attributes["cloudevents.event_id"] == webhook.attributes["cloudevents.event_id"]
    assert handling.attributes["receiver.note"] == "accepting"
    assert handling.attributes["receiver.settled"] == "retry"  # to look whether it was confirmed
    call = only([span for span in mine if span.name == CALL])
    assert call.parent_id == handling.span_id
    assert (call.kind, call.attributes["http.response.status_code"], call.is_error) == ("CLIENT", 201, False)
    told = [span for span in mine if span.name == "publish dispatch.events"]
    assert {span.parent_id for span in told} == {handling.span_id}
    return handling


def assert_the_confirmation_is_linked(collector: Collector, request: str, accept: Span) -> None:
    about = {"vectorcare__service_request_id": request, "vectorcare__request_status": "ASSIGNED"}
    webhook = only(collector.named("POST /webhook", **about))
    confirmed = only(collector.named(CONFIRMED, **about))
    assert confirmed.trace_id == webhook.trace_id != accept.trace_id
    assert confirmed.links == (f"{accept.trace_id}-{accept.span_id}",)
    assert accept.links == ()


def assert_no_span_says_too_much(collector: Collector, sandbox: Sandbox) -> None:
    everything = b"".join(collector.bodies)
    receiver = sandbox.receivers["acme"]
    for secret in (MARK, "for-acme", "customer_id=", receiver.credentials[0].client_secret, "Bearer"):
        assert secret.encode() not in everything
    assert "a" * 32 not in {span.trace_id for span in collector.spans}


async def one_ride(sandbox: Sandbox, home: Home) -> str:
    """A ride that is broadcast and accepted; and somebody who can't sign."""
    request = sandbox.create_request("bls", marked())
    await sandbox.broadcast(request, ["acme"])
    await until(lambda: sandbox.requests[request].assigned_to == "acme", 30)
    assert (await sandbox.send("acme", b"{}", "wrong")).status == 401
    return request


@pytest.mark.parametrize("broker", ["embedded", "rabbitmq"])
async def test_a_webhook_its_handling_and_the_call_are_one_trace_and_the_confirmation_is_linked_to_it(
    tmp_path: Path, request: pytest.FixtureRequest, broker: str
) -> None:
    url = store = "sqlite:receiver.db"
    if broker == "rabbitmq":
        url, store = request.getfixturevalue("amqp_url"), request.getfixturevalue("postgres_url")
        await emptied(url)
    async with Sandbox(Options(seed=11)) as sandbox, collecting() as collector, contextlib.AsyncExitStack() as stack:
        home = Home(tmp_path, sandbox, broker=url, store=store)
        home.customer("acme", token="for-acme", policy=POLICY)
        home.write(f'[traces]\nendpoint = "{collector.endpoint}"\n')
        commands = [("run",)] if broker == "embedded" else [("ingress",), ("worker",)]
        processes = [await stack.enter_async_context(Process(home, *command)) for command in commands]
        await processes[0].ready()
        await processes[-1].logged("started")
        ride = await one_ride(sandbox, home)
        await until(lambda: collector.named(CONFIRMED) and collector.named(OFFERED), 20)
        await sandbox.idle(10)
        assert [await process.terminate() for process in processes] == [0] * len(processes)
        accept = assert_one_trace_from_webhook_to_call(collector, ride)
        assert_the_confirmation_is_linked(collector, ride, accept)
        assert_no_span_says_too_much(collector, sandbox)
        assert len(collector.named("POST /webhook")) == 2  # and none of the one that was not signed
        systems = {span.attributes.get("messaging.system") for span in collector.spans} - {None}
        assert systems == {"rabbitmq" if broker == "rabbitmq" else "receiver_embedded"}
        parts = {span.name: span.part for span in collector.spans}
        assert (parts["POST /webhook"], parts[CALL]) == (
            ("ingress", "worker") if broker == "rabbitmq" else ("run", "run")
        )
        for process in processes:
            assert "spans_lost" not in process.log.read_text()


async def test_what_waits_in_the_spool_and_what_is_tried_again_stays_in_the_webhooks_trace(
    tmp_path: Path, amqp_url: str
) -> None:
    await emptied(amqp_url)
    async with (
        Sandbox(Options(seed=12)) as sandbox,
        collecting() as collector,
        in_front_of(amqp_url) as proxy,
    ):
        home = Home(tmp_path, sandbox, broker=proxy.url)
        home.customer("acme")
        home.write(f'[traces]\nendpoint = "{collector.endpoint}"\n[ingress.spool]\npath = "spool.db"\n')
        async with Process(home, "run") as process:
            await process.ready()
            proxy.set(Mode.CUT)
            sandbox.plan("throttle", "accept", "acme")
            (ride,) = await broadcast(sandbox, 1, "acme")
            await until(lambda: collector.named("POST /webhook"), 20)
            webhook = only(collector.named("POST /webhook"))
            proxy.set(Mode.PASS)
            await until(lambda: len(collector.named(OFFERED, receiver__note="accepting")) == 1, 30)
            await until(lambda: len(collector.named(CONFIRMED)) == 1, 20)
            assert await process.terminate() == 0
    mine = [span for span in collector.spans if span.trace_id == webhook.trace_id]
    kept, forwarded = sorted(
        (span for span in mine if span.name == "publish vectorcare.events"),
        key=lambda span: span.parent_id != webhook.span_id,
    )
    assert kept.attributes["receiver.spooled"] == "yes"
    assert forwarded.parent_id == kept.span_id
    handlings = sorted(
        (span for span in mine if span.name == OFFERED), key=lambda span: span.attributes["receiver.attempts"]
    )
    assert [span.attributes["receiver.note"] for span in handlings] == ["throttled", "accepting"]
    assert {span.parent_id for span in handlings} == {kept.span_id}
    calls = [span for span in mine if span.name == CALL]
    assert [call.attributes["http.response.status_code"] for call in calls] == [429, 201]
    assert [call.parent_id for call in calls] == [span.span_id for span in handlings]
    assert (calls[0].is_error, calls[0].attributes["error.type"]) == (True, "429")
    assert_the_confirmation_is_linked(collector, ride, handlings[-1])


async def test_an_accept_whose_answer_was_lost_is_linked_all_the_same(tmp_path: Path) -> None:
    async with Sandbox(Options(seed=16)) as sandbox, collecting() as collector:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        home.write(f'[traces]\nendpoint = "{collector.endpoint}"\n')
        async with Process(home, "run") as process:
            await process.ready()
            sandbox.plan("drop_after", "accept", "acme")  # taken, and the connection breaks
            (ride,) = await broadcast(sandbox, 1, "acme")
            await until(lambda: collector.named(CONFIRMED) and collector.named(OFFERED), 20)
            assert await process.terminate() == 0
    first = min(collector.named(OFFERED), key=lambda span: span.attributes["receiver.attempts"])
    call = only([span for span in collector.named(CALL) if span.parent_id == first.span_id])
    assert (call.is_error, call.attributes["receiver.answer"]) == (True, "unknown")
    assert_the_confirmation_is_linked(collector, ride, first)


async def test_a_senders_traceparent_is_not_believed_and_a_subscriber_gets_ours(tmp_path: Path, amqp_url: str) -> None:
    await emptied(amqp_url)
    async with Sandbox(Options(seed=13)) as sandbox, collecting() as collector:
        home = Home(tmp_path, sandbox, broker=amqp_url)
        home.customer("acme")
        home.write(f'[traces]\nendpoint = "{collector.endpoint}"\n')
        sandbox.set_webhook("acme", f"http://127.0.0.1:{free_port()}/")  # it is posted here instead
        async with Process(home, "run") as process, heard(amqp_url) as messages, aiohttp.ClientSession() as session:
            await process.ready()
            await broadcast(sandbox, 1, "acme")
            await until(sandbox.record.webhooks, 10)
            body = sandbox.record.webhooks()[0].body
            signed = {SIGNATURE_HEADER: sandbox.sign("acme", body), "traceparent": FORGED, "tracestate": "a=b"}
            async with session.post(home.webhook("acme"), data=body, headers=signed) as answer:
                assert answer.status == 202
            await until(lambda: {topics.WEBHOOKS, topics.OUTCOMES} <= messages.keys(), 20)
            await until(lambda: collector.named(OFFERED) and collector.named("POST /webhook"), 20)
            assert await process.terminate() == 0
    webhook, handling = only(collector.named("POST /webhook")), only(collector.named(OFFERED))
    assert webhook.parent_id == ""
    assert {span.trace_id for span in collector.spans} == {webhook.trace_id}
    assert webhook.trace_id not in FORGED
    published = only([span for span in collector.spans if span.span_id == handling.parent_id])
    assert messages[topics.WEBHOOKS]["traceparent"] == f"00-{published.trace_id}-{published.span_id}-{FLAGS}"
    assert messages[topics.OUTCOMES]["traceparent"] == f"00-{handling.trace_id}-{handling.span_id}-{FLAGS}"
    assert "tracestate" not in messages[topics.WEBHOOKS]


@pytest.mark.parametrize("how", ["hangs", "is not there"])
async def test_a_collector_that_does_not_answer_slows_nothing_and_fills_no_log(tmp_path: Path, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never looks at them
        port = silent.getsockname()[1] if how == "hangs" else free_port()
        async with Sandbox(Options(seed=14)) as sandbox:
            home = Home(tmp_path, sandbox)
            home.customer("acme")
            home.write(f'[traces]\nendpoint = "http://127.0.0.1:{port}/v1/traces"\n')
            async with Process(home, "run") as process:
                await process.ready()
                requests = await broadcast(sandbox, 30, "acme")
                await until(lambda: len(taken(sandbox)) == 30, 20)
                await process.logged("spans_lost")
                await sandbox.idle(10)
                await broadcast(sandbox, 1, "acme")
                stopping = time.monotonic()
                assert await process.terminate() == 0
                assert time.monotonic() - stopping < 4  # a second of it for the spans
                log = process.log.read_text()
    assert taken(sandbox).keys() >= {("acme", request) for request in requests}
    assert log.count("spans_lost") == 1
    assert "library_log" not in log


@pytest.mark.parametrize("command_line", [("run",), ("check", "--offline")], ids=" ".join)
async def test_without_its_packages_the_setting_is_a_configuration_error(
    tmp_path: Path, command_line: tuple[str, ...]
) -> None:
    """As it is where the extra was not installed: the import fails."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "opentelemetry.py").write_text("raise ModuleNotFoundError('not here', name=__name__)\n")
    path = os.pathsep.join([str(tmp_path / "without"), *filter(None, sys.path)])
    async with Sandbox(Options(seed=15)) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        home.write('[traces]\nendpoint = "http://127.0.0.1:4318/v1/traces"\n')
        config = ("--config", str(home.file))
        status, printed = await command(*command_line, *config, folder=tmp_path, variables={"PYTHONPATH": path})
        assert status == 2
        assert "traces.endpoint" in printed
        assert "vectorcare-receiver[traces]" in printed
        assert "Traceback" not in printed
        home.write()
        status, _ = await command("check", "--offline", *config, folder=tmp_path, variables={"PYTHONPATH": path})
        assert status == 0


@contextlib.asynccontextmanager
async def heard(url: str) -> AsyncIterator[dict[str, dict[str, str]]]:
    """The headers of what is published, by exchange, the last one of each; with plain aio-pika."""
    messages: dict[str, dict[str, str]] = {}

    async def keep(incoming: aio_pika.abc.AbstractIncomingMessage) -> None:
        messages[incoming.exchange or ""] = {name: str(value) for name, value in incoming.headers.items()}

    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for exchange in (topics.OUTCOMES, topics.WEBHOOKS):
            await channel.declare_exchange(exchange, aio_pika.ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, "#")
            await queue.consume(keep, no_ack=True)
        yield messages
