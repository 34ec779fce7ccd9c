"""Logs without PHI: one line of JSON for each thing that happened, pretty on a terminal.

Our own lines hold ids, counts and durations. An exception is shown by its types and places, never by its text, and a
library's line by its template without the arguments, because those may hold a payload.
"""

import contextlib
import logging
import sys
import traceback
from collections import Counter
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final, TextIO, cast

import orjson
import structlog

Line = MutableMapping[str, Any]
_MOST_OF_A_PLACE: Final = 10


def configure(stream: TextIO = sys.stderr, *, level: int = logging.INFO) -> None:
    """Send all logs of the process to `stream`."""
    pretty = stream.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if pretty
        else structlog.processors.JSONRenderer(serializer=lambda line, **_: orjson.dumps(line, default=str).decode())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _exception_without_values,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Lossy(stream))),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Templates()], level=logging.WARNING, force=True)
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what it says of a lost connection, the link says once
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # and of a collector that is away, shared.otlp
    logging.captureWarnings(capture=True)


class _Lossy:
    """A stream whose lines are lost where they can't be written (a full disk, a reader that has gone): a line must
    never stop the work that it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or don't."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Likewise."""
        with contextlib.suppress(OSError):
            self._stream.flush()


class _Templates(logging.Handler):
    """Passes a library's log record on without its arguments; of one place, so many a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._minute = 0
        self._seen: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """See the class."""
        minute = int(record.created // 60)
        if minute != self._minute:
            self._minute, self._seen = minute, Counter()
        self._seen[f"{record.module}:{record.lineno}"] += 1
        if self._seen[f"{record.module}:{record.lineno}"] > _MOST_OF_A_PLACE:
            return
        template = record.msg if isinstance(record.msg, str) and record.args else None
        structlog.get_logger("library").warning(
            "library_log",
            library=record.name,
            severity=record.levelname.lower(),
            template=template,
            place=f"{record.module}:{record.lineno}",
            exc_info=record.exc_info or None,
        )


def _exception_without_values(_: Any, __: str, line: Line) -> Line:
    found = line.pop("exc_info", None)
    if found is True:
        found = sys.exc_info()
    if isinstance(found, BaseException):
        found = (type(found), found, found.__traceback__)
    if found and found[1] is not None:
        line["exception"] = exception_places(found[1], found[2])
    return line


def exception_places(error: BaseException, trace: TracebackType | None = None) -> list[str]:
    """The chain of an exception: each one's type and the places that it passed, innermost last; no messages."""
    places = []
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(trace or cause.__traceback__)
        where = " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-6:])
        places.append(f"{type(cause).__module__}.{type(cause).__qualname__} at {where}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        trace = None
    return places
