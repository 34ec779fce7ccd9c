"""Delivers webhooks: HTTP POST with the signature, a deadline, and the attempts after their delays."""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import aiohttp

from sandbox.options import Options
from sandbox.organizations import Receiver, Webhook
from sandbox.record import Record, WebhookAttempt
from sandbox.trouble import UNTROUBLED, Treatment

LARGE = 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answered to one attempt. Without an answer, `status` is None and `error` says why."""

    status: int | None
    body: bytes
    seconds: float
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether VectorCare takes it for delivered."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Call:
    """One webhook on its way to one endpoint: the exact bytes, and what they are."""

    receiver: Receiver
    webhook: Webhook
    request_id: str
    event_id: str
    action: str
    status: str
    body: bytes
    signature: str | None
    signed: bool = True


class Delivery:
    """The sender of all webhooks. Every call goes its own way: a slow endpoint holds up nobody else's."""

    def __init__(self, options: Options, record: Record) -> None:
        self._options = options
        self._record = record
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._held: dict[tuple[str, str], list[asyncio.Event]] = {}

    async def open(self) -> None:
        """Before the first call."""
        trusted = ssl.create_default_context()
        if self._options.webhook_ca:
            trusted.load_verify_locations(self._options.webhook_ca)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=trusted),
            timeout=aiohttp.ClientTimeout(total=self._options.webhook_deadline),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "Content-Type": "application/json",
                "VectorCare-Environment": self._options.environment,
                "VectorCare-Namespace": self._options.namespace,
            },
            skip_auto_headers={"User-Agent"},
        )

    async def close(self) -> None:
        """Gives up what is still on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session:
            await self._session.close()

    @property
    def pending(self) -> int:
        """Calls under way or waiting for their next attempt."""
        return len(self._tasks)

    async def idle(self, timeout: float) -> None:
        """Until nothing is pending. Raises TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while self._tasks:
                await asyncio.wait(set(self._tasks))

    def start(
        self,
        call: Call,
        *,
        restamped: Callable[[Call], Call] | None = None,
        treatment: Treatment = UNTROUBLED,
    ) -> None:
        """Begins to deliver, and returns at once. `treatment` is what goes wrong with it."""
        if treatment.lost:
            self._note(call, time.time(), Answer(None, b"", 0.0, "lost"), cause="event")
            return
        for copy, delay in enumerate(treatment.delays):
            self.spawn(self._deliver(call, restamped, treatment, copy=copy, late=delay))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` as a part of what `idle` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(
        self,
        call: Call,
        restamped: Callable[[Call], Call] | None,
        treatment: Treatment,
        *,
        copy: int,
        late: float,
    ) -> None:
        if late:
            await asyncio.sleep(late)
        if treatment.held is not None and copy == 0:
            await self._hold(call, treatment.held)
        for attempt, delay in enumerate(self._options.attempt_delays, start=1):
            if delay:
                await asyncio.sleep(delay)
            if restamped and attempt > 1:
                call = restamped(call)
            cause = "duplicate" if copy else ("event" if attempt == 1 else "retry")
            if attempt <= treatment.cut:
                answer = Answer(None, b"", 0.0, "cut")
                self._note(call, time.time(), answer, attempt=attempt, cause=cause)
            else:
                answer = await self.attempt(call, attempt=attempt, cause=cause)
            if treatment.held is None:
                self._release(call)
            if answer.ok:
                return

    async def _hold(self, call: Call, longest: float) -> None:
        """Until another webhook of this request has reached the Receiver, at most `longest` seconds."""
        overtaken = asyncio.Event()
        self._held.setdefault((call.receiver.name, call.request_id), []).append(overtaken)
        try:
            async with asyncio.timeout(longest):
                await overtaken.wait()
        except TimeoutError:
            self._release(call)

    def _release(self, call: Call) -> None:
        for overtaken in self._held.pop((call.receiver.name, call.request_id), ()):
            overtaken.set()

    async def attempt(self, call: Call, *, attempt: int = 1, cause: str, url: str | None = None) -> Answer:
        """One POST to the call's endpoint as it is set now (or to `url`), recorded."""
        at = time.time()
        answer = await self._post(url or call.webhook.url, call)
        self._note(call, at, answer, attempt=attempt, cause=cause)
        return answer

    def _note(self, call: Call, at: float, answer: Answer, *, attempt: int = 1, cause: str) -> None:
        self._record.append(
            WebhookAttempt(
                id=f"WC-{self._record.total + 1:06d}",
                at=at,
                receiver=call.receiver.name,
                webhook_id=call.webhook.id,
                request_id=call.request_id,
                event_id=call.event_id,
                action=call.action,
                status=call.status,
                attempt=attempt,
                cause=cause,
                response_code=answer.status,
                error=answer.error,
                seconds=answer.seconds,
                body=call.body,
                signature=call.signature or "",
                signed=call.signed,
            )
        )

    async def _post(self, url: str, call: Call) -> Answer:
        assert self._session is not None, "open() comes first"
        # aiohttp warns of large bodies unless they are files; sent at once they would hold up the loop.
        data = call.body if len(call.body) < LARGE else BytesIO(call.body)
        headers = {} if call.signature is None else {"X-VectorCare-Signature": call.signature}
        started = time.perf_counter()

        def answer(status: int | None, body: bytes = b"", error: str | None = None) -> Answer:
            return Answer(status, body, time.perf_counter() - started, error)

        try:
            async with self._session.post(url, data=data, headers=headers, allow_redirects=False) as response:
                return answer(response.status, await response.read())
        except TimeoutError:
            return answer(None, error="timeout")
        except aiohttp.ClientConnectorError:
            return answer(None, error="unreachable")
        except (aiohttp.ClientError, OSError):
            return answer(None, error="dropped")


def restamp(call: Call, event_timestamp: str, old_timestamp: str) -> Call:
    """The same event with a new `event_timestamp`, signed anew."""
    body = call.body.replace(old_timestamp.encode(), event_timestamp.encode(), 1)
    return replace(call, body=body, signature=call.receiver.key.sign(body))
