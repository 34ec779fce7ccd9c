"""Spans belong where they should, say what they may and no more, and cost nothing where nobody asked for them."""

import importlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY

from shared import otlp, topics, traces
from shared.broker import Message
from shared.configuration import load
from shared.errors import ConfigurationError
from shared.settings import Settings, TracesSettings
from worker.assignment import Assignment, Call
from worker.broadcast_accepted import _accepting

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
PATIENT = "Doe, Jane"
OFFERED, COMMANDS = topics.BROADCAST_RECEIVED, topics.COMMANDS_QUEUE
Switch = Callable[[SpanExporter, float], None]


def settings(ratio: float = 1.0) -> Settings:
    return Settings(traces=TracesSettings(endpoint="http://127.0.0.1:4318/v1/traces", sample_ratio=ratio))


@pytest.fixture
async def switch_on(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Switch]:
    """Switch traces on, with this exporter in the place of HTTP."""

    def on(exporter: SpanExporter, ratio: float = 1.0) -> None:
        monkeypatch.setattr(otlp, "OTLPSpanExporter", lambda *_, **__: exporter)
        traces.switch_on(settings(ratio), "run")

    yield on
    await traces.switch_off()


class Told:
    """What was sent."""

    def __init__(self, switch_on: Switch, ratio: float = 1.0) -> None:
        self._kept = InMemorySpanExporter()
        switch_on(self._kept, ratio)

    async def spans(self) -> dict[str, ReadableSpan]:
        """By name."""
        await traces.switch_off()
        return {span.name: span for span in self._kept.get_finished_spans()}


def message(traceparent: str | None = None) -> Message:
    return Message("BROADCAST_RECEIVED.AVAILABLE.acme", {"traceparent": traceparent} if traceparent else {}, b"{}")


def context(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-03"


def parent(span: ReadableSpan) -> str | None:
    return f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" if span.parent else None


def test_nothing_of_opentelemetry_is_imported_unless_traces_are_switched_on() -> None:
    asked = (
        "import sys, cli.main, shared.traces as t, shared.settings as s\n"
        "t.check(s.Settings()); t.switch_on(s.Settings(), 'run')\n"
        "with t.receiving(), t.verifying(), t.publishing('x'), t.calling('PUT', 'accept', 'h', 1):\n"
        "    t.running().say(a=1)\n"
        "assert t.here() is None and t.receiving() is t.NOTHING\n"
        "print({'opentelemetry', 'google.protobuf', 'requests', 'shared.otlp'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


async def test_a_span_inside_of_another_is_its_child_and_a_delivery_continues_what_its_message_carries(
    switch_on: Switch,
) -> None:
    told = Told(switch_on)
    with traces.receiving() as webhook, traces.publishing("vectorcare.events") as published:
        assert traces.here() == published.traceparent != webhook.traceparent
        with traces.handling(OFFERED, message(PARENT), 2), traces.calling("PUT", "accept", "hub", 443):
            pass
    assert traces.here() is None
    spans = await told.spans()
    webhook_span, published_span = spans["POST /webhook"], spans["publish vectorcare.events"]
    assert parent(webhook_span) is None
    assert parent(published_span) == context(webhook_span)[3:-3]
    assert parent(spans[f"process {OFFERED}"]) == PARENT[3:-3]
    assert parent(spans["PUT /requests/{service_request_id}/accept/"]) == context(spans[f"process {OFFERED}"])[3:-3]
    kinds = [span.kind for span in spans.values()]
    assert {SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CLIENT} == set(kinds)


@pytest.mark.parametrize("nonsense", [None, "", "x", PARENT[:-1], "00-" + "0" * 32 + PARENT[35:], PATIENT])
async def test_a_delivery_that_carries_no_context_begins_a_trace(switch_on: Switch, nonsense: str | None) -> None:
    told = Told(switch_on)
    with traces.receiving(), traces.handling(OFFERED, message(nonsense), 0):
        pass
    spans = await told.spans()
    assert parent(spans[f"process {OFFERED}"]) is None


async def test_a_commands_sender_is_linked_and_no_parent(switch_on: Switch) -> None:
    told = Told(switch_on)
    with traces.handling(COMMANDS, message(PARENT), 0):
        pass
    span = (await told.spans())[f"process {COMMANDS}"]
    assert parent(span) is None
    (link,) = span.links
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" == PARENT[3:-3]


async def test_a_span_says_what_has_a_name_and_neither_an_errors_text_nor_anything_else(switch_on: Switch) -> None:
    told = Told(switch_on)
    with pytest.raises(ValueError, match=PATIENT), traces.handling(OFFERED, message(), 0) as span:
        span.say(customer="acme", note="accepting", patient_last_name=PATIENT, why=PATIENT, command=None)
        raise ValueError(PATIENT)
    span_told = (await told.spans())[f"process {OFFERED}"]
    assert PATIENT not in span_told.to_json()
    assert span_told.status.status_code is StatusCode.ERROR
    assert span_told.attributes is not None
    said = dict(span_told.attributes)
    assert {name: said[name] for name in said if not name.startswith("messaging.")} == {
        "receiver.attempts": 0,
        "receiver.customer": "acme",
        "receiver.note": "accepting",
        "error.type": "ValueError",
    }


async def test_what_failed_before_it_was_worth_telling_and_what_was_discarded_is_not_told(switch_on: Switch) -> None:
    told = Told(switch_on)
    with traces.receiving() as span:
        span.discard()
        with pytest.raises(ValueError, match="wrong"), traces.verifying():
            raise ValueError("wrong")
    with pytest.raises(ValueError, match="away"), traces.passing_on("dispatch.events", message(PARENT)):
        raise ValueError("away")
    with traces.passing_on("dispatch.events", message()), traces.publishing("x"), traces.verifying():
        pass  # of nobody's trace
    assert await told.spans() == {}


async def test_what_is_not_sampled_at_the_ingress_is_not_sampled_by_a_worker(switch_on: Switch) -> None:
    none = Told(switch_on, 0.0)
    with traces.receiving(), traces.publishing("vectorcare.events") as span:
        carried = span.traceparent
    assert carried is not None
    assert not int(carried[-2:], 16) & 1
    assert await none.spans() == {}
    every = Told(switch_on, 1.0)
    with traces.handling(OFFERED, message(carried), 0), traces.calling("PUT", "accept", "hub", 443):
        pass
    assert await every.spans() == {}


def test_names_are_the_semantic_conventions_own_unless_they_are_ours() -> None:
    source = Path(traces.__file__).read_text() + Path(otlp.__file__).read_text()
    names = set(re.findall(r'"((?:cloudevents|error|http|messaging|server|url)\.[a-z_.]+)"', source))
    conventions = set()
    for area in {name.partition(".")[0] for name in names}:
        module = importlib.import_module(f"opentelemetry.semconv._incubating.attributes.{area}_attributes")
        conventions |= {each for each in vars(module).values() if isinstance(each, str)}
    assert len(names) > 10
    assert names <= conventions


class Stuck(SpanExporter):
    """A collector that does not answer."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def export(self, spans: object) -> SpanExportResult:
        self.released.wait(30)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """It would wait too, if it were asked."""


async def test_an_end_waits_a_second_for_a_collector_and_no_longer(switch_on: Switch) -> None:
    stuck = Stuck()
    switch_on(stuck, 1.0)
    with traces.receiving():
        pass
    began = time.monotonic()
    await traces.switch_off()
    assert 0.9 < time.monotonic() - began < 2.0
    stuck.released.set()


class Refusing(SpanExporter):
    """A collector that takes nothing, and then everything."""

    takes = False

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS if self.takes else SpanExportResult.FAILURE


def test_lost_spans_are_counted_and_said_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    def sent() -> float:
        return REGISTRY.get_sample_value("receiver_spans_total", {"what": "sent"}) or 0.0

    refusing = Refusing()
    exporter = otlp._Exporter(refusing)
    before = sent()
    for _ in range(20):
        exporter.export([])
    assert sent() == before
    assert capsys.readouterr().err.count("spans_lost") == 1
    refusing.takes = True
    exporter.export([ReadableSpan("x")])
    assert sent() == before + 1


@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4318",
        "ftp://collector/v1/traces",
        "http://collector:4318",
        "http://a@collector/x",
        "http://c/x?key=1",
    ],
)
def test_an_endpoint_is_a_whole_address(tmp_path: Path, endpoint: str) -> None:
    (tmp_path / "receiver.toml").write_text(f'[traces]\nendpoint = "{endpoint}"\nsample_ratio = 1.1\n')
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path / "receiver.toml", {})
    assert {problem.place for problem in refused.value.problems} == {"traces.endpoint", "traces.sample_ratio"}


def test_a_variable_switches_traces_on() -> None:
    found = load(None, {"RECEIVER_TRACES__ENDPOINT": "http://c:4318/v1/traces", "RECEIVER_TRACES__SAMPLE_RATIO": "0.1"})
    assert found.traces == TracesSettings(endpoint="http://c:4318/v1/traces", sample_ratio=0.1)
    assert load(None, {}).traces.endpoint is None


@pytest.mark.parametrize(
    ("known", "confirms"),
    [
        pytest.param({"ours": True}, True, id="our accept was taken"),
        pytest.param({"intent_call": Call.ACCEPT}, True, id="the webhook overtook the answer"),
        pytest.param({"uncertain_since": 1.0}, True, id="no answer came"),
        pytest.param({"ours": True, "confirmed": True}, False, id="it was confirmed before"),
        pytest.param({"intent_call": Call.DECLINE}, False, id="we declined it"),
        pytest.param({}, False, id="it was given to us"),
    ],
)
def test_an_assigned_confirms_an_accept_that_waits_for_it(known: dict[str, object], confirms: bool) -> None:
    assert _accepting(replace(Assignment("acme", "VC-1"), **known)) is confirms  # type: ignore[arg-type]
