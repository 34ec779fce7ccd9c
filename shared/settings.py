"""What can be set (docs/settings.md): frozen, typed, secrets in no repr. `shared.configuration` reads it."""

import base64
import binascii
import ipaddress
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, field_validator, model_validator
from yarl import URL

from shared.errors import ConfigurationError, Problem

_PRODUCTION: Final = "https://hub.vectorcare.com/openapi/v2.0"
_PRODUCTION_TOKEN: Final = "https://auth.vectorcare.com/v2.0/oauth2/token"  # noqa: S105 - an address
_UAT: Final = "https://hub-uat.vectorcare.com/openapi/v2.0"

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Files = tuple[Path, ...]
Secret = Annotated[SecretStr, Field(min_length=1)]


class Part(BaseModel):
    """A table of the configuration: nothing unknown in it, nothing changed later, no value in its errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SpoolSettings(Part):
    """`[ingress.spool]`: where webhooks are kept while RabbitMQ can't confirm; without a path there is no spool."""

    path: Path | None = None
    max_bytes: Annotated[int, Field(ge=1048576)] = 1073741824


class IngressSettings(Part):
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
    spool: SpoolSettings = SpoolSettings()


class WorkerSettings(Part):
    """`[worker]`: how much is in hand at a time, and how long things may take, in seconds."""

    admin_host: str = "127.0.0.1"
    admin_port: Port = 9091
    prefetch: Annotated[int, Field(ge=1, le=2000)] = 50
    in_flight_per_customer: Annotated[int, Field(ge=1, le=2000)] = 8
    drain_seconds: Seconds = 20
    order_by: Literal["event_id", "event_timestamp"] = "event_id"
    confirm_within: Seconds = 120
    call_seconds: Annotated[float, Field(gt=0, le=30)] = 5


class BrokerSettings(Part):
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
        sqlite = [url for url in urls if sqlite_path(url)]
        amqp = [url for url in urls if url.startswith(("amqp://", "amqps://")) and _host(url)]
        if len(amqp) == len(urls) > 0 or len(sqlite) == len(urls) == 1:
            return value
        raise ValueError("must be sqlite:PATH, or amqp:// or amqps:// with a host, or a list of those")


class StoreSettings(Part):
    """`[store]`: what is known of each service request. With an amqp broker there is no default address."""

    url: SecretStr | None = None
    connections: Annotated[int, Field(ge=1, le=100)] = 8
    keep_days: Annotated[int, Field(ge=1, le=3650)] = 30
    encryption_key_files: Files = ()

    @field_validator("url")
    @classmethod
    def _known(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or sqlite_path(value.get_secret_value()) or is_postgresql(value.get_secret_value()):
            return value
        raise ValueError("must be sqlite:PATH or postgresql://USER:PASSWORD@HOST/DATABASE")


CustomerId = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
_ACKNOWLEDGE_WITHIN: Final = 120.0
_SIGNING_PREFIX: Final = "whsec_"


class Subscription(Part):
    """`[[subscriptions]]`: a dispatch system's share of `dispatch.events`, and how it comes to it.

    A durable queue, unless it has a `url` (events are pushed there) or a `token` (it pulls them over HTTP).
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    pattern: Annotated[str, Field(pattern=r"^[A-Za-z0-9_*#-]+(\.[A-Za-z0-9_*#-]+)*$", max_length=200)] = "#"
    customers: tuple[CustomerId, ...] = ()
    url: SecretStr | None = None
    secret: Secret | None = None
    token: Secret | None = None
    acknowledges: bool = False
    acknowledge_within: Seconds | None = None

    @field_validator("name")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value.startswith(("receiver.", "amq.", "tail-")):
            raise ValueError("must not begin with receiver., amq. or tail-: those queues are not yours")
        return value

    @field_validator("url")
    @classmethod
    def _safe(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_safe_url(value.get_secret_value()):
            raise ValueError("must be an https:// address, or http:// on loopback, without ?, # and @")
        return value

    @field_validator("secret")
    @classmethod
    def _signs(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _signing_key(value.get_secret_value())
        return value

    @field_validator("token")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not (
            len(text := value.get_secret_value()) >= 16 and text.isascii() and " " not in text
        ):
            raise ValueError("must be 16 or more ASCII characters without a space; make one with: openssl rand -hex 32")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.url is None) != (self.secret is None):
            raise ValueError("url and secret belong together: what is pushed is signed")
        if self.customers and self.is_queued:
            _ = self.patterns
        return self

    @property
    def is_queued(self) -> bool:
        """Whether a durable queue on the broker holds its events; else they are pushed or pulled from the store."""
        return self.url is None and self.token is None

    @property
    def patterns(self) -> tuple[str, ...]:
        """What its queue is bound to: the pattern, narrowed to its customers, whose id is a key's last word."""
        if not self.customers:
            return (self.pattern,)
        *words, last = self.pattern.split(".")
        if last == "*":
            return tuple(".".join([*words, customer]) for customer in self.customers)
        if last == "#":
            return tuple(".".join([*words, "#", customer]) for customer in self.customers)
        if last not in self.customers:
            raise ValueError("the pattern's last word names a customer that is not among customers")
        return (self.pattern,)

    @property
    def key(self) -> bytes | None:
        """What pushes are signed with."""
        return _signing_key(self.secret.get_secret_value()) if self.secret else None

    @property
    def within(self) -> float | None:
        """Seconds in which it must acknowledge an `assigned`; None where it need not."""
        if self.acknowledge_within is None:
            return _ACKNOWLEDGE_WITHIN if self.acknowledges else None
        return self.acknowledge_within

    def serves(self, customer_id: str) -> bool:
        """Whether a customer's events are its business, and commands for that customer allowed to it."""
        if self.customers:
            return customer_id in self.customers
        return self.pattern.rpartition(".")[2] in ("*", "#", customer_id)


class ClientSettings(Part):
    """`[client]`: where dispatch systems pull events and send commands over HTTP; put TLS in front."""

    host: str = "127.0.0.1"
    port: Port = 8090


class NotifySettings(Part):
    """`[notify]`: whom to tell what wants a person, by mail or by one webhook; never with patient data."""

    webhook_url: SecretStr | None = None
    smtp_host: str | None = None
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_user: str | None = None
    smtp_password: Secret | None = None
    sender: str = "vectorcare-receiver@localhost"
    to: tuple[str, ...] = ()
    every: Seconds = 300
    held: bool = True
    unconfirmed: bool = True
    other_leg_lost: bool = True
    unacknowledged: bool = True
    bad_signature: bool = True
    parked: bool = True
    token_failure: bool = True

    @field_validator("webhook_url")
    @classmethod
    def _safe(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _is_safe_url(value.get_secret_value()):
            raise ValueError("must be an https:// address, or http:// on loopback, without ?, # and @")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.smtp_host is None) != (not self.to):
            raise ValueError("smtp_host and to belong together")
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to tell."""
        return self.webhook_url is not None or self.smtp_host is not None


class TracesSettings(Part):
    """`[traces]`: where spans are sent, and which share of the traces; without an endpoint, none are."""

    endpoint: str | None = None
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0

    @field_validator("endpoint")
    @classmethod
    def _whole(cls, value: str | None) -> str | None:
        # Spans hold no patient data, and a collector beside us or in the cluster seldom has a certificate.
        if value is None or (
            value.startswith(("http://", "https://")) and _host(value) and not set("?#@") & set(value) and _path(value)
        ):
            return value
        raise ValueError("must be a collector's whole address, as http://127.0.0.1:4318/v1/traces, without ?, # and @")


class Limits(Part):
    """`[customers.ID.limits]`: reached, an offer is held instead of accepted."""

    max_open: Annotated[int, Field(ge=0)] | None = None
    max_accepts_per_hour: Annotated[int, Field(ge=0)] | None = None


class CustomerSettings(Part):
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


class Settings(Part):
    """The whole configuration. `customers` holds those without a problem; `declared` names all of them."""

    ingress: IngressSettings = IngressSettings()
    worker: WorkerSettings = WorkerSettings()
    broker: BrokerSettings = BrokerSettings()
    store: StoreSettings = StoreSettings()
    client: ClientSettings = ClientSettings()
    notify: NotifySettings = NotifySettings()
    traces: TracesSettings = TracesSettings()
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
        path = sqlite_path(self.broker.url[0].get_secret_value())
        return self.path(path) if path else None

    @property
    def spool_file(self) -> Path | None:
        """The spool's file; None where there is none, or no use for one: the embedded broker is a file itself."""
        path = self.ingress.spool.path
        return None if path is None or self.broker_file is not None else self.path(path)

    @property
    def store_file(self) -> Path | None:
        """The store's file; None where it is on PostgreSQL, ConfigurationError where none is named and the broker is
        RabbitMQ."""
        if self.store.url is not None:
            path = sqlite_path(self.store.url.get_secret_value())
            return self.path(path) if path else None
        if self.broker_file is None:
            raise ConfigurationError(
                [Problem("store.url", "is required with an amqp broker; for example sqlite:receiver.db")]
            )
        return self.path(Path("receiver.db"))


def _signing_key(secret: str) -> bytes:
    """A signing secret's bytes: `whsec_` and base64 after Standard Webhooks, else its text."""
    if not secret.startswith(_SIGNING_PREFIX):
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(_SIGNING_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
    if len(key) < 24:
        raise ValueError("must be 24 or more characters, or whsec_ and 24 or more bytes in base64")
    return key


def sqlite_path(url: str) -> Path | None:
    """The path of `sqlite:PATH`; None where it is another address."""
    kind, _, rest = url.partition(":")
    return Path(rest) if kind == "sqlite" and rest else None


def is_postgresql(url: str) -> bool:
    """Whether this is PostgreSQL's address."""
    return url.startswith(("postgresql://", "postgres://")) and _host(url) is not None


def _host(url: str) -> str | None:
    try:
        return URL(url).host
    except ValueError:
        return None


def _path(url: str) -> str:
    return URL(url).path.strip("/")


def _is_safe_url(url: str) -> bool:
    host = _host(url)
    if not host or "?" in url or "#" in url or "@" in url:
        return False
    if url.startswith("https://"):
        return True
    return url.startswith("http://") and _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
