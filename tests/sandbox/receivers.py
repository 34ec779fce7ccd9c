"""A small Receiver that does all right, and one for each wrong that `verify` knows."""

import asyncio
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections import defaultdict
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sandbox.life import STATES
from sandbox.organizations import Receiver
from sandbox.server import Sandbox
from sandbox.trips import iso

TRIES = 12
PAUSE = 0.005
IDS = re.compile("[A-Za-z0-9_-]{1,64}")


class RightReceiver:
    """Accepts whatever is offered, once, and drives each trip to its end."""

    def __init__(self, sandbox: Sandbox, name: str = "acme") -> None:
        self.sandbox = sandbox
        self.settings: Receiver = sandbox.add_receiver(name)
        self.newest: dict[str, tuple[str, str]] = {}
        self.done: set[tuple[str, str]] = set()
        self.locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.tasks: set[asyncio.Task[None]] = set()
        self.token = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/webhook", self.receive)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.settings.set_webhook(f"http://127.0.0.1:{self.runner.addresses[0][1]}/webhook")
        self.session = aiohttp.ClientSession()
        self.session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.idle()
        await self.session.close()
        await self.runner.cleanup()

    async def idle(self) -> None:
        """Until the sandbox has sent all, and nothing is under way here."""
        async with asyncio.timeout(20):
            while self.tasks or self.sandbox.delivery.pending:
                await self.sandbox.idle(20)
                if self.tasks:
                    await asyncio.wait(set(self.tasks))

    # Webhooks in

    def trusted(self, body: bytes, signature: str) -> bool:
        key = load_pem_public_key(self.settings.public_key_pem.encode())
        assert isinstance(key, rsa.RSAPublicKey)
        try:
            key.verify(b64decode(signature, validate=True), body, padding.PKCS1v15(), SHA256())
        except (InvalidSignature, NotBase64):
            return False
        return True

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        if not self.trusted(body, request.headers.get("X-VectorCare-Signature", "")):
            return web.Response(status=401)
        try:
            event = orjson.loads(body)
            request_id, event_id, status = (
                str(event[name]) for name in ("service_request_id", "event_id", "request_status")
            )
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return web.Response(status=202)
        if not IDS.fullmatch(request_id):
            return web.Response(status=202)
        if event_id > self.newest.get(request_id, ("", ""))[0]:
            self.newest[request_id] = (event_id, status)
            self.start(request_id)
        return web.Response(status=202)

    def start(self, request_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self.act(request_id))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def status(self, request_id: str) -> str:
        return self.newest.get(request_id, ("", ""))[1]

    async def act(self, request_id: str) -> None:
        async with self.locks[request_id]:
            event_id, status = self.newest[request_id]
            if status == "AVAILABLE":
                await self.accept(request_id, event_id)
            elif status == "ASSIGNED":
                await self.progress(request_id)
            elif status == "UNAVAILABLE":
                self.done = {mark for mark in self.done if mark[0] != request_id}

    # Calls out

    async def fresh_token(self) -> str:
        form = {
            "client_id": self.settings.client_id,
            "client_secret": self.settings.client_secret,
            "grant_type": "client_credentials",
        }
        for _ in range(TRIES):
            try:
                url = f"{self.sandbox.url}/v2.0/oauth2/token"
                async with self.session.post(url, data=form) as answer:
                    if answer.status == 200:
                        return str((await answer.json())["access_token"])
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(PAUSE)
        return ""

    async def call(self, method: str, path: str, value: Any = None, *, token: str | None = None) -> tuple[int, float]:
        """Status (0 without an answer) and the seconds to wait before the next try."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        url = f"{self.sandbox.url}/openapi/v2.0/requests/{path}"
        try:
            async with self.session.request(method, url, json=value, headers=headers) as answer:
                return answer.status, float(answer.headers.get("Retry-After", PAUSE))
        except aiohttp.ClientError:
            return 0, PAUSE

    async def until_taken(self, request_id: str, status: str, method: str, path: str, value: Any) -> int:
        """Repeats a call while the request still has that status, until it is answered for good."""
        answered = 0
        for _ in range(TRIES):
            used = self.token = self.token or await self.fresh_token()
            if self.status(request_id) != status or not used:
                return answered
            answered, pause = await self.call(method, path, value)
            if answered == 401 and self.token == used:
                self.token = ""
            if answered and answered not in (401, 429) and answered < 500:
                return answered
            await asyncio.sleep(pause)
        return answered

    async def accept(self, request_id: str, event_id: str) -> None:
        if (request_id, "accept") not in self.done:
            path = f"{request_id}/accept/"
            if await self.until_taken(request_id, "AVAILABLE", "PUT", path, {}) in (201, 403):
                self.done.add((request_id, "accept"))

    async def progress(self, request_id: str) -> None:
        for name in STATES:
            if (request_id, name) in self.done:
                continue
            state = {"name": name, "timestamp": iso(datetime.now(UTC))}
            taken = await self.until_taken(request_id, "ASSIGNED", "POST", f"{request_id}/state/", state)
            if taken != 201:
                return
            self.done.add((request_id, name))


class OnlyAccepts(RightReceiver):
    """Right too, but its crews report nothing."""

    async def progress(self, request_id: str) -> None:
        self.done.add((request_id, "seen"))


class AcceptsTwice(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        await super().accept(request_id, event_id)
        await self.call("PUT", f"{request_id}/accept/")


class AcceptsEveryDelivery(RightReceiver):
    async def receive(self, request: web.Request) -> web.Response:
        event = orjson.loads(await request.read())
        self.token = self.token or await self.fresh_token()
        if event["request_status"] == "AVAILABLE":
            await self.call("PUT", f"{event['service_request_id']}/accept/")
        return web.Response(status=202)


class AcceptsWhatIsGone(RightReceiver):
    async def act(self, request_id: str) -> None:
        self.token = self.token or await self.fresh_token()
        if self.status(request_id) == "UNAVAILABLE":
            await asyncio.sleep(PAUSE)
            await self.call("PUT", f"{request_id}/accept/")


class AnswersLate(RightReceiver):
    async def receive(self, request: web.Request) -> web.Response:
        await asyncio.sleep(0.06)
        return await super().receive(request)


class Answers500(RightReceiver):
    async def receive(self, request: web.Request) -> web.Response:
        await super().receive(request)
        return web.Response(status=500)


class TrustsAll(RightReceiver):
    def trusted(self, body: bytes, signature: str) -> bool:
        return True


class HasNoToken(RightReceiver):
    async def fresh_token(self) -> str:
        return "made-up"


class HasWrongCredentials(RightReceiver):
    async def fresh_token(self) -> str:
        async with self.session.post(f"{self.sandbox.url}/v2.0/oauth2/token", data={"client_id": "me"}):
            return ""


class KeepsDeadToken(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        self.token = self.token or await self.fresh_token()
        self.sandbox.expire_tokens("acme")
        for _ in range(2):
            await self.call("PUT", f"{request_id}/accept/")
            await asyncio.sleep(PAUSE)


class KeepsTokenForever(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        self.sandbox.market.tokens.seconds = 0.0
        self.token = await self.fresh_token()
        await self.call("PUT", f"{request_id}/accept/")


class UsesForeignToken(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        other = self.sandbox.add_receiver("birch")
        token = self.sandbox.market.tokens.give(other, other.client_id, datetime.now(UTC).timestamp())
        await self.call("PUT", f"{request_id}/accept/", token=token)


class ReportsBackwards(RightReceiver):
    async def progress(self, request_id: str) -> None:
        for name in ("on_board", "en_route"):
            state = {"name": name, "timestamp": iso(datetime.now(UTC))}
            await self.call("POST", f"{request_id}/state/", state)


class ReportsWhatIsNotOurs(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        self.token = await self.fresh_token()
        state = {"name": "en_route", "timestamp": iso(datetime.now(UTC))}
        await self.call("POST", f"{request_id}/state/", state)


class NeverReacts(RightReceiver):
    async def act(self, request_id: str) -> None:
        await asyncio.sleep(PAUSE)


class WritesTooMuch(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        self.token = await self.fresh_token()
        await self.call("PUT", f"{request_id}/accept/", {"response_notes": "x" * 451})


class InventsRequests(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        self.token = await self.fresh_token()
        await self.call("PUT", "VC-INVENTED/accept/")


class ForgetsTheSlash(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        self.token = await self.fresh_token()
        await self.call("PUT", f"{request_id}/accept")


class IgnoresRetryAfter(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        self.sandbox.plan("throttle", "accept", seconds=30.0)
        self.token = await self.fresh_token()
        for _ in range(2):
            await self.call("PUT", f"{request_id}/accept/")


class Hammers(RightReceiver):
    async def accept(self, request_id: str, event_id: str) -> None:
        self.sandbox.plan("fail", "accept", times=30)
        self.token = await self.fresh_token()
        for _ in range(30):
            await self.call("PUT", f"{request_id}/accept/")


WRONG: dict[type[RightReceiver], str] = {
    AcceptsTwice: "accepted_twice",
    AcceptsEveryDelivery: "accepted_twice",
    AcceptsWhatIsGone: "acted_on_gone",
    AnswersLate: "late",
    Answers500: "not_2xx",
    TrustsAll: "took_forged",
    HasNoToken: "no_token",
    HasWrongCredentials: "wrong_credentials",
    KeepsDeadToken: "dead_token",
    KeepsTokenForever: "expired_token",
    UsesForeignToken: "acted_unoffered",
    ReportsBackwards: "state_order",
    ReportsWhatIsNotOurs: "progress_not_ours",
    NeverReacts: "never_reacted",
    WritesTooMuch: "bad_body",
    InventsRequests: "unknown_request",
    ForgetsTheSlash: "undocumented_call",
    IgnoresRetryAfter: "retry_after_ignored",
    Hammers: "hammered",
}
"""Each deliberately wrong Receiver, and what it must be accused of."""
