"""A policy file (TOML), read into a policy; every problem with its place."""

import tomllib
from pathlib import Path as File
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from worker.expression import Expression, parse
from worker.policy.capacity import Units
from worker.policy.decision import Verdict
from worker.policy.rules import Deadline, Policy, Proposal, Rule
from worker.policy.trip import ROAD, Levels, Travel
from worker.policy.variables import FIELDS, VARIABLES, WHOLE, Tables
from worker.policy.window import DAY, Window, parse_days, parse_minute

LONGEST_NOTES: Final = 450  # characters, VectorCare's limit for response_notes
_WEEK: Final = 7 * DAY  # minutes
_LONGEST_WAIT: Final = 600.0  # seconds for the other leg: longer, and somebody else has the trip


class PolicyError(ValueError):
    """A policy file that can't be used: (place, what is wrong) for each problem."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{place}: {message}" for place, message in problems))
        self.problems = problems


def _expression(source: object) -> Expression:
    if not isinstance(source, str):
        raise ValueError("must be text, a CEL expression")  # noqa: TRY004 - pydantic collects ValueErrors
    return parse(source, VARIABLES, WHOLE)


def _days(source: object) -> frozenset[int]:
    if not isinstance(source, str):
        raise ValueError("is not days such as mon-fri or sat,sun")  # noqa: TRY004 - pydantic collects ValueErrors
    return parse_days(source)


def _minute(source: object) -> object:
    if not isinstance(source, str):
        raise ValueError("is not a time of day such as 06:30")  # noqa: TRY004 - pydantic collects ValueErrors
    return parse_minute(source)


_Word = Annotated[str, Field(min_length=1, max_length=64)]
_Minutes = Annotated[float, Field(strict=True, ge=-_WEEK, le=_WEEK, allow_inf_nan=False)]
_Wait = Annotated[float, Field(strict=True, gt=0, le=_WEEK, allow_inf_nan=False)]
_Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_After = Literal["accept", "decline", "ignore"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Answer(_Part):
    """What rules and the default say of a hold's deadline."""

    answer_within_minutes: _Wait | None = None
    then_after: _After | None = None

    def deadline(self) -> Deadline | None:
        if self.answer_within_minutes is None or self.then_after is None:
            return None
        return Deadline(self.answer_within_minutes * 60, Verdict(self.then_after))

    def check_deadline(self, verdict: str) -> None:
        if (self.answer_within_minutes is None) != (self.then_after is None):
            raise ValueError("answer_within_minutes and then_after go together")
        if self.then_after is not None and verdict != "hold":
            raise ValueError("answer_within_minutes and then_after are for a hold")


class _Rule(_Answer):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    when: Annotated[Expression, PlainValidator(_expression)]
    then: Literal["accept", "decline", "propose", "hold", "ignore"]
    notes: Annotated[str, Field(max_length=LONGEST_NOTES)] | None = None
    unknown: Literal["hold", "skip"] = "hold"
    tags: Annotated[tuple[_Word, ...], Field(max_length=20)] = ()
    propose_minutes_after_pickup: _Minutes | None = None
    propose_minutes_from_now: _Wait | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check_deadline(self.then)
        given = [self.propose_minutes_after_pickup, self.propose_minutes_from_now]
        number = sum(value is not None for value in given)
        if self.then == "propose" and number != 1:
            raise ValueError("needs propose_minutes_after_pickup or propose_minutes_from_now, one of them")
        if self.then != "propose" and number:
            raise ValueError("has propose_minutes_after_pickup or propose_minutes_from_now, but does not propose")
        return self

    def proposal(self) -> Proposal | None:
        if self.propose_minutes_after_pickup is not None:
            return Proposal(self.propose_minutes_after_pickup)
        if self.propose_minutes_from_now is not None:
            return Proposal(self.propose_minutes_from_now, from_now=True)
        return None


class _Levels(_Part):
    fields_: Annotated[tuple[_Word, ...], Field(min_length=1, alias="fields")]
    map: dict[str, _Word] | None = None


class _Window(_Part):
    days: Annotated[frozenset[int], BeforeValidator(_days)] = frozenset(range(1, 8))
    begins: Annotated[int, BeforeValidator(_minute), Field(alias="from")] = 0
    ends: Annotated[int, BeforeValidator(_minute), Field(alias="to")] = DAY

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.begins in (self.ends, DAY):
            raise ValueError("from and to leave no time between them; a whole day is 00:00 to 24:00")
        return self

    def window(self) -> Window:
        return Window(self.days, self.begins, self.ends)


class _Capacity(_Window):
    level: _Word
    units: Annotated[int, Field(strict=True, ge=0)]


class _Speed(_Window):
    mph: _Positive


class _Travel(_Part):
    miles_factor: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] = ROAD
    mph: _Positive | None = None
    stop_minutes: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0
    speeds: tuple[_Speed, ...] = ()
    miles_field: _Word | None = None
    minutes_field: _Word | None = None

    def travel(self) -> Travel:
        speeds = tuple((speed.window(), speed.mph) for speed in self.speeds)
        return Travel(self.miles_factor, self.mph, self.stop_minutes, speeds, self.miles_field, self.minutes_field)


class _RoundTrips(_Part):
    wait_seconds: Annotated[float, Field(strict=True, ge=0, le=_LONGEST_WAIT, allow_inf_nan=False)] = 0


class _File(_Answer):
    timezone: str = "UTC"
    default: Literal["accept", "decline", "hold", "ignore"] = "hold"
    trip_minutes: Annotated[float, Field(strict=True, gt=0, le=DAY, allow_inf_nan=False)] = 90
    lists: dict[str, list[str | int | float | bool]] = {}
    levels: _Levels | None = None
    capacity: tuple[_Capacity, ...] = ()
    travel: _Travel = _Travel()
    round_trips: _RoundTrips = _RoundTrips()
    rules: tuple[_Rule, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("is not a time zone's name, such as America/Los_Angeles") from None
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check_deadline(self.default)
        return self


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
    problems = [*_capacity_problems(parsed), *_rule_problems(parsed)]
    if problems:
        raise PolicyError(problems)
    return Policy(
        _tables(parsed),
        Verdict(parsed.default),
        tuple(_rule(rule) for rule in parsed.rules),
        parsed.deadline(),
        parsed.trip_minutes,
        parsed.round_trips.wait_seconds,
    )


def _tables(parsed: _File) -> Tables:
    return Tables(
        ZoneInfo(parsed.timezone),
        parsed.lists,
        Levels(parsed.levels.fields_, parsed.levels.map) if parsed.levels else Levels(),
        tuple(Units(part.level, part.units, part.window()) for part in parsed.capacity),
        parsed.travel.travel(),
    )


def _rule(rule: _Rule) -> Rule:
    return Rule(
        rule.name,
        rule.when,
        Verdict(rule.then),
        rule.notes,
        rule.unknown == "skip",
        rule.tags,
        rule.deadline(),
        rule.proposal(),
    )


def _rule_problems(parsed: _File) -> list[tuple[str, str]]:
    problems = []
    seen: set[str] = set()
    for number, rule in enumerate(parsed.rules):
        place = f"rules[{number}]"
        if rule.name in seen:
            problems.append((f"{place}.name", f"there is another rule named {rule.name!r}"))
        seen.add(rule.name)
        for path in sorted(path for path in rule.when.reads if len(path) > 1):
            if path[0] == "lists" and path[1] not in parsed.lists:
                problems.append((f"{place}.when", f"there is no list {path[1]!r} under [lists]"))
            elif path[0] in FIELDS and path[1] not in FIELDS[path[0]]:
                there_are = ", ".join(FIELDS[path[0]])
                problems.append((f"{place}.when", f"there is no {path[0]}.{path[1]}; there are {there_are}"))
    return problems


def _capacity_problems(parsed: _File) -> list[tuple[str, str]]:
    if not parsed.capacity:
        return []
    if parsed.levels is None:
        return [("capacity", "needs [levels], which says where a request's level of service is found")]
    if not parsed.levels.map:
        return []
    known = set(parsed.levels.map.values())
    return [
        (f"capacity[{number}].level", f"no word of levels.map means {part.level!r}")
        for number, part in enumerate(parsed.capacity)
        if part.level not in known
    ]


def _problem(location: tuple[int | str, ...], message: str) -> tuple[str, str]:
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")
    return place or "file", message.removeprefix("Value error, ")
