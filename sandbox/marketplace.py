"""The marketplace in motion: holds organizations and service requests, applies steps, sends webhooks."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from sandbox import life, malformed, trips
from sandbox.chance import stream
from sandbox.delivery import Answer, Call, Delivery, restamp
from sandbox.identifiers import EventIds, short_id
from sandbox.life import Notice, ServiceRequest, Step
from sandbox.options import Options, Status
from sandbox.organizations import Receiver, Requester, Webhook, new_credential
from sandbox.record import Record, WebhookAttempt
from sandbox.signing import SigningKey
from sandbox.tokens import Organization, Tokens
from sandbox.trouble import Troublemaker


class Unknown(LookupError):
    """There is no organization, service request or webhook call of that name."""


class Marketplace:
    """All that VectorCare knows. Everything that changes it goes through `apply`."""

    def __init__(self, options: Options, record: Record, delivery: Delivery) -> None:
        self.options = options
        self.record = record
        self.delivery = delivery
        self.trouble = Troublemaker(options.seed)
        self.requests: dict[str, ServiceRequest] = {}
        self.receivers: dict[str, Receiver] = {}
        self.requesters: dict[str, Requester] = {}
        self.tokens = Tokens(stream(options.seed, "tokens"), options.token_seconds)
        self._shared_key = SigningKey() if options.one_key else None
        self._trips = stream(options.seed, "trips")
        self._names = stream(options.seed, "requests")
        self._event_ids = EventIds(stream(options.seed, "events"), sortable=options.sortable_event_ids)
        self.add_requester("mercy", "Mercy Valley Health")

    # Organizations

    def add_requester(self, name: str, account_name: str) -> Requester:
        """A hospital, with one pair of credentials for `create`."""
        chance = stream(self.options.seed, "requester", name)
        requester = Requester(name, short_id(chance), account_name, [new_credential(chance)])
        self.requesters[name] = requester
        return requester

    def add_receiver(self, name: str, webhook: str | None = None) -> Receiver:
        """A transport provider, with one pair of credentials and, if a URL is given, one webhook."""
        chance = stream(self.options.seed, "receiver", name)
        receiver = Receiver(name, short_id(chance), self._shared_key or SigningKey(), chance)
        receiver.add_credential()
        if webhook:
            receiver.add_webhook(webhook)
        self.receivers[name] = receiver
        return receiver

    def receiver(self, name: str) -> Receiver:
        """By name. Raises Unknown."""
        try:
            return self.receivers[name]
        except KeyError:
            raise Unknown(f"no Receiver {name}") from None

    def organizations(self) -> list[Organization]:
        """All of them."""
        return [*self.receivers.values(), *self.requesters.values()]

    # Service requests

    def request(self, request_id: str) -> ServiceRequest:
        """By id. Raises Unknown."""
        try:
            return self.requests[request_id]
        except KeyError:
            raise Unknown(f"no service request {request_id}") from None

    def _new_id(self) -> str:
        while True:
            request_id = f"{self.options.request_prefix}-{short_id(self._names)}"
            if request_id not in self.requests:
                return request_id

    def create_request(
        self,
        kind: str | None = None,
        data: Mapping[str, Any] | None = None,
        lead_minutes: float = 90.0,
        requester: str = "mercy",
    ) -> str:
        """A new service request, not broadcast yet. `data` is merged over the invented trip."""
        kind = kind or self._trips.choice(trips.KINDS)
        made = trips.trip(kind, self._trips, datetime.now(UTC), lead_minutes)
        if self.options.service_level_field:
            made[self.options.service_level_field] = trips.LEVELS[kind]
        return self._add(life.merged(made, data or {}), requester)

    def create_return_leg(self, request_id: str, after_minutes: float = 240.0) -> str:
        """The way back of a round trip, each leg naming the other."""
        first = self.request(request_id)
        leg = trips.return_leg(first.data, after_minutes)
        back = self._add({**leg, "round_trip_other_service_request_id": request_id}, first.requester)
        joined = {**first.data, "round_trip_other_service_request_id": back}
        self.requests[request_id] = replace(first, data=joined)
        return back

    def _add(self, data: dict[str, Any], requester: str) -> str:
        owner = self.requesters[requester]
        request_id = self._new_id()
        data["account_name"] = data["account_name"] or owner.account_name
        data["service_request_web_url"] = f"https://hub-uat.vectorcare.com/requests/{request_id}"
        self.requests[request_id] = ServiceRequest(request_id, requester, data)
        keep = self.options.keep_requests
        if keep is not None and len(self.requests) > keep:
            del self.requests[next(iter(self.requests))]
        self.record.deed("create", request_id)
        return request_id

    # Steps

    def apply(self, step: Step, deed: str | None = None) -> None:
        """Makes a step real: the request is as it says, and its webhooks are on their way."""
        self.requests[step.request.id] = step.request
        if deed:
            self.record.deed(deed, step.request.id, [n.receiver for n in step.notices])
        for notice in step.notices:
            self._notify(step.request, notice)

    def broadcast(self, request_id: str, to: Iterable[str]) -> None:
        """Offers a request to these Receivers, and lets the offers expire if `expire_after` says so."""
        names = [self.receiver(name).name for name in to]
        self.apply(life.broadcast(self.request(request_id), names), "broadcast")
        within = self.trouble.competitor(request_id)
        if within is not None:
            asyncio.get_running_loop().call_later(within, self._competitor, request_id)
        if self.options.expire_after is not None:
            asyncio.get_running_loop().call_later(self.options.expire_after, self._expire, request_id, names)

    def _competitor(self, request_id: str) -> None:
        request = self.requests.get(request_id)
        if request and request.stage is life.Stage.OPEN:
            self.apply(life.competitor_accepts(request, self.options), "competitor_accepts")

    def _expire(self, request_id: str, names: list[str]) -> None:
        request = self.requests.get(request_id)
        if request and any(request.status_for(n) is Status.AVAILABLE for n in names):
            self.apply(life.expire(request, names), "expire")

    # Webhooks

    def _notify(self, request: ServiceRequest, notice: Notice) -> None:
        receiver = self.receivers[notice.receiver]
        shared = self._event_ids.next() if self.options.shared_event_id else None
        for webhook in receiver.webhooks:
            if webhook.active:
                self._start(request, notice, receiver, webhook, shared or self._event_ids.next())

    def timestamp(self) -> str:
        """`event_timestamp` for a webhook that is sent now."""
        now = datetime.now(UTC)
        return trips.iso(now.replace(microsecond=0) if self.options.whole_seconds else now)

    def _data(self, request: ServiceRequest, notice: Notice, receiver: Receiver) -> Any:
        if notice.status is Status.UNAVAILABLE:
            return None
        if self.options.organization_id_names == "receiver":
            return {**request.data, "organization_id": receiver.organization_id}
        requester = self.requesters[request.requester]
        return {**request.data, "organization_id": requester.organization_id}

    def _start(
        self,
        request: ServiceRequest,
        notice: Notice,
        receiver: Receiver,
        webhook: Webhook,
        event_id: str,
    ) -> None:
        timestamp = self.timestamp()
        body = orjson.dumps(
            {
                "event_id": event_id,
                "event_timestamp": timestamp,
                "service_request_id": request.id,
                "request_status": notice.status,
                "action": notice.action,
                "data": self._data(request, notice, receiver),
            }
        )
        call = Call(
            receiver=receiver,
            webhook=webhook,
            request_id=request.id,
            event_id=event_id,
            action=notice.action,
            status=notice.status.value,
            body=body,
            signature=receiver.key.sign(body),
        )
        treatment = self.trouble.for_webhook(receiver.name, request.id, call.action, call.status)
        again = self._restamped if self.options.restamp else None
        self.delivery.start(call, restamped=again, treatment=treatment)
        if treatment.forged:
            self.by_hand(replace(call, signature=SigningKey.wrong(call.signature or ""), signed=False))
        if treatment.malformed is not None:
            bad = malformed.body(treatment.malformed)
            self.by_hand(replace(call, body=bad, signature=receiver.key.sign(bad), event_id="", request_id=""))
        if treatment.old and (before := self._delivered_before(call)):
            self.redeliver(before)

    def _restamped(self, call: Call) -> Call:
        return restamp(call, self.timestamp(), str(orjson.loads(call.body)["event_timestamp"]))

    def by_hand(self, call: Call, cause: str = "sent") -> None:
        """One attempt of its own, in the background."""

        async def attempt() -> None:
            await self.delivery.attempt(call, cause=cause)

        self.delivery.spawn(attempt())

    async def send(self, receiver: str, body: bytes, signature: str, url: str | None = None) -> Answer:
        """Posts any bytes once. `signature`: `right`, `missing`, or the header's value."""
        owner = self.receiver(receiver)
        header = {"right": owner.key.sign(body), "missing": None}.get(signature, signature)
        webhook = owner.webhooks[0] if owner.webhooks else Webhook("", url or "")
        call = Call(owner, webhook, *_told(body), body, header, signed=signature == "right")
        return await self.delivery.attempt(call, cause="sent", url=url)

    # Webhook Call History

    def history(self, receiver: str) -> list[WebhookAttempt]:
        """The Receiver's Webhook Call History: every attempt that is still in the record, oldest first."""
        return [a for a in self.record.webhooks() if a.receiver == receiver]

    def attempt(self, attempt_id: str) -> WebhookAttempt:
        """A row of the history. Raises Unknown."""
        for attempt in reversed(self.record.webhooks()):
            if attempt.id == attempt_id:
                return attempt
        raise Unknown(f"no webhook call {attempt_id}")

    def redelivery(self, row: WebhookAttempt) -> Call:
        """The same bytes with the same signature, to the webhook's URL as it is now."""
        receiver = self.receiver(row.receiver)
        webhook = receiver.webhook(row.webhook_id)
        return Call(
            receiver=receiver,
            webhook=webhook,
            request_id=row.request_id,
            event_id=row.event_id,
            action=row.action,
            status=row.status,
            body=row.body,
            signature=row.signature,
            signed=row.signed,
        )

    def redeliver(self, row: WebhookAttempt) -> None:
        """What the button in the history does."""
        self.by_hand(self.redelivery(row), "redeliver")

    def _delivered_before(self, call: Call) -> WebhookAttempt | None:
        rows = [a for a in self.record.webhooks()[-200:] if a.receiver == call.receiver.name and a.event_id]
        return rows[stream(self.options.seed, "old", call.event_id).randrange(len(rows))] if rows else None


def _told(body: bytes) -> tuple[str, str, str, str]:
    """Request, event, action and status of a body, all empty unless it is as documented."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "", "", "", ""
    names = ("service_request_id", "event_id", "action", "request_status")
    found = [value.get(name) for name in names] if isinstance(value, dict) else []
    if not found or not all(isinstance(text, str) for text in found):
        return "", "", "", ""
    return str(found[0]), str(found[1]), str(found[2]), str(found[3])
