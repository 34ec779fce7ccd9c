"""The JSON API for a Receiver's settings, its Webhook Call History, trouble and load."""

import asyncio
from dataclasses import asdict
from typing import Any

from aiohttp import web

from sandbox.control import Json, WrongCall, body_of, guarded, receiver_json, request_json
from sandbox.deeds import word
from sandbox.load import Load, Wanted
from sandbox.marketplace import Marketplace
from sandbox.organizations import PERMISSIONS, Receiver, SettingRefused
from sandbox.record import WebhookAttempt
from sandbox.scenario import WrongScenario, parse
from sandbox.stage import Stage
from sandbox.trips import iso_at
from sandbox.trouble import Planned, Trouble


def history_json(row: WebhookAttempt) -> Json:
    """A row with the columns of VectorCare's page, and the error where no response code came."""
    return {
        "id": row.id,
        "request_id": row.request_id,
        "webhook_id": row.webhook_id,
        "response_code": row.response_code,
        "error": row.error,
        "event_type": row.action,
        "created": iso_at(row.at),
        "data": row.body.decode("utf-8", "replace"),
    }


class Settings:
    """Handlers for what stands under Settings > Open API of a Receiver, and for trouble."""

    def __init__(self, market: Marketplace) -> None:
        self._market = market
        self._load: Load | None = None
        self._running: asyncio.Task[None] | None = None

    def routes(self) -> list[web.RouteDef]:
        """Method, path and handler of every call."""
        one = "/sandbox/receivers/{name}"
        return [
            web.post(f"{one}/credentials", guarded(self._add_credential, 201)),
            web.delete(f"{one}/credentials/{{client_id}}", guarded(self._delete_credential)),
            web.post(f"{one}/webhooks", guarded(self._add_webhook, 201)),
            web.put(f"{one}/webhooks/{{webhook_id}}", guarded(self._change_webhook)),
            web.delete(f"{one}/webhooks/{{webhook_id}}", guarded(self._delete_webhook)),
            web.put(f"{one}/permissions", guarded(self._permissions)),
            web.post(f"{one}/announce-key", guarded(self._announce_key)),
            web.post(f"{one}/rotate-key", guarded(self._rotate_key)),
            web.post(f"{one}/expire-tokens", guarded(self._expire_tokens)),
            web.post(f"{one}/send", guarded(self._send)),
            web.get(f"{one}/requests", guarded(self._requests)),
            web.get(f"{one}/history", guarded(self._history)),
            web.post("/sandbox/history/{id}/redeliver", guarded(self._redeliver)),
            web.get("/sandbox/trouble", guarded(self._trouble)),
            web.put("/sandbox/trouble", guarded(self._set_trouble)),
            web.post("/sandbox/trouble/plan", guarded(self._plan)),
            web.post("/sandbox/play", guarded(self._play)),
            web.post("/sandbox/load", guarded(self._start_load, 202)),
            web.get("/sandbox/load", guarded(self._progress)),
        ]

    def _receiver(self, request: web.Request) -> Receiver:
        return self._market.receiver(request.match_info["name"])

    async def _add_credential(self, request: web.Request) -> Json:
        """The answer shows the secret, once."""
        credential = self._receiver(request).add_credential()
        return asdict(credential)

    async def _delete_credential(self, request: web.Request) -> Json:
        receiver = self._receiver(request)
        receiver.delete_credential(request.match_info["client_id"])
        return receiver_json(receiver)

    async def _add_webhook(self, request: web.Request) -> Json:
        """`{"url", "active": true}`."""
        body = await body_of(request)
        webhook = self._receiver(request).add_webhook(word(body, "url", str), active=body.get("active", True) is True)
        return asdict(webhook)

    async def _change_webhook(self, request: web.Request) -> Json:
        """`{"url", "active"}`, what is given is changed."""
        body = await body_of(request)
        active = word({"active": True, **body}, "active", bool) if "active" in body else None
        webhook = self._receiver(request).change_webhook(request.match_info["webhook_id"], body.get("url"), active)
        return asdict(webhook)

    async def _delete_webhook(self, request: web.Request) -> Json:
        receiver = self._receiver(request)
        receiver.delete_webhook(request.match_info["webhook_id"])
        return receiver_json(receiver)

    async def _permissions(self, request: web.Request) -> Json:
        """`{"permissions": [names]}`: those of the guide that the Receiver's admin group has."""
        chosen = word(await body_of(request), "permissions", list)
        if unknown := [p for p in chosen if p not in PERMISSIONS]:
            raise WrongCall(f"no such permission: {unknown}")
        receiver = self._receiver(request)
        receiver.permissions = set(chosen)
        return receiver_json(receiver)

    async def _announce_key(self, request: web.Request) -> Json:
        """The public key that the next rotation will use."""
        return {"public_key_pem": self._receiver(request).announce_key()}

    async def _rotate_key(self, request: web.Request) -> Json:
        """Webhooks are signed with another key from now on."""
        return {"public_key_pem": self._market.rotate_key(self._receiver(request).name)}

    async def _expire_tokens(self, request: web.Request) -> Json:
        receiver = self._receiver(request)
        self._market.expire_tokens(receiver.name)
        return receiver_json(receiver)

    async def _send(self, request: web.Request) -> Json:
        """`{"body": text or {"hex"}, "signature": "right" | "missing" | value}`: any bytes, once."""
        body = await body_of(request)
        given = word(body, "body", (str, dict))
        raw = bytes.fromhex(given["hex"]) if isinstance(given, dict) else given.encode()
        answer = await self._market.webhooks.send(self._receiver(request), raw, str(body.get("signature", "right")))
        return {"status": answer.status, "error": answer.error, "seconds": answer.seconds}

    async def _requests(self, request: web.Request) -> list[Json]:
        """The service requests that the Receiver has seen."""
        name = self._receiver(request).name
        return [request_json(r) for r in self._market.requests.values() if name in r.offers]

    async def _history(self, request: web.Request) -> list[Json]:
        """The Webhook Call History, oldest first."""
        return [history_json(row) for row in self._market.webhooks.history(self._receiver(request).name)]

    async def _redeliver(self, request: web.Request) -> Json:
        """Presses Redeliver on a row, and waits for the answer."""
        row = self._market.webhooks.attempt(request.match_info["id"])
        answer = await self._market.webhooks.redelivered(row, self._market.receiver(row.receiver))
        return {"response_code": answer.status, "error": answer.error, "seconds": answer.seconds}

    async def _trouble(self, request: web.Request) -> Json:
        """What is set, by Receiver; the empty name is everyone else."""
        return {name: asdict(trouble) for name, trouble in self._market.trouble.settings().items()}

    async def _set_trouble(self, request: web.Request) -> Any:
        """The fields of Trouble; `?receiver=NAME` for one Receiver. An empty object ends it."""
        self._market.trouble.set(Trouble.of(await body_of(request)), request.query.get("receiver", ""))
        return await self._trouble(request)

    async def _plan(self, request: web.Request) -> Json:
        """`{"what", "match", "receiver", "times", "seconds", "status"}`: for the next that fit."""
        try:
            planned = Planned(**await body_of(request))
        except TypeError as error:
            raise WrongCall(str(error)) from None
        self._market.trouble.plan(planned)
        return asdict(planned)

    async def _play(self, request: web.Request) -> Json:
        """`{"name", "scenario": TOML}`: plays it, and answers when it is over."""
        body = await body_of(request)
        try:
            scenario = parse(str(body.get("name", "scenario")), word(body, "scenario", str))
        except WrongScenario as error:
            raise WrongCall(str(error)) from None
        if scenario.receivers > len(self._market.receivers):
            raise SettingRefused(f"the scenario needs {scenario.receivers} Receivers")
        outcomes = await Stage(self._market).play(scenario)
        done = [{"step": o.step.sentence, "ok": o.ok, "seen": o.seen} for o in outcomes]
        return {"ok": all(o.ok for o in outcomes), "about": scenario.about, "steps": done}

    async def _start_load(self, request: web.Request) -> Any:
        """`{"rate", "duration", "to": [names], "kind"}`: starts a stream of broadcasts."""
        body = await body_of(request)
        if self._load and self._load.running:
            raise SettingRefused("a load is running already")
        rate, duration = word(body, "rate", (int, float)), word(body, "duration", (int, float))
        to = tuple(self._market.receiver(name).name for name in body.get("to") or self._market.receivers)
        if rate <= 0 or duration <= 0 or not to:
            raise WrongCall("'rate' and 'duration' are positive, and there is a Receiver")
        self._load = Load(self._market, Wanted(float(rate), float(duration), to, body.get("kind")))
        self._running = asyncio.get_running_loop().create_task(self._load.run())
        return self._load.progress()

    async def _progress(self, request: web.Request) -> Any:
        """How far the load is, or how it ended."""
        return self._load.progress() if self._load else {"running": False}

    async def close(self) -> None:
        """Stops a running load."""
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
