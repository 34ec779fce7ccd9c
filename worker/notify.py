"""Tells people what wants one, by mail or by one webhook, in a sentence without patient data; never in floods.

Within a process the metrics already count signature failures, parked events and token failures: what they grew by is
what is told. Outcomes come by as they are published.
"""

import asyncio
import contextlib
import functools
import smtplib
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from email.message import EmailMessage
from typing import Final

import aiohttp
import orjson
import structlog
from prometheus_client import Counter

from shared import metrics
from shared.broker import Message
from shared.settings import NotifySettings
from worker.acknowledging import Missing

_LOOK_SECONDS: Final = 1.0
_SEND_SECONDS: Final = 10.0

# Of each kind: one, several.
_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "held": ("1 offer held", "{} offers held"),
    "unconfirmed": ("1 accepted trip is unconfirmed", "{} accepted trips are unconfirmed"),
    "other_leg_lost": ("the other leg of 1 round trip was lost", "the other legs of {} round trips were lost"),
    "unacknowledged": ("1 trip is in no dispatch system", "{} trips are in no dispatch system"),
    "bad_signature": ("1 webhook was refused", "{} webhooks were refused"),
    "parked": ("1 event was parked", "{} events were parked"),
    "token_failure": ("VectorCare gave no access token", "VectorCare gave no access token {} times"),
}
_COUNTED: Final[Mapping[str, tuple[Counter, Mapping[str, str]]]] = {
    "bad_signature": (metrics.WEBHOOKS, {"answer": "unauthorized"}),
    "parked": (metrics.PARKED, {}),
    "token_failure": (metrics.TOKENS, {"answer": "refused"}),
}

_log = structlog.get_logger("notify")


class Notices:
    """What is to be told: gathered by (kind, customer), said at most once in `every` seconds. Knows no clock."""

    def __init__(self, settings: NotifySettings) -> None:
        self._every = settings.every
        self._kinds = {kind for kind in _SENTENCES if getattr(settings, kind)}
        self._counts: dict[tuple[str, str], int] = {}
        self._pickups: dict[tuple[str, str], float] = {}
        self._said_at: dict[tuple[str, str], float] = {}

    def add(self, kind: str, customer_id: str, count: int = 1, pickup_at: float | None = None) -> None:
        """Something happened."""
        if kind not in self._kinds or count <= 0:
            return
        key = (kind, customer_id)
        self._counts[key] = self._counts.get(key, 0) + count
        if pickup_at is not None:
            self._pickups[key] = min(pickup_at, self._pickups.get(key, pickup_at))

    def due(self, now: float) -> list[tuple[str, str]]:
        """The kinds and sentences to be said now."""
        said = []
        for key, count in list(self._counts.items()):
            if now - self._said_at.get(key, float("-inf")) < self._every:
                continue
            said.append((key[0], _sentence(key, count, self._pickups.pop(key, None), now)))
            self._said_at[key] = now
            del self._counts[key]
        return said


def _sentence(key: tuple[str, str], count: int, pickup_at: float | None, now: float) -> str:
    kind, customer_id = key
    one, several = _SENTENCES[kind]
    sentence = f"{customer_id}: {one if count == 1 else several.format(count)}"
    if pickup_at is None:
        return sentence
    minutes = round((pickup_at - now) / 60)
    return f"{sentence}, {'first ' if count > 1 else ''}pickup " + (f"in {minutes} min" if minutes >= 0 else "is past")


class Notifier:
    """The task that sends them. What can't be sent is logged and not tried again: the next notice says more."""

    def __init__(self, settings: NotifySettings) -> None:
        self._settings = settings
        self._notices = Notices(settings)
        self._seen = {kind: _totals(*what) for kind, what in _COUNTED.items()}
        self._task = asyncio.create_task(self._run(), name="notify") if settings.is_on else None

    def outcome(self, message: Message) -> None:
        """An outcome was published."""
        if self._task is None or not message.routing_key.startswith("assignment."):
            return
        told = orjson.loads(message.body)
        kind = _kind(told)
        if kind is not None:
            self._notices.add(kind, told["customer_id"], pickup_at=_pickup(told["request"]))

    def unacknowledged(self, missing: Missing) -> None:
        """A trip was not acknowledged in time."""
        self._notices.add("unacknowledged", missing.customer_id)

    async def stop(self) -> None:
        """Say what is due, and stop."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._say()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._say()

    async def _say(self) -> None:
        for kind, what in _COUNTED.items():
            totals = _totals(*what)
            for customer, total in totals.items():
                self._notices.add(kind, customer, round(total - self._seen[kind].get(customer, 0)))
            self._seen[kind] = totals
        for kind, sentence in self._notices.due(time.time()):
            await self._send(kind, sentence)

    async def _send(self, kind: str, sentence: str) -> None:
        ways: list[Callable[[], Awaitable[None]]] = []
        if self._settings.webhook_url is not None:
            url = self._settings.webhook_url.get_secret_value()
            ways.append(functools.partial(_post, url, kind, sentence))
        if self._settings.smtp_host is not None:
            ways.append(functools.partial(asyncio.to_thread, _mail, self._settings, sentence))
        for way in ways:
            answer = "sent"
            try:
                await way()
            except (OSError, TimeoutError, aiohttp.ClientError, smtplib.SMTPException) as error:
                answer = "failed"
                _log.error("notice_not_sent", kind=kind, problem=type(error).__name__)
            metrics.NOTICES.labels(kind, answer).inc()


def _kind(told: Mapping[str, object]) -> str | None:
    if told["reason_code"] == "unconfirmed_accept" or (told["state"] == "assigned" and told["confirmed"] is False):
        return "unconfirmed"
    if told["reason_code"] == "other_leg_lost":
        return "other_leg_lost"
    return "held" if told["state"] == "held" else None


def _pickup(request: object) -> float | None:
    found = request.get("pickup_date_time") if isinstance(request, dict) else None
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(found.upper()) if isinstance(found, str) else None
        return moment.timestamp() if moment is not None and moment.tzinfo else None
    return None


def _totals(counter: Counter, labels: Mapping[str, str]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and labels.items() <= sample.labels.items():
                customer = sample.labels["customer"]
                totals[customer] = totals.get(customer, 0) + sample.value
    return totals


async def _post(url: str, kind: str, sentence: str) -> None:
    timeout = aiohttp.ClientTimeout(total=_SEND_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, json={"text": sentence, "kind": kind}, allow_redirects=False) as response,
    ):
        if response.status >= 300:
            raise aiohttp.ClientPayloadError(f"status {response.status}")


def _mail(settings: NotifySettings, sentence: str) -> None:
    assert settings.smtp_host is not None
    mail = EmailMessage()
    mail["Subject"] = sentence
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.to)
    mail.set_content(f"{sentence}\n")
    verifying = ssl.create_default_context()  # smtplib's own takes anybody's certificate
    connect: Callable[..., smtplib.SMTP] = smtplib.SMTP
    if settings.smtp_tls == "tls":
        connect = functools.partial(smtplib.SMTP_SSL, context=verifying)
    with connect(settings.smtp_host, settings.smtp_port, timeout=_SEND_SECONDS) as server:
        if settings.smtp_tls == "starttls":
            server.starttls(context=verifying)
        if settings.smtp_user is not None and settings.smtp_password is not None:
            server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        server.send_message(mail)
