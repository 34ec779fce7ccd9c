"""Spans to a collector by OTLP over HTTP, sent by a thread of their own; the only module that imports OpenTelemetry.

Whatever the collector does, nobody waits for it: a bounded number of spans is kept, the oldest are lost first, and one
line a minute says so.
"""

import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Final, Self

import structlog
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared import metrics
from shared.traces import NOTHING, Attributes, Kind, Span, Value, attributes_of

_SEND_SECONDS: Final = 5.0
_EVERY: Final = 1.0  # seconds between batches
_AT_A_TIME: Final = 64  # putting a batch together takes the interpreter's lock for 2 ms
_LOCKED_SECONDS: Final = 0.001  # in which it must hand the lock to the event loop; Python's own is 0.005
_KEPT: Final = 4096
_LAST_SECONDS: Final = 1.0  # at a stop
_SAID_EVERY: Final = 60.0

_log = structlog.get_logger("traces")
_nowhere: Final = Context()


class Otlp:
    """The tracer port (`shared.traces.Tracer`)."""

    def __init__(self, endpoint: str, sample_ratio: float, system: str, part: str) -> None:
        self.system = system
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(_LOCKED_SECONDS)
        ours = {"service.name": "vectorcare-receiver", "service.version": version("vectorcare-receiver")}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({**ours, "receiver.part": part}),
            shutdown_on_exit=False,  # it would wait for 30 s
        )
        exporter = _Exporter(OTLPSpanExporter(endpoint, timeout=_SEND_SECONDS))
        self._provider.add_span_processor(_Processor(exporter, _KEPT, _EVERY * 1000, _AT_A_TIME))
        self._tracer = self._provider.get_tracer("vectorcare-receiver", ours["service.version"])
        self._w3c = TraceContextTextMapPropagator()

    def begin(self, name: str, kind: Kind, attributes: Attributes, parent: str | None) -> Span:
        """See the port."""
        return self._span(name, kind, attributes, self._read(parent))

    def within(self, name: str, kind: Kind, attributes: Attributes, *, only_if_well: bool = False) -> Span:
        """See the port."""
        if not trace.get_current_span().get_span_context().is_valid:
            return NOTHING
        return self._span(name, kind, attributes, context.get_current(), only_if_well=only_if_well)

    def continued(self, name: str, kind: Kind, attributes: Attributes, parent: str | None) -> Span:
        """See the port."""
        around = self._read(parent)
        if not trace.get_current_span(around).get_span_context().is_valid:
            return NOTHING
        return self._span(name, kind, attributes, around, only_if_well=True)

    def running(self) -> Span:
        """See the port."""
        span = trace.get_current_span()
        return _Span(self, span) if span.get_span_context().is_valid else NOTHING

    def close(self) -> None:
        """See the port."""
        # A thread that nobody waits for at the process's end, as the executor's are waited for.
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)
        sys.setswitchinterval(self._interval)

    def linked(self, traceparent: str | None) -> SpanContext | None:
        """The context that a traceparent names; None where it names none."""
        found = trace.get_current_span(self._read(traceparent)).get_span_context()
        return found if found.is_valid else None

    def _span(
        self, name: str, kind: Kind, attributes: Attributes, around: Context, *, only_if_well: bool = False
    ) -> "_Span":
        span = self._tracer.start_span(
            name,
            around,
            SpanKind[kind],
            attributes,
            record_exception=False,  # its text may hold what no span may
            set_status_on_exception=False,
        )
        return _Span(self, span, only_if_well=only_if_well)

    def _read(self, traceparent: str | None) -> Context:
        return self._w3c.extract({"traceparent": traceparent}, _nowhere) if traceparent else _nowhere


class _Span:
    """The span port on a span of OpenTelemetry's."""

    def __init__(self, tracer: Otlp, span: trace.Span, *, only_if_well: bool = False) -> None:
        self._tracer = tracer
        self._span = span
        self._only_if_well = only_if_well
        self._discarded = False

    @property
    def traceparent(self) -> str | None:
        """See the port."""
        mine = self._span.get_span_context()
        return f"00-{mine.trace_id:032x}-{mine.span_id:016x}-{int(mine.trace_flags):02x}"

    def say(self, **known: Value | None) -> None:
        """See the port."""
        self._span.set_attributes(attributes_of(known))

    def fail(self, kind: str) -> None:
        """See the port."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def link(self, traceparent: str | None) -> None:
        """See the port."""
        other = self._tracer.linked(traceparent)
        if other is not None:
            self._span.add_link(other)

    def discard(self) -> None:
        """See the port."""
        self._discarded = True

    def __enter__(self) -> Self:
        self._before = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        context.detach(self._before)
        if kind is not None:
            self.fail(kind.__name__)
        if not (self._discarded or (kind is not None and self._only_if_well)):
            self._span.end()  # one that never ends is never told


class _Processor(BatchSpanProcessor):
    """Keeps spans until they are sent, and counts them: what ended and was never sent was lost."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            metrics.SPANS.labels("ended").inc()
        super().on_end(span)


class _Exporter(SpanExporter):
    """Sends, in the processor's thread, and says once a minute that it can't."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._lost = 0
        self._silent_until = 0.0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See OpenTelemetry's SpanExporter."""
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            metrics.SPANS.labels("sent").inc(len(spans))
            return result
        self._lost += len(spans)
        if time.monotonic() >= self._silent_until:
            _log.warning("spans_lost", spans=self._lost, problem="the collector of traces.endpoint did not take them")
            self._lost = 0
            self._silent_until = time.monotonic() + _SAID_EVERY
        return result

    def shutdown(self) -> None:
        """See OpenTelemetry's SpanExporter."""
        self._inner.shutdown()
