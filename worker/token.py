"""A customer's access token by client credentials: one renewal for many waiters, renewed at 80 % of its life."""

import asyncio
import time
from typing import Final

import aiohttp
import orjson
import structlog

from shared import metrics
from worker.limited_body import limited_body
from worker.sent_once import Broken

_RENEW_AT: Final = 0.8  # of the lifetime, VectorCare's own advice
_DEFAULT_LIFETIME: Final = 3600.0
_RENEW_SECONDS: Final = 10.0

_log = structlog.get_logger("token")


class TokenRefused(Exception):
    """No token was given; the text says why and holds no secret."""


class Token:
    """Hands out a valid access token. The secrets are in no repr."""

    def __init__(
        self, customer_id: str, url: str, client_id: str, client_secret: str, session: aiohttp.ClientSession
    ) -> None:
        self._customer_id = customer_id
        self._url = url
        self._form = {
            "client_id": client_id,
            "client_secret": client_secret,
            "grant_type": "client_credentials",
        }
        self._session = session
        self._value: str | None = None
        self._renew_at = 0.0
        self._expires_at = 0.0
        self._renewal: asyncio.Task[str] | None = None

    async def get(self) -> str:
        """A token that is valid now; TokenRefused where none can be had. A renewal that is due runs behind."""
        now = time.monotonic()
        if self._value is not None and now < self._expires_at:
            if now >= self._renew_at:
                _ = self.renew_soon()
            return self._value
        # Shielded: the waiter whose deadline passes must not end the renewal for the others.
        return await asyncio.shield(self.renew_soon())

    def renew_soon(self) -> "asyncio.Task[str]":
        """The renewal under way, or a new one."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), name=f"token {self._customer_id}")
            self._renewal.add_done_callback(_seen)
        return self._renewal

    def forget(self, value: str) -> None:
        """VectorCare refused this token; a newer one that somebody else has fetched meanwhile stays."""
        if self._value == value:
            self._value = None

    async def close(self) -> None:
        """End a renewal under way."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    async def _renew(self) -> str:
        asked_at = time.monotonic()
        try:
            value, lifetime = await self._ask()
        except TokenRefused as refused:
            metrics.TOKENS.labels(self._customer_id, "refused").inc()
            _log.error("token_refused", customer=self._customer_id, why=str(refused))
            raise
        metrics.TOKENS.labels(self._customer_id, "given").inc()
        self._value = value
        self._renew_at = asked_at + lifetime * _RENEW_AT
        self._expires_at = asked_at + lifetime
        return value

    async def _ask(self) -> tuple[str, float]:
        try:
            async with (
                asyncio.timeout(_RENEW_SECONDS),
                self._session.post(self._url, data=self._form, allow_redirects=False) as response,
            ):
                content = await limited_body(response)
        except (TimeoutError, aiohttp.ClientError, Broken) as error:
            how = "no answer in time" if isinstance(error, TimeoutError) else "the connection failed"
            raise TokenRefused(f"the token endpoint can't be reached: {how}") from None
        if response.status != 200:
            raise TokenRefused(f"the token endpoint answered {response.status}")
        try:
            answer = orjson.loads(content)
            value, lifetime = answer["access_token"], answer.get("expires_in", _DEFAULT_LIFETIME)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise TokenRefused("the token endpoint's answer holds no access_token") from None
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
            raise TokenRefused("the token endpoint's access_token is not printable text")
        if not isinstance(lifetime, int | float) or isinstance(lifetime, bool) or lifetime <= 0:
            lifetime = _DEFAULT_LIFETIME
        return value, float(lifetime)


def _seen(renewal: "asyncio.Task[str]") -> None:
    """Nobody may be waiting for a renewal that ran behind; its failure is logged and comes again with the next call."""
    if not renewal.cancelled():
        renewal.exception()
