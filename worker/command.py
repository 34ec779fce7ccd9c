"""What a dispatch system or a person asks for: `command/1`, read and checked. Pure; no problem repeats a value."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from shared.topics import rfc3339

SCHEMA: Final = "command/1"
STATES: Final = ("en_route", "arrived", "on_board", "arrived_at_destination", "completed", "canceled", "dry_run")
PERSONAL: Final = frozenset({"accept", "decline", "propose"})
FOR_A_CUSTOMER: Final = frozenset({"capacity", "pause", "resume"})
MOST_POINTS: Final = 1000  # in one command
_LONGEST_NOTES: Final = 450  # VectorCare's own limit
_LABEL: Final = re.compile(r"[\x20-\x7e]{1,128}")
_ACTOR: Final = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Command:
    """A command that can be carried out. `customer_id` is the key's; times are Unix seconds; args may hold PHI."""

    customer_id: str
    command_id: str
    command: str
    service_request_id: str
    args: Mapping[str, Any] = field(repr=False)
    actor: str | None
    not_after: float | None
    expected_revision: int | None


@dataclass(frozen=True, slots=True)
class Malformed:
    """What names itself and can't be carried out: why, as a code and a sentence without values."""

    customer_id: str
    command_id: str
    command: str
    service_request_id: str
    actor: str | None
    code: str
    sentence: str


class _Wrong(Exception):
    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


def read(word: str, customer_id: str, body: bytes) -> Command | Malformed | None:
    """The command of a message keyed `WORD.CUSTOMER`; None where not even its id can be read."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or not _is_label(found.get("id")):
        return None
    request_id = found.get("service_request_id")
    request_id = request_id if isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id) else ""
    actor = found.get("actor")
    try:
        return _command(found, word, customer_id, request_id)
    except _Wrong as wrong:
        named = actor if isinstance(actor, str) and _ACTOR.fullmatch(actor) else None
        word = word if word in ARGUMENTS else "unknown"
        return Malformed(customer_id, found["id"], word, request_id, named, wrong.code, wrong.sentence)


def _command(found: dict[str, Any], word: str, customer_id: str, request_id: str) -> Command:
    if found.get("customer_id", customer_id) != customer_id:
        raise _Wrong("other_customer", "customer_id is not the customer of the key or token that it came by")
    if word not in ARGUMENTS:
        raise _Wrong("unknown_command", f"there is no such command; there are {', '.join(ARGUMENTS)}")
    if found.get("schema") != SCHEMA:
        raise _Wrong("malformed", f"schema is not {SCHEMA}")
    if found.get("command") != word:
        raise _Wrong("malformed", "command is not the first word of the key that it came by")
    given = found.get("service_request_id")
    if word in FOR_A_CUSTOMER:
        if given is not None:
            raise _Wrong("malformed", f"service_request_id must be absent or null: {word} is for a whole customer")
    elif not request_id:
        raise _Wrong("malformed", "service_request_id is not 1 to 64 letters, digits, _ or -")
    actor = found.get("actor")
    if actor is not None and not (isinstance(actor, str) and _ACTOR.fullmatch(actor)):
        raise _Wrong("malformed", "actor is not 1 to 128 printable characters")
    if found.get("issued_at") is not None:
        _ = _moment(found["issued_at"], "issued_at")
    not_after = found.get("not_after")
    revision = found.get("expected_revision")
    if revision is not None and not _is_count(revision):
        raise _Wrong("malformed", "expected_revision is not a whole number")
    args = found.get("args")
    if args is not None and not isinstance(args, dict):
        raise _Wrong("malformed", "args is not an object")
    return Command(
        customer_id,
        found["id"],
        word,
        request_id,
        ARGUMENTS[word](args or {}),
        actor,
        None if not_after is None else _moment(not_after, "not_after"),
        revision,
    )


def _answer(args: dict[str, Any]) -> dict[str, Any]:
    _only(args, "notes")
    return {"notes": _text(args, "notes", _LONGEST_NOTES)}


def _proposal(args: dict[str, Any]) -> dict[str, Any]:
    _only(args, "at", "notes")
    return {"at": rfc3339(_required_moment(args, "at")), "notes": _text(args, "notes", _LONGEST_NOTES)}


def _change(args: dict[str, Any]) -> dict[str, Any]:
    _only(args, "at", "reason")
    reason = _text(args, "reason", _LONGEST_NOTES)
    if reason is None:
        raise _Wrong("malformed", "args.reason is missing")
    return {"at": rfc3339(_required_moment(args, "at")), "reason": reason}


def _state(args: dict[str, Any]) -> dict[str, Any]:
    _only(args, "name", "timestamp")
    if args.get("name") not in STATES:
        raise _Wrong("malformed", f"args.name is not one of {', '.join(STATES)}")
    return {"name": args["name"], "at": _required_moment(args, "timestamp")}


def _points(args: dict[str, Any]) -> dict[str, Any]:
    _only(args, "points")
    points = args.get("points")
    if not isinstance(points, list) or not 1 <= len(points) <= MOST_POINTS:
        raise _Wrong("malformed", f"args.points is not a list of 1 to {MOST_POINTS}")
    return {"points": [_point(point, f"args.points[{number}]") for number, point in enumerate(points)]}


def _point(point: object, place: str) -> dict[str, float]:
    if not isinstance(point, dict):
        raise _Wrong("malformed", f"{place} is not an object")
    _only(point, "lat", "lng", "alt", "speed", "timestamp", place=place)
    for name in ("lat", "lng", "timestamp"):
        if not _is_number(point.get(name)):
            raise _Wrong("malformed", f"{place}.{name} is not a number")
    for name in ("alt", "speed"):
        if point.get(name) is not None and not _is_number(point[name]):
            raise _Wrong("malformed", f"{place}.{name} is not a number")
    if not (-90 <= point["lat"] <= 90 and -180 <= point["lng"] <= 180 and 0 <= point["timestamp"] < 1e11):
        raise _Wrong("malformed", f"{place} is not on earth, or its timestamp is not in Unix seconds")
    altitude = point.get("alt")  # VectorCare wants one
    kept = {"lat": point["lat"], "lng": point["lng"], "alt": 0 if altitude is None else altitude}
    speed = {} if point.get("speed") is None else {"speed": point["speed"]}
    return kept | speed | {"timestamp": float(point["timestamp"])}


def _trip(args: dict[str, Any]) -> dict[str, Any]:
    _only(args, "trip_id")
    if not _is_label(args.get("trip_id")):
        raise _Wrong("malformed", "args.trip_id is not 1 to 128 printable ASCII characters")
    return {"trip_id": args["trip_id"]}


def _capacity(args: dict[str, Any]) -> dict[str, Any]:
    _only(args, "level", "units", "until")
    if not _is_label(args.get("level")):
        raise _Wrong("malformed", "args.level is not 1 to 128 printable ASCII characters")
    if not _is_count(args.get("units")):
        raise _Wrong("malformed", "args.units is not a whole number")
    until = None if args.get("until") is None else _moment(args["until"], "args.until")
    return {"level": args["level"], "units": args["units"], "until": until}


def _nothing(args: dict[str, Any]) -> dict[str, Any]:
    _only(args)
    return {}


ARGUMENTS: Final[Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "accept": _answer,
    "decline": _answer,
    "propose": _proposal,
    "request_change": _change,
    "state": _state,
    "locations": _points,
    "acknowledge": _trip,
    "capacity": _capacity,
    "pause": _nothing,
    "resume": _nothing,
}
"""Every command, and what makes its arguments of those that came."""


def _only(args: Mapping[str, Any], *names: str, place: str = "args") -> None:
    if unknown := args.keys() - set(names):
        raise _Wrong("malformed", f"{place} has {len(unknown)} fields more than {', '.join(names) or 'none'}")


def _text(args: Mapping[str, Any], name: str, longest: int) -> str | None:
    value = args.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        raise _Wrong("malformed", f"args.{name} is not a text of 1 to {longest} characters")
    return value


def _required_moment(args: Mapping[str, Any], name: str) -> float:
    if args.get(name) is None:
        raise _Wrong("malformed", f"args.{name} is missing")
    return _moment(args[name], f"args.{name}")


def _moment(value: object, place: str) -> float:
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC).timestamp()
        except (ValueError, OverflowError):
            pass
    raise _Wrong("malformed", f"{place} is not an RFC 3339 time")


def _is_label(value: object) -> bool:
    return isinstance(value, str) and _LABEL.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
