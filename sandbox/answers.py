"""The API's answers as values: the documented error bodies, and what of a request body is refused and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from sandbox.life import ENDS, STATES

NOTES_LENGTH = 450
LOCATIONS = 200
TIMESTAMP_AGE = timedelta(days=7)

MESSAGES: Mapping[str, str] = {
    "members:not_authenticated": "Authentication credentials were not provided.",
    "members:authentication_failed": "Authentication failed.",
    "members:permission_denied": "You do not have permission to perform this action.",
    "common:required": "This field is required.",
    "common:null": "This field may not be null.",
    "common:blank": "This field may not be blank.",
    "common:max_length": f"Ensure this field has no more than {NOTES_LENGTH} characters.",
    "common:number_invalid": "A valid number is required.",
    "common:datetime_invalid_format": "Datetime format should be YYYY-MM-DDThh:mm[:ss[.uuuuuu]]Z.",
    "common:list_invalid": "Value should be a list.",
    "api:bad_request": "Bad request.",
    "api:not_found": "Not found.",
    "api:too_many_requests": "Request was throttled.",
    "api:method_not_allowed": "Method not allowed.",
    "api:unknown_error": "Unknown error.",
    "public_api:public_api_not_enabled": ("The Open API is not enabled for the service type of this request."),
    "responder:too_many_locations": f"Too many locations. (Max {LOCATIONS} per request)",
}


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """Status and JSON value of an answer; `code` is its error code, None when all is well."""

    status: int
    value: Any
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def failure(status: int, code: str) -> ApiAnswer:
    """An error that belongs to no field: `{"message": …, "code": …}`."""
    return ApiAnswer(status, {"message": MESSAGES[code], "code": code}, code)


UNAUTHENTICATED = failure(401, "members:not_authenticated")
AUTHENTICATION_FAILED = failure(401, "members:authentication_failed")
FORBIDDEN = failure(403, "members:permission_denied")
NOT_ENABLED = failure(403, "public_api:public_api_not_enabled")
NOT_FOUND = failure(404, "api:not_found")
METHOD_NOT_ALLOWED = failure(405, "api:method_not_allowed")
THROTTLED = failure(429, "api:too_many_requests")
BAD_REQUEST = failure(400, "api:bad_request")
UNKNOWN_ERROR = failure(500, "api:unknown_error")


class BodyRefused(Exception):
    """A body that the API answers with 400."""

    def __init__(self, answer: ApiAnswer) -> None:
        super().__init__(answer.code)
        self.answer = answer


Problems = dict[str, list[dict[str, str]]]


def problem(code: str, message: str | None = None) -> list[dict[str, str]]:
    """The errors of one field."""
    return [{"message": message or MESSAGES[code], "code": code}]


def refuse(problems: Problems) -> None:
    """Raises BodyRefused if there are problems."""
    if problems:
        first = next(iter(problems.values()))[0]["code"]
        raise BodyRefused(ApiAnswer(400, problems, first))


def read(body: bytes, *, empty: Any = None) -> Any:
    """The JSON value of a body; `empty` for no body where the call allows that."""
    if not body.strip() and empty is not None:
        return empty
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BodyRefused(BAD_REQUEST) from None


def read_object(body: bytes, *, empty: Any = None) -> dict[str, Any]:
    """Like `read`, for a body that must be an object."""
    value = read(body, empty=empty)
    if not isinstance(value, dict):
        raise BodyRefused(BAD_REQUEST)
    return value


def _text(value: Mapping[str, Any], name: str, *, required: bool) -> list[dict[str, str]]:
    if name not in value:
        return problem("common:required") if required else []
    text = value[name]
    if text is None:
        return problem("common:null")
    if not isinstance(text, str):
        return problem("api:bad_request")
    if required and not text.strip():
        return problem("common:blank")
    return problem("common:max_length") if len(text) > NOTES_LENGTH else []


def _moment(value: Mapping[str, Any], name: str) -> tuple[datetime | None, list[dict[str, str]]]:
    if name not in value:
        return None, problem("common:required")
    if value[name] is None:
        return None, problem("common:null")
    text = value[name]
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) and "T" in text else None
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() != timedelta(0):
        return None, problem("common:datetime_invalid_format")
    return moment, []


def _checked(**fields: list[dict[str, str]]) -> None:
    refuse({name: problems for name, problems in fields.items() if problems})


def notes(body: bytes) -> dict[str, Any]:
    """The body of accept and decline. The notes are optional, and so is the body."""
    value = read_object(body, empty={})
    _checked(response_notes=_text(value, "response_notes", required=False))
    return {"response_notes": value["response_notes"]} if "response_notes" in value else {}


def proposed_time(body: bytes) -> str:
    """The body of best-time: the proposed time as it was sent."""
    value = read_object(body)
    _, problems = _moment(value, "proposed_agreed_dt")
    _checked(proposed_agreed_dt=problems)
    return str(value["proposed_agreed_dt"])


def asked_change(body: bytes) -> str:
    """The body of change-request: the time asked for, as it was sent."""
    value = read_object(body)
    _, problems = _moment(value, "agreed_dt")
    _checked(agreed_dt=problems, change_reason=_text(value, "change_reason", required=True))
    return str(value["agreed_dt"])


def state(body: bytes, now: datetime) -> dict[str, Any]:
    """The body of state: a documented name, a timestamp not in the future and within 7 days."""
    value = read_object(body)
    name = value.get("name")
    names = _text(value, "name", required=True)
    if not names and name not in (*STATES, *ENDS):
        names = problem("common:choice_invalid", f'"{name}" is not a valid choice.')
    moment, times = _moment(value, "timestamp")
    if moment and not now - TIMESTAMP_AGE <= moment.astimezone(UTC) <= now:
        times = problem("api:bad_request", "Timestamp must be within 7 days of current time and not in the future.")
    _checked(name=names, timestamp=times)
    return {"name": name, "timestamp": value["timestamp"]}


def out_of_order(name: str) -> ApiAnswer:
    """What a state that goes back in the order is answered; the guide leaves the code open."""
    problems = problem("common:choice_invalid", f'"{name}" is not a valid choice.')
    return ApiAnswer(400, {"name": problems}, "common:choice_invalid")


def _number(value: Mapping[str, Any], name: str, *, required: bool) -> list[dict[str, str]]:
    if name not in value:
        return problem("common:required") if required else []
    number = value[name]
    if number is None:
        return problem("common:null") if required else []
    good = isinstance(number, int | float) and not isinstance(number, bool)
    return [] if good else problem("common:number_invalid")


def _location(value: Any) -> Problems:
    if not isinstance(value, dict):
        return {"non_field_errors": problem("api:bad_request")}
    found = {name: _number(value, name, required=True) for name in ("timestamp", "lat", "lng", "alt")}
    found["speed"] = _number(value, "speed", required=False)
    return {name: problems for name, problems in found.items() if problems}


def locations(body: bytes) -> list[dict[str, Any]]:
    """The body of locations: a list of at most 200. A bad one is answered with a list of problems."""
    value = read(body)
    if not isinstance(value, list):
        raise BodyRefused(failure(400, "common:list_invalid"))
    if len(value) > LOCATIONS:
        raise BodyRefused(failure(400, "responder:too_many_locations"))
    found = [_location(each) for each in value]
    if any(found):
        first = next(next(iter(problems.values()))[0]["code"] for problems in found if problems)
        raise BodyRefused(ApiAnswer(400, found, first))
    return value
