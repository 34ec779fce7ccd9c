"""Reads the configuration: a TOML file under variables of the environment, checked as a whole before anything connects.

A problem in one customer's part disables that customer (`Settings.customer_problems`); every other problem raises
ConfigurationError with all of them. Values never appear in a problem: they may be secrets.
"""

import difflib
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.errors import ConfigurationError, Problem
from shared.settings import CustomerSettings, Part, Settings

VARIABLE_PREFIX: Final = "RECEIVER_"
_NOT_SETTINGS: Final = re.compile(r"RECEIVER_CONFIG|RECEIVER_TEST_\w+")
_INNER: Final = {"declared", "customer_problems", "warnings", "folder"}
_FILE_KEYS: Final = (
    *("url", "api_url", "token_url", "client_id", "client_secret", "webhook_token"),
    *("secret", "token", "webhook_url", "smtp_password"),
)
_Model = TypeVar("_Model", bound=Part)


def load(file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the file (if any) and the RECEIVER_ variables over it; ConfigurationError lists every problem at once."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    tree = _read_file(file) if file else {}
    folder = file.parent if file else Path()
    variables = _overlay(tree, environ, problems)
    customers = tree.pop("customers", {})
    if not isinstance(customers, dict):
        problems.append(Problem("customers", "must be tables, [customers.ID]"))
        customers = {}
    for place, part in _parts_with_files(tree):
        _read_files(place, part, folder, problems, warnings)
    unknown = set(tree) - {"ingress", "worker", "broker", "store", "subscriptions", "client", "notify", "traces"}
    problems += [_misspelt(key, set(Settings.model_fields) - _INNER, variables.get(key)) for key in sorted(unknown)]
    problems += [
        Problem("subscriptions", f"there are two named {name}") for name in _doubled(tree.get("subscriptions"))
    ]
    settings = _validated(Settings, {key: tree[key] for key in tree if key not in unknown}, "", variables, problems)
    good, customer_problems = _customers(customers, folder, variables, warnings)
    if problems or settings is None:
        raise ConfigurationError([*problems, *customer_problems])
    for number, key in enumerate(settings.store.encryption_key_files):
        warnings += _readable_by_others(f"store.encryption_key_files[{number}]", folder / key)
    if file and _holds_secrets([*customers.values(), *_tables(tree.get("subscriptions")), tree.get("notify")]):
        warnings += _readable_by_others(str(file), file)
    if settings.ingress.spool.path is not None and settings.broker_file is not None:
        warnings.append(Problem("ingress.spool", "is not used: the embedded broker is a file of this machine already"))
    return settings.model_copy(
        update={
            "customers": good,
            "declared": frozenset(customers),
            "customer_problems": tuple(customer_problems),
            "warnings": tuple(warnings),
            "folder": folder,
        }
    )


def _doubled(subscriptions: object) -> list[str]:
    tables = subscriptions if isinstance(subscriptions, list) else []
    names = [table.get("name") for table in tables if isinstance(table, dict)]
    return sorted({name for name in names if isinstance(name, str) and names.count(name) > 1})


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigurationError([Problem(str(file), "there is no such file")]) from None
    except OSError as error:
        raise ConfigurationError([Problem(str(file), f"can't be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigurationError([Problem(str(file), "is not UTF-8 text")]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([Problem(str(file), f"is not TOML: {error}")]) from None
    except RecursionError:
        raise ConfigurationError([Problem(str(file), "is nested too deeply")]) from None


def _overlay(tree: dict[str, Any], environ: Mapping[str, str], problems: list[Problem]) -> dict[str, str]:
    """Put the variables into the tree; which variable set which path."""
    variables = {}
    for name, value in sorted(environ.items()):
        if not name.startswith(VARIABLE_PREFIX) or _NOT_SETTINGS.fullmatch(name):
            continue
        path = name.removeprefix(VARIABLE_PREFIX).lower().split("__")
        node: Any = tree
        for step in path[:-1]:
            node = node.setdefault(step, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict):
            problems.append(Problem(name, "there is no such setting: a part of its path is a setting itself"))
            continue
        node[path[-1]] = _list_or_text(value)
        for depth in range(1, len(path) + 1):
            variables[".".join(path[:depth])] = name
    return variables


def _list_or_text(value: str) -> Any:
    """A JSON list where the value is one, else the text: a secret may begin with a bracket."""
    try:
        return orjson.loads(value) if value.startswith("[") else value
    except orjson.JSONDecodeError:
        return value


def _parts_with_files(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for place in ("broker", "store", "notify"):
        part = tree.get(place)
        if isinstance(part, dict):
            yield place, part
    subscriptions = tree.get("subscriptions")
    for number, part in enumerate(subscriptions if isinstance(subscriptions, list) else ()):
        if isinstance(part, dict):
            yield f"subscriptions.{number}", part


def _read_files(
    place: str, part: dict[str, Any], folder: Path, problems: list[Problem], warnings: list[Problem]
) -> None:
    """Replace each `x_file` by `x`, the file's text without its last newline."""
    for key in _FILE_KEYS:
        name = part.pop(f"{key}_file", None)
        if name is None:
            continue
        at = f"{place}.{key}_file"
        if key in part:
            problems.append(Problem(at, f"{key} is given too; keep one of them"))
        elif not isinstance(name, str):
            problems.append(Problem(at, "must be a file's name"))
        else:
            try:
                part[key] = (folder / name).read_text("utf-8").strip()
                warnings += _readable_by_others(at, folder / name)
            except (OSError, ValueError) as error:
                problems.append(Problem(at, f"can't be read: {_why(error)}"))


def _tables(found: object) -> list[Any]:
    return found if isinstance(found, list) else []


def _holds_secrets(parts: list[Any]) -> bool:
    """Whether a secret stands in the file itself."""
    secrets = ("client_secret", "webhook_token", "secret", "token", "smtp_password")
    return any(key in table for table in parts if isinstance(table, dict) for key in secrets)


def _readable_by_others(place: str, file: Path) -> list[Problem]:
    if file.exists() and file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return [Problem(place, f"{file.name} can be read by every user of this machine; chmod 600 it")]
    return []


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "that is no file's name"


def _customers(
    tables: dict[str, Any], folder: Path, variables: dict[str, str], warnings: list[Problem]
) -> tuple[dict[str, CustomerSettings], list[Problem]]:
    good: dict[str, CustomerSettings] = {}
    problems: list[Problem] = []
    for customer_id, table in tables.items():
        mine: list[Problem] = []
        place = f"customers.{customer_id}"
        if not _is_customer_id(customer_id):
            mine.append(Problem(place, "an id is 1 to 64 of a-z, 0-9, _ and -, without a double underscore"))
        if not isinstance(table, dict):
            mine.append(Problem(place, "must be a table"))
        else:
            part = dict(table)
            _read_files(place, part, folder, mine, warnings)
            customer = _validated(CustomerSettings, part, place, variables, mine)
            if customer is not None and not mine:
                good[customer_id] = customer
        problems += [Problem(problem.place, problem.message, customer_id) for problem in mine]
    return good, problems


def _is_customer_id(text: str) -> bool:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    return 1 <= len(text) <= 64 and set(text) <= allowed and "__" not in text


def _validated(
    model: type[_Model], tree: dict[str, Any], place: str, variables: dict[str, str], problems: list[Problem]
) -> _Model | None:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        problems += [_problem(model, place, detail, variables) for detail in details]
        return None


def _problem(model: type[Part], place: str, detail: ErrorDetails, variables: dict[str, str]) -> Problem:
    steps = [*filter(None, [place]), *(str(step) for step in detail["loc"])]
    path = ".".join(steps)
    if detail["type"] == "extra_forbidden":
        return _misspelt(path, _siblings(model, [str(step) for step in detail["loc"]]), variables.get(path))
    message = {"missing": "is required", "tuple_type": "must be a list"}.get(detail["type"], detail["msg"])
    message = message.removeprefix("Value error, ")
    if message.startswith("Input"):
        message = message[:1].lower() + message[1:]
    return Problem(variables.get(path, path), message)


def _siblings(model: type[Part], steps: list[str]) -> set[str]:
    for step in steps[:-1]:
        field = model.model_fields.get(step)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, Part):
            model = inner
    return set(model.model_fields)


def _misspelt(path: str, known: set[str], variable: str | None) -> Problem:
    key = path.rpartition(".")[2]
    near = difflib.get_close_matches(key, sorted(known), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Problem(variable or path, f"there is no such setting{hint}")
