"""The API client against a real HTTP server that answers by script: each answer by name, each call sent once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate

import pytest
from aiohttp import web

from shared.settings import Limits
from tests.processes import free_port
from tests.webhooks import public_key
from worker import calls
from worker.assignment import Answer, Answered, Call, Mode
from worker.calls import answer_offer
from worker.customers import Customer
from worker.policy import NO_POLICY
from worker.vectorcare import VectorCare

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Api:
    """A played API: `answers` are given to the calls in turn, the last one for ever."""

    answers: list[Script] = field(default_factory=list)
    calls: list[tuple[str, str, bytes]] = field(default_factory=list)
    tokens: list[dict[str, str]] = field(default_factory=list)
    token_answer: Script | None = None
    lifetime: float = 3600.0
    port: int = 0

    async def call(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((f"{request.method} {request.path}", request.headers["Authorization"], await request.read()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)

    async def token(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append({name: str(value) for name, value in (await request.post()).items()})
        if self.token_answer is not None:
            return await self.token_answer(request)
        return web.json_response({"access_token": f"token-{len(self.tokens)}", "expires_in": self.lifetime})

    async def stolen(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"access_token": "stolen", "expires_in": 3600})


def answer(status: int, body: object = None, **headers: str) -> Script:
    async def script(_: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status, headers=headers)

    return script


async def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection instead of answering."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    each = Api([answer(201, {})])
    app = web.Application()
    app.add_routes(
        [
            web.put("/api/{path:.*}", each.call),
            web.post("/api/{path:.*}", each.call),
            web.post("/token", each.token),
            web.post("/stolen", each.stolen),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    each.port = runner.addresses[0][1]
    yield each
    await runner.cleanup()


def customer(api: Api, api_port: int | None = None) -> Customer:
    """The customer acme at this API; its calls may go to another port than its tokens come from."""
    return Customer(
        "acme",
        "custom",
        (public_key("acme"),),
        frozenset(),
        f"http://127.0.0.1:{api_port or api.port}/api",
        f"http://127.0.0.1:{api.port}/token",
        "id",
        "the-secret",
        NO_POLICY,
        Mode.AUTOMATIC,
        Limits(),
    )


@contextlib.asynccontextmanager
async def client(mine: Customer, seconds: float = 5.0) -> AsyncIterator[Callable[..., Awaitable[Answer]]]:
    async with VectorCare({"acme": mine}, seconds) as vectorcare:

        async def call(what: Call = Call.ACCEPT, notes: str | None = None, request: str = "VC-1") -> Answer:
            return await vectorcare.send(mine, request, answer_offer(what, notes, None))

        yield call


async def test_accept_and_decline_are_the_documented_calls(api: Api) -> None:
    async with client(customer(api)) as call:
        assert (await call(notes="Gladly.")).kind is Answered.TAKEN
        assert (await call(Call.DECLINE)).kind is Answered.TAKEN
    assert api.calls == [
        ("PUT /api/requests/VC-1/accept/", "Bearer token-1", b'{"response_notes":"Gladly."}'),
        ("PUT /api/requests/VC-1/decline/", "Bearer token-1", b"{}"),
    ]
    assert api.tokens == [{"client_id": "id", "client_secret": "the-secret", "grant_type": "client_credentials"}]


async def test_what_is_reported_and_asked_for_are_the_documented_calls(api: Api) -> None:
    api.answers = [answer(201, {}), answer(200, {}), answer(201, {}), answer(200, {})]
    mine = customer(api)
    point = {"lat": 37.9, "lng": -122.5, "timestamp": 1769636886.0}
    async with VectorCare({"acme": mine}, 5.0) as vectorcare:
        for each in (
            calls.propose("2026-11-23T19:00:00.000Z"),
            calls.request_change("2026-11-23T19:30:00.000Z", "Traffic"),
            calls.report_state("en_route", "2026-11-23T17:30:00.000Z"),
            calls.report_locations([point]),
        ):
            assert (await vectorcare.send(mine, "VC-1", each)).kind is Answered.TAKEN
    assert [(line, body) for line, _, body in api.calls] == [
        ("PUT /api/requests/VC-1/best-time/", b'{"proposed_agreed_dt":"2026-11-23T19:00:00.000Z"}'),
        (
            "POST /api/requests/VC-1/change-request/",
            b'{"agreed_dt":"2026-11-23T19:30:00.000Z","change_reason":"Traffic"}',
        ),
        ("POST /api/requests/VC-1/state/", b'{"name":"en_route","timestamp":"2026-11-23T17:30:00.000Z"}'),
        ("POST /api/requests/VC-1/locations/", b'[{"lat":37.9,"lng":-122.5,"timestamp":1769636886.0}]'),
    ]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(answer(201, {"response_notes": "x"}), Answer(Answered.TAKEN, 201), id="201"),
        pytest.param(
            answer(400, {"response_notes": [{"message": "long", "code": "common:max_length"}]}),
            Answer(Answered.INVALID, 400, "common:max_length"),
            id="400",
        ),
        pytest.param(
            answer(400, [{}, {"lat": [{"message": "missing", "code": "common:required"}]}]),
            Answer(Answered.INVALID, 400, "common:required"),
            id="400 to a list",
        ),
        pytest.param(
            answer(403, {"message": "no", "code": "members:permission_denied"}),
            Answer(Answered.GONE, 403, "members:permission_denied"),
            id="403",
        ),
        pytest.param(
            answer(403, {"message": "no", "code": "public_api:public_api_not_enabled"}),
            Answer(Answered.NOT_PERMITTED, 403, "public_api:public_api_not_enabled"),
            id="403, not permitted",
        ),
        pytest.param(answer(404, {"code": "api:not_found"}), Answer(Answered.GONE, 404, "api:not_found"), id="404"),
        pytest.param(answer(429, {}, **{"Retry-After": "7"}), Answer(Answered.THROTTLED, 429, None, 7.0), id="429"),
        pytest.param(answer(429), Answer(Answered.THROTTLED, 429), id="429 without Retry-After"),
        pytest.param(answer(429, {}, **{"Retry-After": "soon"}), Answer(Answered.THROTTLED, 429), id="429, a word"),
        pytest.param(
            answer(500, {"code": "api:unknown_error"}), Answer(Answered.UNKNOWN, 500, "api:unknown_error"), id="500"
        ),
        pytest.param(answer(503), Answer(Answered.UNKNOWN, 503), id="503"),
        pytest.param(answer(302, {}, Location="/stolen"), Answer(Answered.UNKNOWN, 302), id="a redirect, not followed"),
        pytest.param(answer(418, {"code": "Mrs Canary, 7"}), Answer(Answered.UNKNOWN, 418), id="a code that is none"),
        pytest.param(drop, Answer(Answered.UNKNOWN), id="dropped without an answer"),
        pytest.param(hang, Answer(Answered.UNKNOWN), id="no answer in time"),
    ],
)
async def test_each_answer_has_its_meaning(api: Api, script: Script, expected: Answer) -> None:
    api.answers = [script]
    async with client(customer(api), 0.5) as call:
        assert await call() == expected
    assert len(api.calls) == 1
    assert len(api.tokens) == 1


async def test_retry_after_may_be_a_date(api: Api) -> None:
    api.answers = [answer(429, {}, **{"Retry-After": formatdate(time.time() + 30, usegmt=True)})]
    async with client(customer(api)) as call:
        assert 25 < (await call()).retry_after <= 30


def in_pieces(status: int, *pieces: bytes, then_hang: bool = False) -> Script:
    """An answer whose body comes in pieces, or never whole."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.05)
        if then_hang:
            await asyncio.Event().wait()
        return response

    return script


async def test_answers_that_come_in_pieces_are_read_whole(api: Api) -> None:
    api.token_answer = in_pieces(200, b'{"access_token": "tok', b'en", "expires_in": 3600}')
    api.answers = [in_pieces(403, b'{"message": "no", "code": ', b'"public_api:public_api_not_enabled"}')]
    async with client(customer(api)) as call:
        assert (await call()).kind is Answered.NOT_PERMITTED


async def test_a_yes_is_a_yes_although_its_body_never_ends(api: Api) -> None:
    api.answers = [in_pieces(201, b"{", then_hang=True)]
    async with client(customer(api)) as call:
        assert (await call()).kind is Answered.TAKEN


async def test_a_throttled_customer_makes_no_call_until_it_may(api: Api) -> None:
    api.answers = [answer(429, {}, **{"Retry-After": "1"}), answer(201, {})]
    async with client(customer(api)) as call:
        assert (await call()).kind is Answered.THROTTLED
        told = await call(request="VC-2")
        assert told.kind is Answered.THROTTLED
        assert 0 < told.retry_after <= 1
        assert len(api.calls) == 1
        await asyncio.sleep(told.retry_after)
        assert (await call()).kind is Answered.TAKEN


async def test_a_call_whose_kept_connection_breaks_is_never_sent_again(api: Api) -> None:
    api.answers = [answer(201, {}), drop, answer(403, {"code": "members:permission_denied"})]
    async with client(customer(api)) as call:
        assert (await call()).kind is Answered.TAKEN
        assert (await call()).kind is Answered.UNKNOWN
    assert len(api.calls) == 2


async def test_a_connection_that_cannot_be_made_is_known_to_be_not_sent(api: Api) -> None:
    async with client(customer(api, free_port())) as call:
        assert (await call()).kind is Answered.NOT_SENT


async def test_a_401_is_answered_once_with_a_fresh_token(api: Api) -> None:
    api.answers = [answer(401, {"code": "members:authentication_failed"}), answer(201, {})]
    async with client(customer(api)) as call:
        assert (await call()).kind is Answered.TAKEN
        assert [bearer for _, bearer, _ in api.calls] == ["Bearer token-1", "Bearer token-2"]
        api.answers = [answer(401, {})]
        assert (await call()).kind is Answered.NO_TOKEN
        assert len(api.calls) == 4


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(answer(401, {"error": "invalid_client"}), id="refused"),
        pytest.param(answer(200, {"token": "x"}), id="no access_token"),
        pytest.param(answer(200, {"access_token": "a\r\nb"}), id="a line break in it"),
        pytest.param(answer(307, {}, Location="/stolen"), id="a redirect, which would take the secret along"),
        pytest.param(answer(500), id="500"),
        pytest.param(drop, id="dropped"),
        pytest.param(hang, id="no answer in time"),
    ],
)
async def test_without_a_token_no_call_is_made(api: Api, script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    api.token_answer = script
    async with client(customer(api), 0.5) as call:
        assert (await call()).kind is Answered.NO_TOKEN
    assert api.calls == []
    assert "the-secret" not in capsys.readouterr().err


async def test_many_waiters_share_one_renewal(api: Api) -> None:
    async with client(customer(api)) as call:
        await asyncio.gather(*(call() for _ in range(50)))
    assert len(api.tokens) == 1


async def test_a_token_is_renewed_behind_the_calls_at_four_fifths_of_its_life(api: Api) -> None:
    api.lifetime = 1.0
    async with client(customer(api)) as call:
        await call()
        async with asyncio.timeout(5):
            while len(api.tokens) < 3:
                assert (await call()).kind is Answered.TAKEN
                await asyncio.sleep(0.02)
    bearers = [bearer for _, bearer, _ in api.calls]
    assert bearers == sorted(bearers)


async def test_no_cookie_travels_from_one_call_to_the_next(api: Api) -> None:
    seen: list[str | None] = []

    async def sets_a_cookie(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Cookie"))
        return web.json_response({}, status=201, headers={"Set-Cookie": "session=acme"})

    api.answers = [sets_a_cookie]
    async with client(customer(api)) as call:
        await call()
        await call()
    assert seen == [None, None]
