"""Traces: one from a webhook through the broker to the call of VectorCare's API, where `[traces]` switches them on.

The narrow door to `shared.otlp`, which alone imports OpenTelemetry, and is imported by `switch_on` alone. Switched off,
whatever is asked here costs a comparison. A span says ids, codes and numbers, those of `_SAID` and no others: never a
body, a query string, a configured address, a header that a stranger wrote, or an error's text.
"""

import asyncio
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import TracebackType
from typing import Final, Protocol, Self

from shared import topics
from shared.broker import Message
from shared.errors import ConfigurationError, Problem
from shared.settings import Settings

Value = str | int
Attributes = Mapping[str, Value]


class Kind(StrEnum):
    """OpenTelemetry's kinds of spans."""

    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"
    INTERNAL = "INTERNAL"


class Span(Protocol):
    """A piece of work, as long as its `with` block runs; what begins inside of it is its child."""

    @property
    def traceparent(self) -> str | None:
        """The span's context as W3C Trace Context writes it; None where traces are off."""

    def say(self, **known: Value | None) -> None:
        """Add what is known by now, under the names of `_SAID`; None and what has no name there is not said."""

    def fail(self, kind: str) -> None:
        """It ended badly; `kind` is a code or a type's name."""

    def link(self, traceparent: str | None) -> None:
        """Another trace belongs to it."""

    def discard(self) -> None:
        """Tell nobody of it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Tracer(Protocol):
    """What `shared.otlp` does for us. `system` is the broker's name among OpenTelemetry's."""

    @property
    def system(self) -> str:
        """See the class."""

    def begin(self, name: str, kind: Kind, attributes: Attributes, parent: str | None) -> Span:
        """A span under the traceparent `parent`; the first of a new trace where there is none, or none that can be
        read. What runs around it is not its parent."""

    def within(self, name: str, kind: Kind, attributes: Attributes, *, only_if_well: bool = False) -> Span:
        """A span under the one that is running; NOTHING where none is. `only_if_well`: an error discards it."""

    def continued(self, name: str, kind: Kind, attributes: Attributes, parent: str | None) -> Span:
        """As `begin`, but NOTHING where there is no parent, and discarded by an error."""

    def running(self) -> Span:
        """The span that is running, not to be entered again; NOTHING where none is."""

    def close(self) -> None:
        """Send what is left; blocks for a second at the most."""


class _Nothing:
    """The span of traces that are switched off."""

    traceparent: str | None = None

    def say(self, **known: Value | None) -> None: ...

    def fail(self, kind: str) -> None: ...

    def link(self, traceparent: str | None) -> None: ...

    def discard(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


NOTHING: Final[Span] = _Nothing()

# Attributes by the words of our logs. Where OpenTelemetry's semantic conventions have a name, it is that.
_SAID: Final[Mapping[str, str]] = {
    "customer": "receiver.customer",
    "event_id": "cloudevents.event_id",
    "request": "vectorcare.service_request_id",
    "action": "vectorcare.action",
    "status": "vectorcare.request_status",
    "answer": "receiver.answer",
    "note": "receiver.note",
    "settled": "receiver.settled",
    "attempts": "receiver.attempts",
    "spooled": "receiver.spooled",
    "command": "receiver.command",
    "id": "receiver.command_id",
    "http_status": "http.response.status_code",
}


class _Switch:
    tracer: Tracer | None = None


_switch: Final = _Switch()


def check(settings: Settings) -> None:
    """ConfigurationError where traces are asked for and the packages for them are not installed."""
    if settings.traces.endpoint is not None:
        _implementation()


def switch_on(settings: Settings, part: str) -> None:
    """Trace from now on, if the configuration says so; `part` of the product is `run`, `ingress` or `worker`."""
    endpoint = settings.traces.endpoint
    if endpoint is not None:
        system = "receiver_embedded" if settings.broker_file is not None else "rabbitmq"
        _switch.tracer = _implementation()(endpoint, settings.traces.sample_ratio, system, part)


async def switch_off() -> None:
    """Trace no more, and let what is left go out if it does so within a second."""
    tracer, _switch.tracer = _switch.tracer, None
    if tracer is not None:
        await asyncio.to_thread(tracer.close)


def attributes_of(known: Mapping[str, Value | None]) -> dict[str, Value]:
    """What may be said of what is known, under its names."""
    return {_SAID[word]: value for word, value in known.items() if value is not None and word in _SAID}


def here() -> str | None:
    """The context of the span that is running; None where none is, or traces are off."""
    return _switch.tracer.running().traceparent if _switch.tracer else None


def running() -> Span:
    """The span that is running, to say something of it; not to be entered again."""
    return _switch.tracer.running() if _switch.tracer else NOTHING


def receiving() -> Span:
    """A webhook, from its head to our answer. A trace of its own: a `traceparent` of the sender's is not looked at."""
    if _switch.tracer is None:
        return NOTHING
    route = {"http.request.method": "POST", "http.route": "/webhook", "url.path": "/webhook"}
    return _switch.tracer.begin("POST /webhook", Kind.SERVER, route, None)


def verifying() -> Span:
    """The check of a signature; not told where it fails."""
    return _switch.tracer.within("verify", Kind.INTERNAL, {}, only_if_well=True) if _switch.tracer else NOTHING


def publishing(exchange: str) -> Span:
    """Making a message durable; its traceparent is what the message carries."""
    if _switch.tracer is None:
        return NOTHING
    return _switch.tracer.within(f"publish {exchange}", Kind.PRODUCER, _messaging("publish", "send", exchange))


def passing_on(exchange: str, message: Message) -> Span:
    """Publishing what was kept until now, in the spool or the outbox, under the span that it carries."""
    if _switch.tracer is None:
        return NOTHING
    parent = message.headers.get(topics.TRACEPARENT)
    attributes = _messaging("publish", "send", exchange)
    return _switch.tracer.continued(f"publish {exchange}", Kind.PRODUCER, attributes, parent)


def handling(queue: str, message: Message, attempts: int) -> Span:
    """A worker's work on one delivery, in the webhook's trace, however often it comes again. A command's sender is a
    stranger to other customers' traces: what it says of its own is linked."""
    if _switch.tracer is None:
        return NOTHING
    told = message.headers.get(topics.TRACEPARENT)
    attributes = {**_messaging("process", "process", queue), "receiver.attempts": attempts}
    stranger = queue == topics.COMMANDS_QUEUE
    span = _switch.tracer.begin(f"process {queue}", Kind.CONSUMER, attributes, None if stranger else told)
    if stranger:
        span.link(told)
    return span


def calling(method: str, suffix: str, host: str, port: int) -> Span:
    """One request to VectorCare's API, from its first byte to the answer's last."""
    if _switch.tracer is None:
        return NOTHING
    template = f"/requests/{{service_request_id}}/{suffix}/"
    attributes: dict[str, Value] = {"http.request.method": method, "url.template": template}
    attributes |= {"server.address": host, "server.port": port}
    return _switch.tracer.within(f"{method} {template}", Kind.CLIENT, attributes)


def _messaging(operation: str, kind: str, destination: str) -> dict[str, Value]:
    assert _switch.tracer is not None
    return {
        "messaging.system": _switch.tracer.system,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": destination,
    }


def _implementation() -> Callable[[str, float, str, str], Tracer]:
    try:
        from shared.otlp import Otlp  # noqa: PLC0415 - costs 0.2 s and 17 MB, which nobody pays who traces nothing
    except ImportError:
        missing = 'needs packages that are not installed here: pip install "vectorcare-receiver[traces]"'
        raise ConfigurationError([Problem("traces.endpoint", missing)]) from None
    return Otlp
