"""One webhook from the first byte to the answer: who, how long, signed by whom, made durable."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ingress.address import Network, client_address, is_allowed
from ingress.customers import Sender
from shared import event, metrics, topics, traces
from shared.broker import Publisher
from shared.errors import Unavailable
from shared.signature import SIGNATURE_HEADER, Verified, verify

ANSWER_WITHIN: Final = 4.5  # seconds; VectorCare gives up at 10, we answer within 5
BODY_WITHIN: Final = 4.0  # of those
RETRY_AFTER: Final = "8"  # seconds, VectorCare's own first pause

_ACTIONS: Final = frozenset(  # those that VectorCare documents; the set is open, and a label must not be
    {
        "BROADCAST_RECEIVED",
        "BROADCAST_ACCEPTED",
        "BROADCAST_DECLINED",
        "BROADCAST_EXPIRED",
        "BROADCAST_CANCELED",
        "PROPOSAL_ACCEPTED",
        "PROPOSAL_DECLINED",
        "CHANGE_REQUEST_ACCEPTED",
        "CHANGE_REQUEST_DECLINED",
    }
)

_log = structlog.get_logger("ingress")


class Answer(StrEnum):
    """What a webhook was answered, as logs and metrics name it."""

    ACCEPTED = "accepted"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    UNAVAILABLE = "unavailable"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Refused(Exception):
    """Ends the receiving of one webhook: the answer, and why, for log and metrics alone.

    `kind` is `why` as one of a few words; `keys` are the fingerprints that were tried.
    """

    answer: Answer
    why: str
    kind: str = ""
    keys: str = ""


@dataclass(frozen=True, slots=True)
class Reception:
    """All that receiving needs: the broker, the customers, and the listener's limits."""

    broker: Publisher
    senders: Mapping[str, Sender | None]
    max_body_bytes: int
    allow_from: Sequence[Network]
    trusted_proxies: Sequence[Network]


async def receive(reception: Reception, request: web.Request) -> web.Response:
    """Answer `POST /webhook`; 202 only when the event is durable."""
    with traces.receiving() as span:
        return await _answered(reception, request, span)


async def _answered(reception: Reception, request: web.Request, span: traces.Span) -> web.Response:
    started = time.perf_counter()
    line: dict[str, object] = {"customer": _claimed(reception, request)}
    try:
        event_id = await _receive(reception, request, line)
        answer = Answer.ACCEPTED
        response = web.json_response({"event_id": event_id}, status=202)
    except Refused as refused:
        answer = refused.answer
        line["why"] = refused.why
        if refused.kind and line["customer"]:
            metrics.REFUSED.labels(line["customer"], refused.kind, refused.keys).inc()
        response = _refusal(answer)
    except ConnectionError:
        answer = Answer.ABORTED
        line["why"] = "the sender went away"
        response = _refusal(answer)
    seconds = time.perf_counter() - started
    metrics.WEBHOOKS.labels(line["customer"] or "unknown", _action(line), answer).inc()
    metrics.WEBHOOK_SECONDS.observe(seconds)
    write = _log.info if answer is Answer.ACCEPTED else _log.warning
    write("webhook", answer=answer, milliseconds=round(seconds * 1000, 1), **line)
    if "event_id" in line:
        _traced(span, line, answer, response.status)
    else:
        span.discard()  # whoever can't sign makes no work for a collector
    return response


def _traced(span: traces.Span, line: Mapping[str, object], answer: Answer, status: int) -> None:
    ids = {word: str(line[word]) for word in ("customer", "event_id", "request", "action", "status") if word in line}
    span.say(**ids, answer=answer.value, http_status=status)
    if status >= 500:
        span.fail(str(status))


async def _receive(reception: Reception, request: web.Request, line: dict[str, object]) -> str | None:
    received_at = time.time()
    deadline = asyncio.get_running_loop().time() + ANSWER_WITHIN
    _allow(reception, request)
    signature = _signature(request)
    # Read before the customer is looked up: whoever has no right to be told takes as long as whoever has.
    body = await _body(request, reception.max_body_bytes)
    sender = _identify(reception, request)
    verified = _verify(sender, body, signature)
    webhook = event.read(verified)
    if isinstance(webhook, event.Event):
        line |= {"event_id": webhook.event_id, "request": webhook.service_request_id}
        line |= {"action": webhook.action, "status": webhook.status}
    else:
        line |= {"event_id": webhook.digest, "unreadable": webhook.reason}
    left = max(0.5, deadline - asyncio.get_running_loop().time())
    try:
        with traces.publishing(topics.WEBHOOKS) as span:
            message = topics.webhook_message(webhook, received_at, span.traceparent)
            await reception.broker.publish(topics.WEBHOOKS, message, mandatory=True, timeout=left)
    except Unavailable as error:
        raise Refused(Answer.UNAVAILABLE, str(error), "not_durable") from None
    return webhook.event_id if isinstance(webhook, event.Event) else None


def _action(line: Mapping[str, object]) -> str:
    """A webhook's action as a label: a documented one, OTHER, or NONE where it was refused unread or is unreadable."""
    action = line.get("action")
    if action is None:
        return "NONE"
    return str(action) if action in _ACTIONS else "OTHER"


def _claimed(reception: Reception, request: web.Request) -> str | None:
    """The customer that the URL names, if it is one of ours: what a stranger writes is not logged."""
    named = request.query.getall("customer_id", [])
    return named[0] if len(named) == 1 and named[0] in reception.senders else None


def _allow(reception: Reception, request: web.Request) -> None:
    forwarded = request.headers.getall("X-Forwarded-For", [])
    address = client_address(request.remote, forwarded, reception.trusted_proxies)
    if not is_allowed(address, reception.allow_from):
        raise Refused(Answer.FORBIDDEN, "the address is not in allow_from")


def _signature(request: web.Request) -> str:
    signatures = request.headers.getall(SIGNATURE_HEADER, [])
    if len(signatures) != 1:
        why = "several signatures" if signatures else "no signature"
        raise Refused(Answer.UNAUTHORIZED, why, why.replace(" ", "_"))
    return signatures[0]


def _identify(reception: Reception, request: web.Request) -> Sender:
    customer_id = _claimed(reception, request)
    if customer_id is None:
        raise Refused(Answer.UNAUTHORIZED, "unknown customer")
    sender = reception.senders[customer_id]
    if sender is None:
        raise Refused(Answer.UNAVAILABLE, "the customer is disabled by its configuration", "disabled")
    if not sender.allows(request.query.getall("token", [])):
        raise Refused(Answer.UNAUTHORIZED, "wrong token", "wrong_token")
    return sender


async def _body(request: web.Request, longest: int) -> bytes:
    if (request.content_length or 0) > longest:
        raise Refused(Answer.TOO_LARGE, "the body is too large")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > longest:
                    raise Refused(Answer.TOO_LARGE, "the body is too large")
    except TimeoutError:
        raise Refused(Answer.TOO_SLOW, "the body did not come in time") from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise Refused(Answer.ABORTED, "the body broke off") from None
    return bytes(body)


def _verify(sender: Sender, body: bytes, signature: str) -> Verified:
    with traces.verifying():
        verified = verify(sender.customer_id, sender.keys, body, signature)
        if verified is None:
            tried = ", ".join(key.fingerprint for key in sender.keys)
            raise Refused(Answer.UNAUTHORIZED, f"the signature fits none of the keys {tried}", "wrong_key", tried)
    return verified


_STATUS: Final = {
    Answer.UNAUTHORIZED: (401, "not authorized"),
    Answer.FORBIDDEN: (403, "not allowed"),
    Answer.TOO_LARGE: (413, "too large"),
    Answer.TOO_SLOW: (408, "too slow"),
    Answer.ABORTED: (400, "broken off"),
    Answer.UNAVAILABLE: (503, "try again"),
}


def _refusal(answer: Answer) -> web.Response:
    status, text = _STATUS[answer]
    headers = {"Retry-After": RETRY_AFTER} if status == 503 else {}
    return web.json_response({"error": text}, status=status, headers=headers)
