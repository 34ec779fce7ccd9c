"""The marketplace in motion: holds organizations and service requests, and makes each step real."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sandbox import life, trips
from sandbox.chance import stream
from sandbox.delivery import Delivery
from sandbox.identifiers import short_id
from sandbox.life import ServiceRequest, Step
from sandbox.options import Options
from sandbox.organizations import Receiver, Requester, new_credential
from sandbox.record import Record
from sandbox.signing import SigningKey
from sandbox.tokens import Organization, Tokens
from sandbox.trouble import Troublemaker
from sandbox.webhooks import Unknown, Webhooks


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
        self.shared_key = SigningKey() if options.one_key else None
        self._trips = stream(options.seed, "trips")
        self._names = stream(options.seed, "requests")
        self.webhooks = Webhooks(options, record, delivery, self.trouble)
        self.add_requester("mercy", "Mercy Valley Health")

    def reseed(self, requests: int) -> None:
        """Goes on with other chance than at the start, so that no id is made twice."""
        seed = self.options.seed
        self.tokens = Tokens(stream(seed, "tokens", time.time_ns()), self.options.token_seconds)
        self._trips = stream(seed, "trips", requests)
        self._names = stream(seed, "requests", requests)

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
        receiver = Receiver(name, short_id(chance), self.shared_key or SigningKey(), chance)
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

    def rotate_key(self, name: str) -> str:
        """The Receiver's webhooks are signed with another key from now on; returns its public PEM."""
        self.record.deed("rotate_key", "", [name])
        return self.receiver(name).rotate_key()

    def expire_tokens(self, name: str) -> None:
        """The Receiver's tokens are dead before their time."""
        self.record.deed("expire_tokens", "", [name])
        self.tokens.expire(self.receiver(name))

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

    def create_standing_order(self, times: int = 3, every_days: float = 2.0) -> list[str]:
        """A recurring dialysis round trip: there and back on each day, all in one collection; returns the ids."""
        order = trips.trip("dialysis", self._trips, datetime.now(UTC), 24 * 60)
        ids = []
        for turn in range(times):
            there = self.create_request("dialysis", trips.later(order, turn * every_days))
            ids += [there, self.create_return_leg(there)]
        return ids

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
        requester = self.requesters[step.request.requester]
        for notice in step.notices:
            self.webhooks.notify(step.request, notice, self.receivers[notice.receiver], requester)

    def broadcast(self, request_id: str, to: Iterable[str]) -> None:
        """Offers a request to these Receivers, and lets the offers expire if `expire_after` says so."""
        names = list(dict.fromkeys(self.receiver(name).name for name in to))
        self.apply(life.broadcast(self.request(request_id), names), "broadcast")
        within = self.trouble.competitor(request_id)
        if within is not None:
            asyncio.get_running_loop().call_later(within, self._competitor, request_id)
        if self.options.expire_after is not None:
            offered = {name: self.requests[request_id].offers[name].offered for name in names}
            asyncio.get_running_loop().call_later(self.options.expire_after, self._expire, request_id, offered)

    def _competitor(self, request_id: str) -> None:
        request = self.requests.get(request_id)
        if request and request.stage is life.Stage.OPEN:
            self.apply(life.competitor_accepts(request, self.options), "competitor")

    def _expire(self, request_id: str, offered: Mapping[str, int]) -> None:
        """Ends those offers of that time which are open still and were not made anew since."""
        request = self.requests.get(request_id)
        if request is None:
            return
        step = life.expire(request, [n for n, times in offered.items() if request.offers[n].offered == times])
        if step.notices:
            self.apply(step, "expire")
