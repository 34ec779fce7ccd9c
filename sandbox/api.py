"""The Open API 2.0 and the token endpoint over HTTP, on the documented paths; every call is recorded."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from sandbox import answers, life
from sandbox.answers import ApiAnswer, BodyRefused
from sandbox.life import NotAvailable
from sandbox.marketplace import Marketplace
from sandbox.organizations import PERMISSIONS, Receiver
from sandbox.record import ApiCall
from sandbox.tokens import Identity, client
from sandbox.trouble import Hindrance

ROOT = "/openapi/v2.0"
TOKEN = "/v2.0/oauth2/token"  # noqa: S105 - a path

INVALID_CLIENT = ApiAnswer(
    401,
    {"error": "invalid_client", "error_description": "Client authentication failed."},
    "invalid_client",
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Action = Callable[[Marketplace, Receiver, str, bytes], ApiAnswer]


def _accept(market: Marketplace, receiver: Receiver, request_id: str, body: bytes) -> ApiAnswer:
    request = market.request(request_id)
    step = life.accept(request, receiver.name, market.options)
    echoed = answers.notes(body)
    market.apply(step)
    return ApiAnswer(201, echoed)


def _decline(market: Marketplace, receiver: Receiver, request_id: str, body: bytes) -> ApiAnswer:
    step = life.decline(market.request(request_id), receiver.name)
    answers.notes(body)
    market.apply(step)
    return ApiAnswer(201, {})


def _best_time(market: Marketplace, receiver: Receiver, request_id: str, body: bytes) -> ApiAnswer:
    request = market.request(request_id)
    life.decline(request, receiver.name)  # whatever can be declined can be answered with a time
    market.apply(life.propose(request, receiver.name, answers.proposed_time(body)))
    return ApiAnswer(201, {})


def _change_request(market: Marketplace, receiver: Receiver, request_id: str, body: bytes) -> ApiAnswer:
    request = market.request(request_id)
    if request.status_for(receiver.name) is None:
        raise NotAvailable(request_id)
    market.apply(life.ask_change(request, receiver.name, answers.asked_change(body)))
    return ApiAnswer(200, {})


def _state(market: Marketplace, receiver: Receiver, request_id: str, body: bytes) -> ApiAnswer:
    request = market.request(request_id)
    offer = life.trip_of(request, receiver.name)
    reported = answers.state(body, datetime.now(UTC))
    name = str(reported["name"])
    if market.options.strict_states and life.goes_back(offer.states, name):
        return answers.out_of_order(name)
    market.apply(life.report_state(request, receiver.name, name, market.options))
    return ApiAnswer(201, reported)


def _locations(market: Marketplace, receiver: Receiver, request_id: str, body: bytes) -> ApiAnswer:
    life.trip_of(market.request(request_id), receiver.name)
    answers.locations(body)
    return ApiAnswer(200, {})


ACTIONS: dict[str, tuple[str, str, Action]] = {
    "accept": ("PUT", "accept", _accept),
    "decline": ("PUT", "decline", _decline),
    "best_time": ("PUT", "best-time", _best_time),
    "change_request": ("POST", "change-request", _change_request),
    "state": ("POST", "state", _state),
    "locations": ("POST", "locations", _locations),
}
"""Call name: method, last part of the path, what it does."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A call as it came in. `body` stays empty for the token endpoint: its form holds a secret."""

    request: web.Request
    call: str
    at: float
    identity: Identity
    body: bytes = b""
    form: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def request_id(self) -> str:
        """The service request that the path names."""
        return self.request.match_info.get("request_id", "")


class OpenApi:
    """The HTTP side of the API: authentication, answers, the record."""

    def __init__(self, market: Marketplace) -> None:
        self._market = market

    def routes(self) -> list[web.RouteDef]:
        """Routes with the documented paths. Whatever else lies under ROOT is answered by `elsewhere`."""
        table = [
            web.route(method, f"{ROOT}/requests/{{request_id}}/{last}/", self._handler(call, action))
            for call, (method, last, action) in ACTIONS.items()
        ]
        create = web.post(f"{ROOT}/requests/service/{{service_id}}/", self._create)
        return [*table, create, web.post(TOKEN, self._token)]

    async def _arrival(self, request: web.Request, call: str) -> _Arrival:
        at = time.time()
        identity = self._market.tokens.identify(request.headers.get("Authorization"), at)
        return _Arrival(request, call, at, identity, await request.read())

    def _handler(self, call: str, action: Action) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            arrival = await self._arrival(request, call)
            return await self._serve(arrival, lambda: self._answer(arrival, action))

        return handle

    def _answer(self, arrival: _Arrival, action: Action) -> ApiAnswer:
        receiver = arrival.identity.organization
        if refused := _refused(arrival.identity):
            return refused
        if not isinstance(receiver, Receiver):
            return answers.FORBIDDEN
        if arrival.request_id not in self._market.requests:
            return answers.NOT_FOUND
        try:
            return action(self._market, receiver, arrival.request_id, arrival.body)
        except NotAvailable:
            return answers.FORBIDDEN
        except BodyRefused as refusal:
            return refusal.answer

    async def _create(self, request: web.Request) -> web.StreamResponse:
        arrival = await self._arrival(request, "create")
        return await self._serve(arrival, lambda: self._created(arrival.identity, arrival.body))

    def _created(self, identity: Identity, body: bytes) -> ApiAnswer:
        """Each service has a schema of its own; here it is any object, whose `data` is merged over a trip."""
        if refused := _refused(identity):
            return refused
        if isinstance(identity.organization, Receiver):
            return answers.FORBIDDEN
        try:
            value = answers.read_object(body)
            data = value.get("data") or {}
            answers.refuse({} if isinstance(data, dict) else {"data": answers.problem("api:bad_request")})
        except BodyRefused as refusal:
            return refusal.answer
        request_id = self._market.create_request(data=data, requester=identity.name)
        url = self._market.request(request_id).data["service_request_web_url"]
        return ApiAnswer(201, {"service_request_id": request_id, "service_request_web_url": url})

    async def _token(self, request: web.Request) -> web.StreamResponse:
        at = time.time()
        try:
            form = {n: v for n, v in (await request.post()).items() if isinstance(v, str)}
        except (ValueError, HttpProcessingError):  # no form at all
            form = {}
        known = self._market.organizations()
        organization = client(known, form.get("client_id", ""), form.get("client_secret", ""))
        arrival = _Arrival(request, "token", at, Identity("none", organization), form=form)
        return await self._serve(arrival, lambda: self._given(arrival))

    def _given(self, arrival: _Arrival) -> ApiAnswer:
        organization = arrival.identity.organization
        if organization is None:
            return INVALID_CLIENT
        if arrival.form.get("grant_type") != "client_credentials":
            return ApiAnswer(400, {"error": "unsupported_grant_type"}, "unsupported_grant_type")
        tokens = self._market.tokens
        token = tokens.give(organization, arrival.form["client_id"], time.time())
        value = {"access_token": token, "token_type": "bearer", "expires_in": int(tokens.seconds)}
        return ApiAnswer(200, value)

    async def _serve(self, arrival: _Arrival, work: Callable[[], ApiAnswer]) -> web.StreamResponse:
        """Does the work, unless trouble comes before it, and answers, unless trouble comes after it."""
        name = arrival.identity.name
        trouble = self._market.trouble.for_call(name, arrival.request_id, arrival.call)
        if trouble.seconds:
            await asyncio.sleep(trouble.seconds)
        answer = _instead(trouble, arrival) or work()
        effect = answer.status < 300
        if trouble.what == "refuse_token" and arrival.identity.organization:
            self._market.tokens.expire(arrival.identity.organization)
        if trouble.what == "fail_after":
            answer = failure_of(trouble.status)
        cut = trouble.what in ("drop_before", "drop_after")
        heard = not cut and _is_listening(arrival.request)
        self._note(arrival, answer, trouble.what, effect=effect, answered=heard)
        if cut and arrival.request.transport:
            arrival.request.transport.abort()
        return respond(answer)

    def _note(self, arrival: _Arrival, answer: ApiAnswer, trouble: str | None, *, effect: bool, answered: bool) -> None:
        self._market.record.append(
            ApiCall(
                at=arrival.at,
                receiver=arrival.identity.name,
                method=arrival.request.method,
                path=arrival.request.path,
                call=arrival.call,
                request_id=arrival.request_id,
                answer_status=answer.status,
                error_code=answer.code,
                seconds=time.time() - arrival.at,
                token=arrival.identity.token,
                took_effect=effect,
                answered=answered,
                trouble=trouble,
                body=arrival.body,
                token_mark=arrival.identity.mark,
                retry_after=float(after) if (after := answer.headers.get("Retry-After")) else None,
            )
        )

    async def elsewhere(self, request: web.Request, answer: ApiAnswer) -> web.StreamResponse:
        """A call to no documented path, or with the wrong method: recorded as `unknown`."""
        identity = self._market.tokens.identify(request.headers.get("Authorization"), time.time())
        arrival = _Arrival(request, "unknown", time.time(), identity)
        self._note(arrival, answer, None, effect=False, answered=True)
        return respond(answer)


def _is_listening(request: web.Request) -> bool:
    """Whether the caller has not given up meanwhile: then it hears no answer, and can't be held to it."""
    return request.transport is not None and not request.transport.is_closing()


def _refused(identity: Identity) -> ApiAnswer | None:
    if identity.token == "none":  # noqa: S105 - a kind of token
        return answers.UNAUTHENTICATED
    if identity.token != "good":  # noqa: S105 - a kind of token
        return answers.AUTHENTICATION_FAILED
    organization = identity.organization
    if isinstance(organization, Receiver) and PERMISSIONS[0] not in organization.permissions:
        return answers.FORBIDDEN
    return None


def failure_of(status: int) -> ApiAnswer:
    """A 5xx; the guide names no body for it but the code of an unknown error."""
    return ApiAnswer(status, answers.UNKNOWN_ERROR.value, answers.UNKNOWN_ERROR.code)


def _instead(trouble: Hindrance, arrival: _Arrival) -> ApiAnswer | None:
    """The answer of a call that is kept from its work."""
    if trouble.what == "throttle":
        after = {} if trouble.retry_after is None else {"Retry-After": f"{trouble.retry_after:g}"}
        return ApiAnswer(429, answers.THROTTLED.value, answers.THROTTLED.code, after)
    if trouble.what == "refuse_token":
        return INVALID_CLIENT if arrival.call == "token" else answers.AUTHENTICATION_FAILED
    return failure_of(trouble.status) if trouble.what in ("fail", "drop_before") else None


def respond(answer: ApiAnswer) -> web.Response:
    """The HTTP response."""
    return web.Response(
        status=answer.status,
        body=orjson.dumps(answer.value),
        content_type="application/json",
        headers=answer.headers or None,
    )
