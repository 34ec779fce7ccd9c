"""A collector of OpenTelemetry's on loopback: takes spans by OTLP over HTTP and keeps them, with their bytes."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from tests.processes import free_port


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it was sent; ids in hex, as a traceparent has them."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]
    attributes: dict[str, str | int]
    is_error: bool
    part: str


@dataclass
class Collector:
    """What came."""

    endpoint: str
    bodies: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str, **attributes: str | int) -> list[Span]:
        """The spans of this name with these attributes, whose dots are written `__`."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [span for span in self.spans if span.name == name and wanted.items() <= span.attributes.items()]

    def names(self) -> Counter[str]:
        """How often each name came."""
        return Counter(span.name for span in self.spans)

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`."""
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        self.bodies.append(body)
        export = ExportTraceServiceRequest.FromString(body)
        for resource in export.resource_spans:
            part = next(each.value.string_value for each in resource.resource.attributes if each.key == "receiver.part")
            self.spans += [_span(span, part) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")


def _span(span: WireSpan, part: str) -> Span:
    values = {each.key: each.value for each in span.attributes}
    return Span(
        span.name,
        WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        tuple(f"{link.trace_id.hex()}-{link.span_id.hex()}" for link in span.links),
        {key: value.string_value or value.int_value for key, value in values.items()},
        span.status.code == 2,
        part,
    )


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector while the block runs."""
    port = free_port()
    collector = Collector(f"http://127.0.0.1:{port}/v1/traces")
    app = web.Application()
    app.add_routes([web.post("/v1/traces", collector.take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield collector
    finally:
        await runner.cleanup()
