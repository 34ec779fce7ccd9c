"""Holds what is told to what is published: bodies to the JSON Schemas, headers to AsyncAPI's and the CloudEvents SDK.

Whatever takes messages in the tests calls it, and after each test every store that the test left is read
(tests/conftest.py): the outbox keeps what any process has told, whether or not somebody listened.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.bindings.http import from_binary_event as read_push
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from shared import topics
from shared.broker import Message
from shared.configuration import load
from shared.errors import ConfigurationError
from shared.keys import read_sealer
from shared.sealing import CannotOpen, Sealer
from tests.postgres_server import Server
from tests.schemas import VALIDATORS, document, validate, validator

_CONTRACT: Final = document("client-openapi")
_HEADERS: Final = {
    message["name"]: validator(message["headers"])
    for message in document("asyncapi")["components"]["messages"].values()
    if "headers" in message
}
_SQLITE: Final = b"SQLite format 3\x00"
_wrongs: list[Exception] = []
_FILLING: Final = "k"  # the key of rows with which tests fill a table
_ROWS: Final = "SELECT routing_key, headers, body FROM outbox ORDER BY id"


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Raises, and keeps what it raised for the test's end: a callback's or a task's error may reach nobody."""
    try:
        yield
    except Exception as wrong:
        _wrongs.append(wrong)
        raise


def raise_wrongs() -> None:
    """What was wrong since the last call."""
    found, _wrongs[:] = _wrongs[:], []
    if found:
        raise ExceptionGroup("not as it is published", found)


@contextlib.contextmanager
def _named(key: str, headers: Mapping[str, str]) -> Iterator[None]:
    """Says of what an error is."""
    try:
        yield
    except Exception as wrong:
        wrong.add_note(f"of {key}, {dict(headers)}")
        raise


@_kept()
def message(exchange: str, each: Message) -> None:
    """A message of one of our exchanges."""
    with _named(each.routing_key, each.headers):
        _message(exchange, each)


def _message(exchange: str, each: Message) -> None:
    if exchange == topics.OUTCOMES:
        _outcome(each.routing_key, each.headers, each.body)
    elif exchange == topics.COMMANDS:
        _command(each.routing_key, each.headers, each.body)
    else:
        _webhook(each.routing_key, each.headers, each.body)


@_kept()
def push(headers: Mapping[str, str], body: bytes) -> None:
    """A request that a subscription with a `url` was posted."""
    sent = {name.lower(): value for name, value in headers.items()}
    event = read_push(HTTPMessage(sent, body))
    assert isinstance(event, CloudEvent)
    assert event.get_datacontenttype() == "application/json"
    assert sent["webhook-id"] == sent["ce-id"]
    _told(event, body)


@_kept()
def answer(method: str, path: str, status: int, content: object) -> None:
    """An answer of the HTTP door, whose path may have a query; and the events in it."""
    steps = path.partition("?")[0].strip("/").split("/")
    place = "/" + "/".join(steps[:2]) + ("/{customer_id}/{id}" if len(steps) > 2 else "")
    found = _CONTRACT["paths"][place][method.lower()]["responses"][str(status)]
    schema = {**found["content"]["application/json"]["schema"], "components": _CONTRACT["components"]}
    validator(schema).validate(content)
    for event in content["events"] if isinstance(content, dict) and "events" in content else ():
        VALIDATORS["event"].validate(event)
        read = JSONFormat().read(CloudEvent, orjson.dumps(event))
        assert isinstance(read, CloudEvent)
        _told(read, orjson.dumps(event["data"]))


def file(path: Path, sealer: Sealer) -> int:
    """All that a SQLite store keeps as told or to be told; how many messages were looked at. Files that a test has
    broken or made of nothing are not stores."""
    with path.open("rb") as opened:
        if opened.read(len(_SQLITE)) != _SQLITE:
            return 0
    rows = []
    with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(path, timeout=5)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'outbox'").fetchone():
            rows = connection.execute(_ROWS).fetchall()
    return _rows(((key, orjson.loads(headers), body) for key, headers, body in rows), sealer)


def database(server: Server, url: str) -> int:
    """The same of a database, after whatever was done to its server."""
    server.restore()
    if server.sql("SELECT to_regclass('outbox')", url).strip() != "outbox":
        return 0
    as_json = f"SELECT json_build_array(routing_key, headers, encode(body, 'hex')) FROM ({_ROWS}) AS told"
    rows = map(orjson.loads, server.sql(as_json, url).splitlines())
    return _rows(((key, headers, bytes.fromhex(body)) for key, headers, body in rows), Sealer())


def folder(path: Path) -> int:
    """All stores below a folder, opened with the ring of the configuration beside them."""
    return sum(file(each, ring(each.parent)) for each in path.rglob("*.db"))


def ring(path: Path) -> Sealer:
    """The ring of the configuration in this folder, else none."""
    with contextlib.suppress(ConfigurationError, OSError):
        return read_sealer(load(path / "receiver.toml", {}))
    return Sealer()


def _rows(rows: Iterable[tuple[str, dict[str, str], bytes]], sealer: Sealer) -> int:
    count = 0
    for key, headers, stored in rows:
        if key == _FILLING:
            continue
        count += 1
        try:
            body = sealer.open(stored)
        except CannotOpen:  # its key was the test's own
            from_binary_event(RabbitMQMessage(headers, "application/json", b"{}"))
            continue
        with _named(key, headers):
            _outcome(key, headers, body)
    return count


def _outcome(key: str, headers: Mapping[str, str], body: bytes) -> None:
    told = orjson.loads(body)
    _HEADERS[told["schema"]].validate(dict(headers))
    event = from_binary_event(RabbitMQMessage(dict(headers), "application/json", body))
    _told(event, body)
    assert key == f"{event.get_type().removeprefix('com.vectorcare.receiver.')}.{told['customer_id']}"


def _told(event: CloudEvent, body: bytes) -> None:
    """The attributes say of the body what docs/events.md says that they do."""
    told = orjson.loads(body)
    validate(told)
    customer, request = told["customer_id"], told["service_request_id"]
    if told["schema"] == "assignment/1":
        assert told["id"] == f"{customer}/{request}/{told['revision']}"
        kind, named = f"assignment.{told['state']}", told["id"]
    else:
        kind, named = f"command.{told['result']}", f"{customer}/command/{told['id']}"
    at = event.get_time()
    assert (event.get_id(), event.get_type()) == (named, f"com.vectorcare.receiver.{kind}")
    assert (event.get_source(), event.get_extension("customerid")) == (f"/customers/{customer}", customer)
    assert event.get_subject() == request
    assert at is not None
    assert topics.rfc3339(at.timestamp()) == told["occurred_at"]
    assert event.get_data() == told


def _command(key: str, headers: Mapping[str, str], body: bytes) -> None:
    """A command as it should be; a test that sends another on purpose does not ask us."""
    asked = orjson.loads(body)
    VALIDATORS["command-1"].validate(asked)
    assert key == f"{asked['command']}.{asked.get('customer_id', key.rpartition('.')[2])}"
    if any(name.startswith("ce-") for name in headers):
        event = from_binary_event(RabbitMQMessage(dict(headers), "application/json", body))
        assert event.get_id() == f"{event.get_extension('customerid')}/command/{asked['id']}"


def _webhook(key: str, headers: Mapping[str, str], body: bytes) -> None:
    event = from_binary_event(RabbitMQMessage(dict(headers), None, body))
    customer = key.rpartition(".")[2]
    assert (event.get_source(), event.get_extension("customerid")) == (f"/customers/{customer}", customer)
    assert event.get_extension("signature")
    assert event.get_extension("receivedtime")
    if key == f"UNREADABLE.NONE.{customer}":
        assert event.get_extension("reason")
        assert event.get_subject() is None
        return
    sent = orjson.loads(body)
    assert (event.get_id(), event.get_subject()) == (sent["event_id"], sent["service_request_id"])
    assert event.get_type() == f"com.vectorcare.openapi.v2.{sent['action']}"
    assert headers["ce-time"] == sent["event_timestamp"]
    said: dict[str, Any] = {name: event.get_extension(name) for name in ("action", "requeststatus")}
    assert said == {"action": sent["action"], "requeststatus": sent["request_status"]}
