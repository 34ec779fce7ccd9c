"""Webhook bodies that are not as documented: what a Receiver may get, rightly signed, one day."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

_EVENT = {
    "event_id": "0" * 32,
    "event_timestamp": "2026-01-28T21:48:06.000Z",
    "service_request_id": "VC-MALFORM1",
    "request_status": "AVAILABLE",
    "action": "BROADCAST_RECEIVED",
    "data": {},
}


def _without(name: str) -> bytes:
    return orjson.dumps({k: v for k, v in _EVENT.items() if k != name})


def _with(**changes: Any) -> bytes:
    return orjson.dumps({**_EVENT, **changes})


MALFORMED: Mapping[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "not JSON": lambda: b"service_request_id=VC-MALFORM1",
    "cut in the middle": lambda: orjson.dumps(_EVENT)[:60],
    "not an object": lambda: b'["BROADCAST_RECEIVED"]',
    "null": lambda: b"null",
    "invalid UTF-8": lambda: orjson.dumps(_EVENT).replace(b"MALFORM1", b"\xff\xfe\xfd"),
    "byte order mark": lambda: b"\xef\xbb\xbf" + orjson.dumps(_EVENT),
    "NUL": lambda: _with(service_request_id="VC-\x00"),
    "no event_id": lambda: _without("event_id"),
    "no request id": lambda: _without("service_request_id"),
    "no status": lambda: _without("request_status"),
    "no action": lambda: _without("action"),
    "no timestamp": lambda: _without("event_timestamp"),
    "no data": lambda: _without("data"),
    "null data while available": lambda: _with(data=None),
    "data is a list": lambda: _with(data=[1, 2]),
    "numbers for strings": lambda: _with(event_id=7, service_request_id=8),
    "timestamp is no time": lambda: _with(event_timestamp="yesterday"),
    "unknown status": lambda: _with(request_status="PENDING"),
    "unknown action": lambda: _with(action="MOON_LANDED"),
    "dots and # in the action": lambda: _with(action="a.#.*.b"),
    "path in the request id": lambda: _with(service_request_id="../../admin"),
    "long id": lambda: _with(event_id="f" * 140_000),
    "deep nesting": lambda: _with(data={}).replace(b"{}", b'{"a":' * 2000 + b"1" + b"}" * 2000),
    "duplicate keys": lambda: orjson.dumps(_EVENT)[:-1] + b',"request_status":"UNAVAILABLE"}',
    "thirty digits": lambda: orjson.dumps(_EVENT).replace(b"{}", b'{"patient_age":' + b"9" * 30 + b"}"),
}
"""Body by name. Not all of them are malformed in the contract's sense: unknown values must be taken."""


def body(choice: int) -> bytes:
    """One of them by number, for seeded chance."""
    makers = list(MALFORMED.values())
    return makers[choice % len(makers)]()
