"""The sandbox's own JSON API under /sandbox: what a person does in VectorCare's pages, and the record.

Every answer is JSON. Errors are `{"message": …}` with 400 for a wrong call, 404 for an unknown name, 409 for
what can't be done now. It has no login: the sandbox belongs on loopback, and its patients are invented.
"""

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import orjson
from aiohttp import web

from sandbox import configuration
from sandbox.deeds import DEEDS, receivers_in, word
from sandbox.life import NotAvailable, ServiceRequest
from sandbox.marketplace import Marketplace
from sandbox.organizations import Receiver, SettingRefused
from sandbox.record import to_json
from sandbox.webhooks import Unknown

OPENAPI = resources.files("sandbox").joinpath("openapi.json").read_bytes()

Json = dict[str, Any]
Reply = Callable[[web.Request], Awaitable[Any]]


class WrongCall(Exception):
    """The body of a control call is not as documented; the message says how."""


def request_json(request: ServiceRequest) -> Json:
    """A service request for the JSON API."""
    return {
        "id": request.id,
        "requester": request.requester,
        "stage": request.stage,
        "assigned_to": request.assigned_to,
        "offers": {
            name: {
                "status": offer.status,
                "offered": offer.offered,
                "accepts_taken": offer.accepts_taken,
                "proposed": offer.proposed,
                "change_asked": offer.change_asked,
                "states": list(offer.states),
            }
            for name, offer in request.offers.items()
        },
        "data": dict(request.data),
    }


def receiver_json(receiver: Receiver) -> Json:
    """A Receiver with its settings; the secrets are not among them."""
    return {
        "name": receiver.name,
        "organization_id": receiver.organization_id,
        "client_ids": [c.client_id for c in receiver.credentials],
        "webhooks": [{"id": w.id, "url": w.url, "active": w.active} for w in receiver.webhooks],
        "public_key_pem": receiver.public_key_pem,
        "permissions": sorted(receiver.permissions),
    }


async def body_of(request: web.Request) -> Json:
    """The JSON object that came with a call; none is an empty one. Raises WrongCall."""
    raw = await request.read()
    try:
        value = orjson.loads(raw) if raw.strip() else {}
    except orjson.JSONDecodeError:
        raise WrongCall("the body is not JSON") from None
    if not isinstance(value, dict):
        raise WrongCall("the body is not an object")
    return value


def json_response(value: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


def guarded(reply: Reply, status: int = 200) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Makes a handler of a function that returns a JSON value or raises."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return json_response(await reply(request), status)
        except Unknown as error:
            return json_response({"message": str(error)}, 404)
        except (NotAvailable, SettingRefused) as error:
            return json_response({"message": str(error)}, 409)
        except (WrongCall, ValueError) as error:
            return json_response({"message": str(error)}, 400)

    return handle


def _path(deed: str) -> str:
    """The last part of a deed's path: `change-answer`, and `accept` for accept_by_hand."""
    return deed.removesuffix("_by_hand").replace("_", "-")


class Control:
    """Handlers of the JSON API for requests, Receivers and the record."""

    def __init__(self, market: Marketplace, url: Callable[[], str]) -> None:
        self._market = market
        self._url = url

    def routes(self) -> list[web.RouteDef]:
        """Method, path and handler of every call."""
        one = "/sandbox/requests/{id}"
        receiver = "/sandbox/receivers/{name}"
        return [
            web.get("/sandbox/record", guarded(self._record)),
            web.get("/sandbox/requests", guarded(self._requests)),
            web.post("/sandbox/requests", guarded(self._create, 201)),
            web.get(one, guarded(self._request)),
            web.post("/sandbox/standing-orders", guarded(self._standing_order, 201)),
            web.post(f"{one}/broadcast", guarded(self._broadcast)),
            web.post(f"{one}/return-leg", guarded(self._return_leg)),
            *[web.post(f"{one}/{_path(name)}", guarded(self._deed(name))) for name in DEEDS],
            web.get("/sandbox/receivers", guarded(self._receivers)),
            web.post("/sandbox/receivers", guarded(self._add_receiver, 201)),
            web.get(receiver, guarded(self._receiver)),
            web.put(f"{receiver}/webhook", guarded(self._set_webhook)),
            web.get("/sandbox/configuration", self._configuration),
            web.get("/sandbox/idle", guarded(self._idle)),
            web.get("/sandbox/openapi.json", guarded(self._openapi)),
        ]

    def _asked(self, request: web.Request) -> ServiceRequest:
        return self._market.request(request.match_info["id"])

    def _done(self, request_id: str) -> Json:
        return request_json(self._market.request(request_id))

    async def _record(self, request: web.Request) -> Json:
        """`?since=POSITION`; `next` is the position to go on from."""
        record = self._market.record
        entries = record.since(int(request.query.get("since", "0")))
        return {"next": record.total, "entries": [to_json(e) for e in entries]}

    async def _requests(self, request: web.Request) -> list[Json]:
        return [request_json(r) for r in self._market.requests.values()]

    async def _request(self, request: web.Request) -> Json:
        return request_json(self._asked(request))

    async def _create(self, request: web.Request) -> Json:
        """`{"kind", "data", "lead_minutes", "broadcast_to": [names]}`, all optional."""
        body = await body_of(request)
        kind, data = body.get("kind"), body.get("data", {})
        if kind is not None and kind not in ("bls", "critical_care", "dialysis"):
            raise WrongCall("'kind' is bls, critical_care or dialysis")
        if not isinstance(data, dict):
            raise WrongCall("'data' is not an object")
        to = body.get("broadcast_to", [])
        for name in to:
            self._market.receiver(name)
        request_id = self._market.create_request(kind, data, float(body.get("lead_minutes", 90)))
        if to:
            self._market.broadcast(request_id, to)
        return self._done(request_id)

    async def _standing_order(self, request: web.Request) -> list[str]:
        """`{"times", "every_days"}`: a recurring dialysis round trip; answers the ids."""
        body = await body_of(request)
        return self._market.create_standing_order(int(body.get("times", 3)), float(body.get("every_days", 2)))

    async def _broadcast(self, request: web.Request) -> Json:
        """`{"to": [names]}`."""
        to = word(await body_of(request), "to", list)
        self._market.broadcast(self._asked(request).id, to)
        return request_json(self._asked(request))

    def _deed(self, name: str) -> Reply:
        """The words of `sandbox.deeds` as the body; `change` takes the fields themselves."""

        async def do(request: web.Request) -> Json:
            body = await body_of(request)
            words = {"data": body} if name == "change" else body
            for receiver in receivers_in(words):
                self._market.receiver(receiver)
            step = DEEDS[name](self._asked(request), words, self._market.options)
            self._market.apply(step, name)
            return self._done(step.request.id)

        return do

    async def _return_leg(self, request: web.Request) -> Json:
        """Makes the way back of a round trip."""
        return self._done(self._market.create_return_leg(self._asked(request).id))

    async def _receivers(self, request: web.Request) -> list[Json]:
        return [receiver_json(r) for r in self._market.receivers.values()]

    async def _receiver(self, request: web.Request) -> Json:
        return receiver_json(self._market.receiver(request.match_info["name"]))

    async def _add_receiver(self, request: web.Request) -> Json:
        """`{"name", "webhook"}`. The answer shows the client secret, once."""
        body = await body_of(request)
        name = word(body, "name", str)
        if name in self._market.receivers:
            raise SettingRefused(f"there is a Receiver {name}")
        receiver = self._market.add_receiver(name, body.get("webhook"))
        secret = {"client_id": receiver.client_id, "client_secret": receiver.client_secret}
        return {**receiver_json(receiver), **secret}

    async def _set_webhook(self, request: web.Request) -> Json:
        """`{"url"}`: makes it the one webhook of the Receiver."""
        url = word(await body_of(request), "url", str)
        receiver = self._market.receiver(request.match_info["name"])
        receiver.set_webhook(url)
        return receiver_json(receiver)

    async def _configuration(self, request: web.Request) -> web.Response:
        """What belongs into a receiver.toml, as TOML."""
        text = configuration.fragment(self._url(), self._market.receivers.values())
        return web.Response(text=text, content_type="application/toml")

    async def _openapi(self, request: web.Request) -> Any:
        """The OpenAPI 3.1 description of the API that is played."""
        return orjson.loads(OPENAPI)

    async def _idle(self, request: web.Request) -> Json:
        """Waits up to `?timeout=` seconds (10) until no webhook is on its way."""
        timeout = float(request.query.get("timeout", "10"))
        try:
            await self._market.delivery.idle(timeout)
        except TimeoutError:
            return {"idle": False, "pending": self._market.delivery.pending}
        return {"idle": True, "pending": 0}
