"""What the store would know, as somebody trying a policy says it."""

import dataclasses
from pathlib import Path
from typing import Any, Final

import orjson
import typer

from worker.facts import Facts, Load, read_facts

_NAMES: Final = (
    *(f"load.{field.name}" for field in dataclasses.fields(Load)),
    *(field.name for field in dataclasses.fields(Facts) if field.name != "load"),
)


def changed(facts: Facts, file: Path | None, given: list[str]) -> Facts:
    """The facts, with those of a file and then single ones (`load.open=5`) put over them."""
    values = _flat(dataclasses.asdict(facts))
    if file is not None:
        values |= _flat(_object(file))
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--fact is NAME=VALUE; the names are {', '.join(_NAMES)}")
        values[name] = _value(value)
    unknown = sorted(values.keys() - set(_NAMES))
    if unknown:
        raise typer.BadParameter(f"there is no fact {', '.join(unknown)}; there are {', '.join(_NAMES)}")
    for name, value in values.items():
        if not _fits(name, value):
            raise typer.BadParameter(f"the fact {name} is {'a state' if name == 'other_leg' else 'a number'}")
    load = {name.removeprefix("load."): value for name, value in values.items() if name.startswith("load.")}
    return read_facts({**values, "load": load})


def _fits(name: str, value: object) -> bool:
    if value is None:
        return name not in {"load.open", "load.today", "load.last_hour", "times_seen", "proposals"}
    if name == "other_leg":
        return isinstance(value, str)
    if name == "first_offered_at":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool)


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    load = facts.get("load")
    inner = {f"load.{name}": value for name, value in load.items()} if isinstance(load, dict) else {}
    return {name: value for name, value in facts.items() if name != "load"} | inner


def _object(file: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(file.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{file} can't be read: {error.strerror}") from None
    except orjson.JSONDecodeError:
        raise typer.BadParameter(f"{file} is not JSON") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{file} is not a JSON object")
    return found


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
