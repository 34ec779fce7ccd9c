"""VectorCare's API 2.0 as a client: each call sent at most once, each answer one of a closed set."""

import asyncio
import math
import time
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final

import aiohttp
import orjson
import structlog
from aiohttp import ClientError
from yarl import URL

from shared import metrics, traces
from worker.assignment import Answer, Answered
from worker.calls import ApiCall
from worker.customers import Customer
from worker.limited_body import limited_body
from worker.sent_once import Broken, sent_once
from worker.token import Token, TokenRefused

_NOT_PERMITTED: Final = "public_api:"
_BODY_SECONDS: Final = 1.0  # the status has said yes or no; its body only says why
_CONNECT_SHARE: Final = 0.6  # of a call's time, so that a connection that can't be made is known as such
_DEEPEST_CODE: Final = 4  # a list, its item, a field, its list of errors
_LONGEST_WAIT: Final = 3600.0  # seconds that a Retry-After may ask for

_log = structlog.get_logger("vectorcare")


class VectorCare:
    """The API for all customers: one pool of connections, a token for each. An async context manager."""

    def __init__(self, customers: dict[str, Customer], call_seconds: float) -> None:
        self._call_seconds = call_seconds
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),  # what one customer's answer sets must not travel with another's call
            middlewares=(sent_once,),
            # Each call has a deadline of its own around everything.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=call_seconds * _CONNECT_SHARE),
        )
        self._throttled_until: dict[str, float] = {}
        self._tokens = {
            customer_id: Token(
                customer_id, customer.token_url, customer.client_id, customer.client_secret, self._session
            )
            for customer_id, customer in customers.items()
        }

    async def __aenter__(self) -> "VectorCare":
        for token in self._tokens.values():
            _ = token.renew_soon()  # so that the first accept of the day does not wait for it
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for token in self._tokens.values():
            await token.close()
        await self._session.close()

    async def send(
        self, customer: Customer, service_request_id: str, call: ApiCall, *, start_by: float = math.inf
    ) -> Answer:
        """Make the call and say what is known after it; takes at most `call_seconds`, raises nothing. A call that
        can't begin by `start_by` (monotonic seconds), because a token is waited for, is not made: NOT_SENT."""
        started = time.perf_counter()
        answer = await self._unless_throttled(customer, service_request_id, call, start_by)
        seconds = time.perf_counter() - started
        metrics.API_CALLS.labels(customer.customer_id, call.name, answer.kind).inc()
        metrics.API_SECONDS.labels(call.name).observe(seconds)
        _log.info(
            "api_call",
            customer=customer.customer_id,
            request=service_request_id,
            call=call.name,
            answer=answer.kind,
            status=answer.status,
            code=answer.code,
            milliseconds=round(seconds * 1000, 1),
        )
        return answer

    async def _unless_throttled(
        self, customer: Customer, service_request_id: str, call: ApiCall, start_by: float
    ) -> Answer:
        patience = self._throttled_until.get(customer.customer_id, 0.0) - time.monotonic()
        if patience > 0:
            return Answer(
                Answered.THROTTLED, retry_after=patience
            )  # VectorCare's limit is the customer's, not the call's
        answer = await self._authorized(customer, service_request_id, call, start_by)
        if answer.kind is Answered.THROTTLED:
            self._throttled_until[customer.customer_id] = time.monotonic() + answer.retry_after
        return answer

    async def _authorized(self, customer: Customer, service_request_id: str, call: ApiCall, start_by: float) -> Answer:
        token = self._tokens[customer.customer_id]
        url = URL(f"{customer.api_url}/requests/{service_request_id}/{call.suffix}/", encoded=True)
        body = orjson.dumps(call.body)
        deadline = asyncio.get_running_loop().time() + self._call_seconds
        answer = Answer(Answered.NO_TOKEN)
        for _ in range(2):  # a 401 is answered once with a fresh token
            try:
                async with asyncio.timeout_at(deadline):
                    bearer = await token.get()
            except (TokenRefused, TimeoutError):
                return Answer(Answered.NO_TOKEN)
            if time.monotonic() > start_by:
                return Answer(Answered.NOT_SENT)
            with traces.calling(call.method, call.suffix, url.host or "", url.port or 0) as span:
                answer = await self._send(call.method, url, body, bearer, deadline)
                _traced(span, answer)
            if answer.kind is not Answered.NO_TOKEN:
                return answer
            token.forget(bearer)
        return answer

    async def _send(self, method: str, url: URL, body: bytes, bearer: str, deadline: float) -> Answer:
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout_at(deadline),
                self._session.request(method, url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                content = await _as_far_as_it_comes(response)
                return read_answer(response.status, content, response.headers.get("Retry-After"), time.time())
        except Broken as broken:
            return Answer(Answered.UNKNOWN if broken.sent else Answered.NOT_SENT)
        except (TimeoutError, ClientError):
            return Answer(Answered.UNKNOWN)


def _traced(span: traces.Span, answer: Answer) -> None:
    span.say(answer=answer.kind.value, http_status=answer.status)
    if answer.kind is not Answered.TAKEN:
        span.fail(str(answer.status or answer.kind.value))


async def _as_far_as_it_comes(response: aiohttp.ClientResponse) -> bytes:
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await limited_body(response)
    except (TimeoutError, ClientError):
        return b""


def read_answer(status: int, content: bytes, retry_after: str | None, now: float) -> Answer:
    """VectorCare's documented answers to a call; what is not documented says nothing about its effect. Pure."""
    code = _code(content)
    match status:
        case 200 | 201:
            kind = Answered.TAKEN
        case 400:
            kind = Answered.INVALID
        case 401:
            kind = Answered.NO_TOKEN
        case 403 if code and code.startswith(_NOT_PERMITTED):
            kind = Answered.NOT_PERMITTED
        case 403 | 404:
            kind = Answered.GONE
        case 429:
            kind = Answered.THROTTLED
        case _:
            kind = Answered.UNKNOWN
    return Answer(kind, status, code, _seconds(retry_after, now))


def _code(content: bytes) -> str | None:
    """The error's code, `{"message", "code"}` or the first of a field's, in a list body's list of those too; only
    VectorCare's own words, never a value."""
    try:
        code = _first_code(orjson.loads(content), _DEEPEST_CODE)
    except orjson.JSONDecodeError:
        return None
    if isinstance(code, str) and len(code) <= 64 and code.replace(":", "").replace("_", "").isalnum():
        return code
    return None


def _first_code(found: Any, depth: int) -> object:
    if isinstance(found, dict) and "code" in found:
        return found["code"]
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    codes = (_first_code(each, depth - 1) for each in inner) if depth else ()
    return next((code for code in codes if code is not None), None)


def _seconds(retry_after: str | None, now: float) -> float:
    """Retry-After in either of HTTP's forms, seconds or a date; 0 where it is neither."""
    if retry_after is None:
        return 0.0
    try:
        wait = float(retry_after) if retry_after.isdecimal() else parsedate_to_datetime(retry_after).timestamp() - now
    except ValueError:
        return 0.0
    return min(max(wait, 0.0), _LONGEST_WAIT)
