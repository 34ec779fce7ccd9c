"""The configuration: a TOML file under variables of the environment, checked as a whole before anything connects.

A problem in one customer's part disables that customer (`Settings.customer_problems`); every other problem raises
ConfigurationError with all of them. Values never appear in a problem: they may be secrets.
"""

import difflib
import ipaddress
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from yarl import URL

from shared.errors import ConfigurationError, Problem

VARIABLE_PREFIX: Final = "RECEIVER_"
_NOT_SETTINGS: Final = re.compile(r"RECEIVER_CONFIG|RECEIVER_TEST_\w+")
_PRODUCTION: Final = "https://hub.vectorcare.com/openapi/v2.0"
_PRODUCTION_TOKEN: Final = "https://auth.vectorcare.com/v2.0/oauth2/token"  # noqa: S105 - an address
_UAT: Final = "https://hub-uat.vectorcare.com/openapi/v2.0"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Files = tuple[Path, ...]
Secret = Annotated[SecretStr, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_Model = TypeVar("_Model", bound=_Part)


class IngressSettings(_Part):
    """`[ingress]`: the public listener and the admin listener (health, metrics) of the webhook endpoint."""

    host: str = "0.0.0.0"  # noqa: S104 - VectorCare must reach it
    port: Port = 8080
    admin_host: str = "127.0.0.1"
    admin_port: Port = 9090
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_body_bytes: Annotated[int, Field(gt=0)] = 1048576
    allow_from: tuple[IPvAnyNetwork, ...] = ()
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    drain_seconds: Seconds = 20


class WorkerSettings(_Part):
    """`[worker]`: how much is in hand at a time, and how long things may take, in seconds."""

    admin_host: str = "127.0.0.1"
    admin_port: Port = 9091
    prefetch: Annotated[int, Field(ge=1, le=2000)] = 50
    in_flight_per_customer: Annotated[int, Field(ge=1, le=2000)] = 8
    drain_seconds: Seconds = 20
    order_by: Literal["event_id", "event_timestamp"] = "event_id"
    confirm_within: Seconds = 120
    call_seconds: Annotated[float, Field(gt=0, le=30)] = 5


class BrokerSettings(_Part):
    """`[broker]`: `sqlite:PATH`, or one or several `amqp://` and `amqps://` addresses."""

    url: tuple[SecretStr, ...] = (SecretStr("sqlite:receiver.db"),)

    @field_validator("url", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _of_one_kind(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        urls = [url.get_secret_value() for url in value]
        sqlite = [url for url in urls if _sqlite_path(url)]
        amqp = [url for url in urls if url.startswith(("amqp://", "amqps://")) and _host(url)]
        if len(amqp) == len(urls) > 0 or len(sqlite) == len(urls) == 1:
            return value
        raise ValueError("must be sqlite:PATH, or amqp:// or amqps:// with a host, or a list of those")


class StoreSettings(_Part):
    """`[store]`: what is known of each service request. With an amqp broker there is no default address."""

    url: SecretStr | None = None
    keep_days: Annotated[int, Field(ge=1, le=3650)] = 30
    encryption_key_files: Files = ()

    @field_validator("url")
    @classmethod
    def _known(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or _sqlite_path(value.get_secret_value()):
            return value
        if value.get_secret_value().startswith("postgresql://"):
            raise ValueError("PostgreSQL is not built into this version yet; use sqlite:PATH")
        raise ValueError("must be sqlite:PATH")


class Subscription(_Part):
    """`[[subscriptions]]`: a durable queue for a dispatch system, bound to `dispatch.events`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    pattern: Annotated[str, Field(pattern=r"^[A-Za-z0-9_*#-]+(\.[A-Za-z0-9_*#-]+)*$", max_length=200)]

    @field_validator("name")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value.startswith(("receiver.", "amq.", "tail-")):
            raise ValueError("must not begin with receiver., amq. or tail-: those queues are not yours")
        return value


class Limits(_Part):
    """`[customers.ID.limits]`: reached, an offer is held instead of accepted."""

    max_open: Annotated[int, Field(ge=0)] | None = None
    max_accepts_per_hour: Annotated[int, Field(ge=0)] | None = None


class CustomerSettings(_Part):
    """`[customers.ID]`: one organization that receives broadcasts; ID is the `customer_id` of its webhook URL."""

    environment: Literal["production", "uat", "custom"] = "production"
    api_url: str | None = None
    token_url: str | None = None
    public_keys: Annotated[Files, Field(min_length=1)]
    webhook_token: Secret | None = None
    organization_ids: tuple[str, ...] = ()
    client_id: Secret | None = None
    client_secret: Secret | None = None
    policy: Path | None = None
    mode: Literal["observe", "suggest", "automatic"] = "suggest"
    limits: Limits = Limits()

    @field_validator("api_url", "token_url")
    @classmethod
    def _safe(cls, value: str | None) -> str | None:
        if value is None or _is_safe_url(value):
            return value and value.rstrip("/")
        raise ValueError("must be an https:// address, or http:// on loopback")

    @property
    def api(self) -> str | None:
        """The API's address: the one given, else the environment's."""
        return self.api_url or {"production": _PRODUCTION, "uat": _UAT}.get(self.environment)

    @property
    def token(self) -> str | None:
        """The token endpoint's address; only production's is documented."""
        return self.token_url or {"production": _PRODUCTION_TOKEN}.get(self.environment)


class Settings(_Part):
    """The whole configuration. `customers` holds those without a problem; `declared` names all of them."""

    ingress: IngressSettings = IngressSettings()
    worker: WorkerSettings = WorkerSettings()
    broker: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    subscriptions: tuple[Subscription, ...] = ()
    customers: dict[str, CustomerSettings] = {}
    declared: frozenset[str] = frozenset()
    customer_problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    folder: Path = Path()

    def path(self, path: Path) -> Path:
        """A path of the configuration; relative ones start at the configuration file's folder."""
        return self.folder / path

    @property
    def broker_file(self) -> Path | None:
        """The embedded broker's file; None where the broker is RabbitMQ."""
        path = _sqlite_path(self.broker.url[0].get_secret_value())
        return self.path(path) if path else None

    @property
    def store_file(self) -> Path:
        """The store's file; ConfigurationError where none is named and the broker is RabbitMQ."""
        if self.store.url is not None:
            path = _sqlite_path(self.store.url.get_secret_value())
            assert path is not None  # the validator lets nothing else through
            return self.path(path)
        if self.broker_file is None:
            raise ConfigurationError(
                [Problem("store.url", "is required with an amqp broker; for example sqlite:receiver.db")]
            )
        return self.path(Path("receiver.db"))


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
    ingress = tree.get("ingress")
    if isinstance(ingress, dict) and "spool" in ingress:
        del ingress["spool"]
        problems.append(Problem("ingress.spool", "is not built into this version yet; remove it"))
    unknown = set(tree) - {"ingress", "worker", "broker", "store", "subscriptions"}
    problems += [_misspelt(key, set(Settings.model_fields) - _INNER, variables.get(key)) for key in sorted(unknown)]
    names = [each.get("name") for each in tree.get("subscriptions", ()) if isinstance(each, dict)]
    doubled = sorted({name for name in names if isinstance(name, str) and names.count(name) > 1})
    problems += [Problem("subscriptions", f"there are two named {name}") for name in doubled]
    settings = _validated(Settings, {key: tree[key] for key in tree if key not in unknown}, "", variables, problems)
    if problems or settings is None:
        raise ConfigurationError(problems)
    for number, key in enumerate(settings.store.encryption_key_files):
        warnings += _readable_by_others(f"store.encryption_key_files[{number}]", folder / key)
    if file and _holds_secrets(customers):
        warnings += _readable_by_others(str(file), file)
    good, customer_problems = _customers(customers, folder, variables, warnings)
    return settings.model_copy(
        update={
            "customers": good,
            "declared": frozenset(customers),
            "customer_problems": tuple(customer_problems),
            "warnings": tuple(warnings),
            "folder": folder,
        }
    )


_INNER: Final = {"declared", "customer_problems", "warnings", "folder"}
_FILE_KEYS: Final = ("url", "api_url", "token_url", "client_id", "client_secret", "webhook_token")


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
    for place in ("broker", "store"):
        part = tree.get(place)
        if isinstance(part, dict):
            yield place, part


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
            except (OSError, UnicodeDecodeError) as error:
                problems.append(Problem(at, f"{name} can't be read: {_why(error)}"))


def _holds_secrets(customers: dict[str, Any]) -> bool:
    tables = [table for table in customers.values() if isinstance(table, dict)]
    return any(key in table for table in tables for key in ("client_secret", "webhook_token"))


def _readable_by_others(place: str, file: Path) -> list[Problem]:
    if file.exists() and file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return [Problem(place, f"{file.name} can be read by every user of this machine; chmod 600 it")]
    return []


def _why(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is not UTF-8 text"


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


def _problem(model: type[_Part], place: str, detail: ErrorDetails, variables: dict[str, str]) -> Problem:
    steps = [*filter(None, [place]), *(str(step) for step in detail["loc"])]
    path = ".".join(steps)
    if detail["type"] == "extra_forbidden":
        return _misspelt(path, _siblings(model, [str(step) for step in detail["loc"]]), variables.get(path))
    message = {"missing": "is required"}.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    return Problem(variables.get(path, path), message[:1].lower() + message[1:])


def _siblings(model: type[_Part], steps: list[str]) -> set[str]:
    for step in steps[:-1]:
        field = model.model_fields.get(step)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, _Part):
            model = inner
    return set(model.model_fields)


def _misspelt(path: str, known: set[str], variable: str | None) -> Problem:
    key = path.rpartition(".")[2]
    near = difflib.get_close_matches(key, sorted(known), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Problem(variable or path, f"there is no such setting{hint}")


def _sqlite_path(url: str) -> Path | None:
    kind, _, rest = url.partition(":")
    return Path(rest) if kind == "sqlite" and rest else None


def _host(url: str) -> str | None:
    try:
        return URL(url).host
    except ValueError:
        return None


def _is_safe_url(url: str) -> bool:
    host = _host(url)
    if not host or "?" in url or "#" in url or "@" in url:
        return False
    if url.startswith("https://"):
        return True
    return url.startswith("http://") and is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
