"""What to do with an offer: a customer's ordered rules, the first that matches decides.

Pure: a policy, a request and `now` give a decision. A rule that reads what this request does not say never decides
(`worker.expression`), and an expression that fails never accepts and never declines.
"""

import copy
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path as File
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import cel
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, field_validator

from shared.event import Event
from worker.expression import GUARDS, LONGEST_LOOP, BadExpression, Expression, Path, parse

LONGEST_NOTES: Final = 450  # characters, VectorCare's limit for response_notes
VARIABLES: Final = ("request", "event", "lead_minutes", "local", "lists")
LOCATION: Final = ("address", "city", "country", "lat", "lng", "name", "state", "street", "zip")
LOCATIONS: Final = ("pickup_location", "destination_location")


class Verdict(StrEnum):
    """What a policy does with an offer."""

    ACCEPT = "accept"
    DECLINE = "decline"
    PROPOSE = "propose"
    HOLD = "hold"
    IGNORE = "ignore"


class Reason(StrEnum):
    """Why it does so: the part of the contract's reason codes that a policy can give."""

    RULE = "rule"
    DEFAULT = "default"
    UNKNOWN_FIELD = "unknown_field"
    POLICY_ERROR = "policy_error"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy said. `reason` is a sentence without values; `rule` is None where none decided.

    `propose_at` is the time that PROPOSE proposes, UTC. A HOLD that nobody has answered within `answer_within` seconds
    becomes `then_after`. `tags` travel with the outcome.
    """

    verdict: Verdict
    reason_code: Reason
    reason: str
    rule: str | None = None
    notes: str | None = None
    propose_at: datetime | None = None
    answer_within: float | None = None
    then_after: Verdict | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to run."""

    name: str
    when: Expression
    then: Verdict
    notes: str | None
    skips_unknown: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """A customer's rules, ready to run."""

    timezone: ZoneInfo
    default: Verdict
    lists: Mapping[str, list[Any]]
    rules: tuple[Rule, ...]

    asks: frozenset[str] = frozenset()
    trip_minutes: float = 90.0
    other_leg_seconds: float = 0.0

    def level(self, data: Mapping[str, Any] | None) -> str | None:
        """The level."""
        return None

    def decide(self, event: Event, now: float, facts: object = None) -> Decision:
        """What to do with the offer in `event` at `now` (Unix seconds)."""
        values = self._values(event, now)
        try:
            context = cel.Context(values, dict(GUARDS))
        except Exception as error:  # noqa: BLE001 - the library raises many kinds, and each of them means: held
            return _held(Reason.POLICY_ERROR, f"the request does not fit into CEL ({type(error).__name__})")
        for rule in self.rules:
            unknown = sorted(_unknown(rule.when, values))
            if unknown and rule.skips_unknown:
                continue
            if unknown:
                reads = ".".join(unknown[0])
                return _held(Reason.UNKNOWN_FIELD, f"rule {rule.name!r} reads {reads}, which is not known", rule.name)
            if rule.when.loops and any(_is_too_long(_value(values, path)) for path in rule.when.reads):
                reason = f"rule {rule.name!r} loops over more than {LONGEST_LOOP} elements"
                return _held(Reason.POLICY_ERROR, reason, rule.name)
            try:
                matches = rule.when.evaluate(context)
            except BadExpression as error:
                return _held(Reason.POLICY_ERROR, f"rule {rule.name!r}: {error}", rule.name)
            if matches:
                return Decision(rule.then, Reason.RULE, f"rule {rule.name!r}", rule.name, rule.notes)
        return Decision(self.default, Reason.DEFAULT, "no rule matched")

    def _values(self, event: Event, now: float) -> dict[str, Any]:
        """The variables, with every field that a rule names present: null where the request does not say."""
        pickup = pickup_time(event.data)
        local = _local(pickup, self.timezone)
        reads = {path for rule in self.rules for path in rule.when.reads}
        return {
            "request": _request(event.data or {}, {path[1:] for path in reads if path[0] == "request"}),
            "event": {
                "event_id": event.event_id,
                "event_timestamp": event.event_timestamp,
                "service_request_id": event.service_request_id,
                "request_status": event.request_status,
                "action": event.action,
            },
            "lead_minutes": (pickup.timestamp() - now) / 60 if pickup else None,
            "local": {
                "hour": local.hour if local else None,
                "minute": local.minute if local else None,
                "weekday": local.isoweekday() if local else None,
                "date": local.date().isoformat() if local else None,
            },
            "lists": dict(self.lists),
        }


NO_POLICY: Final = Policy(ZoneInfo("UTC"), Verdict.HOLD, {}, ())


def pickup_time(data: Mapping[str, Any] | None) -> datetime | None:
    """`pickup_date_time` of a request; None where it is missing or is not a time."""
    text = (data or {}).get("pickup_date_time")
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        return None


class PolicyError(ValueError):
    """A policy file that can't be used: (place, what is wrong) for each problem."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{place}: {message}" for place, message in problems))
        self.problems = problems


def _expression(source: object) -> Expression:
    if not isinstance(source, str):
        raise ValueError("must be text, a CEL expression")  # noqa: TRY004 - pydantic collects ValueErrors
    return parse(source, VARIABLES, ("request", "event"))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Rule(_Part):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    when: Annotated[Expression, PlainValidator(_expression)]
    then: Literal["accept", "decline", "hold"]
    notes: Annotated[str, Field(max_length=LONGEST_NOTES)] | None = None
    unknown: Literal["hold", "skip"] = "hold"


class _File(_Part):
    timezone: str = "UTC"
    default: Literal["accept", "decline", "hold"] = "hold"
    lists: dict[str, list[str | int | float | bool]] = {}
    rules: tuple[_Rule, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is not a time zone's name, such as America/Los_Angeles") from None
        return value


def load(file: File) -> Policy:
    """Read a policy file; PolicyError lists everything that is wrong with it."""
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise PolicyError([("file", f"can't be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise PolicyError([("file", "is not UTF-8 text")]) from None
    except ValueError:
        raise PolicyError([("file", "has a name that no file can have")]) from None
    return read(text)


def read(text: str) -> Policy:
    """Read a policy from its TOML text; PolicyError lists everything that is wrong with it."""
    try:
        parsed = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PolicyError([("file", f"is not TOML: {error}")]) from None
    except RecursionError:
        raise PolicyError([("file", "is nested too deeply")]) from None
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise PolicyError([_problem(detail["loc"], detail["msg"]) for detail in details]) from None
    problems = []
    rules = []
    seen: set[str] = set()
    for number, rule in enumerate(parsed.rules):
        if rule.name in seen:
            problems.append((f"rules[{number}].name", f"there is another rule named {rule.name!r}"))
        seen.add(rule.name)
        missing = {path[1] for path in rule.when.reads if path[0] == "lists" and len(path) > 1} - set(parsed.lists)
        problems += [(f"rules[{number}].when", f"there is no list {name!r} under [lists]") for name in sorted(missing)]
        rules.append(Rule(rule.name, rule.when, Verdict(rule.then), rule.notes, rule.unknown == "skip"))
    if problems:
        raise PolicyError(problems)
    return Policy(ZoneInfo(parsed.timezone), Verdict(parsed.default), parsed.lists, tuple(rules))


def _local(pickup: datetime | None, timezone: ZoneInfo) -> datetime | None:
    try:
        return pickup.astimezone(timezone) if pickup else None
    except (OverflowError, ValueError):  # in the year 1 or 9999
        return None


def _problem(location: tuple[int | str, ...], message: str) -> tuple[str, str]:
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")
    return place, message.removeprefix("Value error, ")


def _unknown(when: Expression, values: Mapping[str, Any]) -> Iterator[Path]:
    """The fields that a rule reads and that are not known. `default` hands an object or a list on, and nobody asked
    about what is inside."""
    for path in when.mentions:
        if _has_null(_value(values, path)):
            yield path
    for path in when.defaults:
        value = _value(values, path)
        if value is not None and _has_null(value):
            yield path


def _held(code: Reason, reason: str, rule: str | None = None) -> Decision:
    return Decision(Verdict.HOLD, code, reason, rule)


def _request(data: Mapping[str, Any], paths: set[Path]) -> dict[str, Any]:
    """The part of the request that the rules read, completed: what it does not say is null, a missing place empty."""
    request: dict[str, Any] = {}
    for path in sorted(paths):
        if path[0] not in request:
            request[path[0]] = _field(path[0], data.get(path[0]), is_place=len(path) > 1)
        _complete(request[path[0]], path[1:])
    return request


def _field(name: str, value: Any, *, is_place: bool) -> Any:
    if name in LOCATIONS and (value is None or isinstance(value, dict)):
        return dict.fromkeys(LOCATION) | copy.deepcopy(value or {})
    return {} if is_place and value is None else copy.deepcopy(value)


def _complete(node: Any, path: Path) -> None:
    """Put a null where a rule reads a field that is not there."""
    if path and isinstance(node, dict):
        if node.get(path[0]) is None:
            node[path[0]] = {} if len(path) > 1 else None
        _complete(node[path[0]], path[1:])


def _value(values: Mapping[str, Any], path: Path) -> Any:
    node: Any = values
    for step in path:
        if not isinstance(node, Mapping):
            return None
        node = node.get(step)
    return node


def _is_too_long(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) > LONGEST_LOOP or any(_is_too_long(inner) for inner in value.values())
    return isinstance(value, list) and (len(value) > LONGEST_LOOP or any(_is_too_long(inner) for inner in value))


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_null(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_has_null(inner) for inner in value)
    return value is None
