"""The sandbox as one server on loopback, and the Python API to drive it in-process."""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from sandbox import answers, life, state
from sandbox.api import ROOT, TOKEN, OpenApi
from sandbox.control import Control, json_response
from sandbox.delivery import Answer, Delivery
from sandbox.life import ServiceRequest, Step
from sandbox.marketplace import Marketplace
from sandbox.options import Options
from sandbox.organizations import Receiver, Webhook
from sandbox.record import Record, WebhookAttempt
from sandbox.scenario import Scenario
from sandbox.settings import Settings
from sandbox.stage import Outcome, Stage
from sandbox.trouble import Planned, Trouble

__all__ = ["Answer", "Options", "Sandbox"]

MAX_BODY = 4 * 1024 * 1024
SAVE_EVERY = 5.0


class Sandbox:
    """VectorCare's side on this machine. Use it as an async context manager; it stops when left.

    The API is at `{url}/openapi/v2.0`, the token endpoint at `{url}/v2.0/oauth2/token`, the control API at
    `{url}/sandbox/…`.
    """

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._directory = Path(self.options.state) if self.options.state else None
        self.record = self._opened_record()
        self.delivery = Delivery(self.options, self.record)
        self.market = Marketplace(self.options, self.record, self.delivery)
        self._runner: web.AppRunner | None = None
        self._saving: asyncio.TimerHandle | None = None
        self.port = self.options.port

    def _opened_record(self) -> Record:
        if self._directory is None:
            return Record(self.options.keep, self.options.record_path)
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / state.RECORD
        record = Record(self.options.keep, self.options.record_path or str(path))
        if path.exists():
            record.recall(path)
        return record

    def save(self) -> None:
        """Writes the state directory, if there is one."""
        if self._directory:
            state.save(self.market, self._directory)

    def _save_again(self) -> None:
        self.save()
        self._saving = asyncio.get_running_loop().call_later(SAVE_EVERY, self._save_again)

    async def __aenter__(self) -> Self:
        if self._directory:
            state.load(self.market, self._directory)
            self._saving = asyncio.get_running_loop().call_later(SAVE_EVERY, self._save_again)
        api = OpenApi(self.market)
        app = web.Application(middlewares=[_documented_errors(api)], client_max_size=MAX_BODY)
        app.add_routes(api.routes())
        app.add_routes(Control(self.market, lambda: self.url).routes())
        self._settings = Settings(self.market)
        app.add_routes(self._settings.routes())
        await self.delivery.open()
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.options.host, self.options.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saving:
            self._saving.cancel()
        await self._settings.close()
        await self.delivery.close()
        if self._runner:
            await self._runner.cleanup()
        self.save()
        self.record.close()

    @property
    def url(self) -> str:
        """Where the server listens, without a slash at the end."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"http://{host}:{self.port}"

    @property
    def requests(self) -> Mapping[str, ServiceRequest]:
        """The service requests as they are now, by id."""
        return self.market.requests

    @property
    def receivers(self) -> Mapping[str, Receiver]:
        """The Receivers by name."""
        return self.market.receivers

    # Settings

    def add_receiver(self, name: str, webhook: str | None = None) -> Receiver:
        """A transport provider with credentials, its own RSA key (see `one_key`) and perhaps a webhook."""
        return self.market.add_receiver(name, webhook)

    def set_webhook(self, receiver: str, url: str) -> Webhook:
        """Makes `url` the Receiver's one webhook."""
        return self.market.receiver(receiver).set_webhook(url)

    # The Requester's side

    def create_request(
        self,
        kind: str | None = None,
        data: Mapping[str, Any] | None = None,
        lead_minutes: float = 90.0,
    ) -> str:
        """A service request of that kind (bls, critical_care, dialysis; None: by chance); returns its id."""
        return self.market.create_request(kind, data, lead_minutes)

    def create_return_leg(self, request_id: str, after_minutes: float = 240.0) -> str:
        """The way back of a round trip; returns its id."""
        return self.market.create_return_leg(request_id, after_minutes)

    def create_standing_order(self, times: int = 3, every_days: float = 2.0) -> list[str]:
        """A recurring dialysis round trip: both legs on each day; returns the ids in the order of their days."""
        return self.market.create_standing_order(times, every_days)

    async def broadcast(self, request_id: str, to: Iterable[str]) -> None:
        """Offers the request to these Receivers; does not wait for the webhooks."""
        self.market.broadcast(request_id, to)

    def competitor_accepts(self, request_id: str) -> None:
        """A provider outside this sandbox is faster."""
        self._do(life.competitor_accepts(self._request(request_id), self.options), "competitor")

    def cancel(self, request_id: str) -> None:
        """The Requester cancels."""
        self._do(life.cancel(self._request(request_id)), "cancel")

    def withdraw(self, request_id: str, receivers: Iterable[str]) -> None:
        """The Requester takes the offer, or the trip, back from these Receivers."""
        self._do(life.withdraw(self._request(request_id), receivers), "withdraw")

    def assign(self, request_id: str, receiver: str) -> None:
        """The Requester assigns the request directly."""
        name = self.market.receiver(receiver).name
        self._do(life.assign(self._request(request_id), name, self.options), "assign")

    def expire(self, request_id: str) -> None:
        """All open offers of the request expire now."""
        self._do(life.expire(self._request(request_id)), "expire")

    def complete(self, request_id: str) -> None:
        """The Requester marks the trip complete."""
        self._do(life.complete(self._request(request_id), self.options), "complete")

    def change_data(self, request_id: str, changes: Mapping[str, Any]) -> None:
        """The Requester edits fields of `data`."""
        self._do(life.change_data(self._request(request_id), changes, self.options), "change")

    def answer_proposal(self, request_id: str, receiver: str, answer: str, counter: str | None = None) -> None:
        """The Requester answers a best time: `accepted`, `declined` or `countered` with a time."""
        request = self._request(request_id)
        step = life.answer_proposal(request, receiver, self.options, answer=answer, counter=counter)
        self._do(step, "proposal")

    def answer_change(self, request_id: str, receiver: str, *, accepted: bool) -> None:
        """The Requester answers a change request."""
        step = life.answer_change(self._request(request_id), receiver, accepted=accepted)
        self._do(step, "change_answer")

    def accept_by_hand(self, request_id: str, receiver: str) -> None:
        """A person of the Receiver accepts in VectorCare's own interface."""
        self._do(life.accept(self._request(request_id), receiver, self.options), "accept_by_hand")

    def decline_by_hand(self, request_id: str, receiver: str) -> None:
        """A person of the Receiver declines in VectorCare's own interface."""
        self._do(life.decline(self._request(request_id), receiver), "decline_by_hand")

    def _request(self, request_id: str) -> ServiceRequest:
        return self.market.request(request_id)

    def _do(self, step: Step, deed: str) -> None:
        self.market.apply(step, deed)

    # Trouble

    def set_trouble(self, trouble: Trouble, receiver: str = "") -> None:
        """From now on, for one Receiver or for all that have none of their own."""
        self.market.trouble.set(trouble, receiver)

    def plan(self, what: str, match: str = "", receiver: str = "", **more: Any) -> None:
        """Trouble for the next webhook or call that fits; `more`: other fields of `Planned`."""
        self.market.trouble.plan(Planned(what, match, receiver, **more))

    def rotate_key(self, receiver: str) -> str:
        """Signs with another key from now on; returns its public PEM."""
        return self.market.rotate_key(receiver)

    def expire_tokens(self, receiver: str) -> None:
        """The Receiver's tokens are dead before their time."""
        self.market.expire_tokens(receiver)

    async def play(self, scenario: Scenario, pace: float = 1.0) -> list[Outcome]:
        """Plays a scenario with the Receivers that are there; see `sandbox.scenario`."""
        return await Stage(self.market, pace).play(scenario)

    # By hand

    def history(self, receiver: str) -> list[WebhookAttempt]:
        """The Webhook Call History of a Receiver, oldest first."""
        return self.market.webhooks.history(receiver)

    async def redeliver(self, attempt_id: str) -> Answer:
        """Presses Redeliver: the same bytes once more."""
        row = self.market.webhooks.attempt(attempt_id)
        return await self.market.webhooks.redelivered(row, self.market.receiver(row.receiver))

    def sign(self, receiver: str, body: bytes) -> str:
        """The signature that VectorCare would put on these bytes for that Receiver."""
        return self.market.receiver(receiver).key.sign(body)

    async def send(self, receiver: str, body: bytes, signature: str = "right", url: str | None = None) -> Answer:
        """Posts any bytes once, to the Receiver's first webhook or to `url`.

        `signature`: `right`, `missing`, or the header's value.
        """
        return await self.market.webhooks.send(self.market.receiver(receiver), body, signature, url)

    async def idle(self, timeout: float = 10.0) -> None:
        """Until no webhook is on its way or waits for its next attempt. Raises TimeoutError."""
        await self.delivery.idle(timeout)


def _documented_errors(api: OpenApi) -> Any:
    """Turns 404 and 405 under the API's paths into VectorCare's error bodies."""

    @web.middleware
    async def answer_documented(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except web.HTTPException as error:
            if not request.path.startswith((ROOT, TOKEN)):
                return json_response({"message": error.reason}, error.status)
            known = {404: answers.NOT_FOUND, 405: answers.METHOD_NOT_ALLOWED}
            response = await api.elsewhere(request, known.get(error.status, answers.BAD_REQUEST))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        return response

    return answer_documented
