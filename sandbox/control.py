"""The sandbox's own JSON API under /sandbox: what a person does in VectorCare's pages, and the record.

Every answer is JSON. Errors are `{"message": …}` with 400 for a wrong call, 404 for an unknown name, 409 for
what can't be done now. It has no login: the sandbox belongs on loopback, and its patients are invented.
"""

from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any

import orjson
from aiohttp import web

from sandbox import configuration, life
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


def wanted(body: Mapping[str, Any], name: str, kind: type[Any] | tuple[type[Any], ...]) -> Any:
    """A field that a call needs. Raises WrongCall."""
    if not isinstance(body.get(name), kind):
        raise WrongCall(f"{name!r} is missing or of another type")
    return body[name]


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


class Control:
    """Handlers of the JSON API for requests, Receivers and the record."""

    def __init__(self, market: Marketplace, url: Callable[[], str]) -> None:
        self._market = market
        self._url = url

    def routes(self) -> list[web.RouteDef]:
        """Method, path and handler of every call."""
        one = "/sandbox/requests/{id}"
        receiver = "/sandbox/receivers/{name}"
        deeds = {
            "broadcast": self._broadcast,
            "competitor": self._competitor,
            "cancel": self._cancel,
            "withdraw": self._withdraw,
            "assign": self._assign,
            "expire": self._expire,
            "complete": self._complete,
            "change": self._change,
            "proposal": self._proposal,
            "change-answer": self._change_answer,
            "accept": self._accept,
            "decline": self._decline,
            "return-leg": self._return_leg,
        }
        return [
            web.get("/sandbox/record", guarded(self._record)),
            web.get("/sandbox/requests", guarded(self._requests)),
            web.post("/sandbox/requests", guarded(self._create, 201)),
            web.get(one, guarded(self._request)),
            web.post("/sandbox/standing-orders", guarded(self._standing_order, 201)),
            *[web.post(f"{one}/{name}", guarded(deed)) for name, deed in deeds.items()],
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

    def _do(self, step: life.Step, deed: str) -> Json:
        self._market.apply(step, deed)
        return self._done(step.request.id)

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
        to = wanted(await body_of(request), "to", list)
        self._market.broadcast(self._asked(request).id, to)
        return request_json(self._asked(request))

    async def _competitor(self, request: web.Request) -> Json:
        step = life.competitor_accepts(self._asked(request), self._market.options)
        return self._do(step, "competitor_accepts")

    async def _cancel(self, request: web.Request) -> Json:
        return self._do(life.cancel(self._asked(request)), "cancel")

    async def _withdraw(self, request: web.Request) -> Json:
        """`{"from": [names]}`."""
        names = wanted(await body_of(request), "from", list)
        return self._do(life.withdraw(self._asked(request), names), "withdraw")

    async def _assign(self, request: web.Request) -> Json:
        """`{"to": name}`."""
        name = wanted(await body_of(request), "to", str)
        self._market.receiver(name)
        return self._do(life.assign(self._asked(request), name, self._market.options), "assign")

    async def _expire(self, request: web.Request) -> Json:
        return self._do(life.expire(self._asked(request)), "expire")

    async def _complete(self, request: web.Request) -> Json:
        return self._do(life.complete(self._asked(request), self._market.options), "complete")

    async def _change(self, request: web.Request) -> Json:
        """The fields of `data` to change."""
        changes = await body_of(request)
        return self._do(life.change_data(self._asked(request), changes, self._market.options), "change_data")

    async def _proposal(self, request: web.Request) -> Json:
        """`{"receiver", "answer": "accepted" | "declined" | "countered", "time"}`."""
        body = await body_of(request)
        name, answer = wanted(body, "receiver", str), wanted(body, "answer", str)
        step = life.answer_proposal(
            self._asked(request), name, self._market.options, answer=answer, counter=body.get("time")
        )
        return self._do(step, f"proposal_{answer}")

    async def _change_answer(self, request: web.Request) -> Json:
        """`{"receiver", "accepted": bool}`."""
        body = await body_of(request)
        name, accepted = wanted(body, "receiver", str), wanted(body, "accepted", bool)
        step = life.answer_change(self._asked(request), name, accepted=accepted)
        return self._do(step, "change_accepted" if accepted else "change_declined")

    async def _accept(self, request: web.Request) -> Json:
        """`{"receiver"}`: a person accepts in VectorCare's own interface."""
        name = wanted(await body_of(request), "receiver", str)
        return self._do(life.accept(self._asked(request), name, self._market.options), "accept_by_hand")

    async def _decline(self, request: web.Request) -> Json:
        """`{"receiver"}`: a person declines in VectorCare's own interface."""
        name = wanted(await body_of(request), "receiver", str)
        return self._do(life.decline(self._asked(request), name), "decline_by_hand")

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
        name = wanted(body, "name", str)
        if name in self._market.receivers:
            raise SettingRefused(f"there is a Receiver {name}")
        receiver = self._market.add_receiver(name, body.get("webhook"))
        secret = {"client_id": receiver.client_id, "client_secret": receiver.client_secret}
        return {**receiver_json(receiver), **secret}

    async def _set_webhook(self, request: web.Request) -> Json:
        """`{"url"}`: makes it the one webhook of the Receiver."""
        url = wanted(await body_of(request), "url", str)
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
