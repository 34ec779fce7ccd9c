"""Makes the webhooks: the documented body, its signature, what trouble does to it; and the Webhook Call History."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from sandbox import malformed, trips
from sandbox.chance import stream
from sandbox.delivery import Answer, Call, Delivery, restamp
from sandbox.identifiers import EventIds
from sandbox.life import Notice, ServiceRequest
from sandbox.options import Options, Status
from sandbox.organizations import Receiver, Requester, Webhook
from sandbox.record import Record, WebhookAttempt
from sandbox.signing import SigningKey
from sandbox.trouble import Troublemaker

RECENT = 200
"""Among so many of the newest records an old event is looked for."""


class Unknown(LookupError):
    """There is no organization, service request or webhook call of that name."""


class Webhooks:
    """All that is sent to Receivers."""

    def __init__(self, options: Options, record: Record, delivery: Delivery, trouble: Troublemaker) -> None:
        self._options = options
        self._record = record
        self._delivery = delivery
        self._trouble = trouble
        self._event_ids = EventIds(stream(options.seed, "events"), sortable=options.sortable_event_ids)

    def notify(self, request: ServiceRequest, notice: Notice, receiver: Receiver, requester: Requester) -> None:
        """Sends a notice to each active webhook of the Receiver; returns at once."""
        shared = self._event_ids.next() if self._options.shared_event_id else None
        names_receiver = self._options.organization_id_names == "receiver"
        organization_id = receiver.organization_id if names_receiver else requester.organization_id
        gone = notice.status is Status.UNAVAILABLE
        data = None if gone else {**request.data, "organization_id": organization_id}
        for webhook in receiver.webhooks:
            if webhook.active:
                event_id = shared or self._event_ids.next()
                self._start(self._call(request.id, notice, data, receiver, webhook, event_id))

    def timestamp(self) -> str:
        """`event_timestamp` for a webhook that is sent now."""
        now = datetime.now(UTC)
        return trips.iso(now.replace(microsecond=0) if self._options.whole_seconds else now)

    def _call(
        self, request_id: str, notice: Notice, data: Any, receiver: Receiver, webhook: Webhook, event_id: str
    ) -> Call:
        body = orjson.dumps(
            {
                "event_id": event_id,
                "event_timestamp": self.timestamp(),
                "service_request_id": request_id,
                "request_status": notice.status,
                "action": notice.action,
                "data": data,
            }
        )
        return Call(
            receiver=receiver,
            webhook=webhook,
            request_id=request_id,
            event_id=event_id,
            action=notice.action,
            status=notice.status.value,
            body=body,
            signature=receiver.key.sign(body),
        )

    def _start(self, call: Call) -> None:
        receiver = call.receiver
        treatment = self._trouble.for_webhook(receiver.name, call.request_id, call.action, call.status)
        self._delivery.start(call, restamped=self._restamped if self._options.restamp else None, treatment=treatment)
        if treatment.forged:
            self.by_hand(replace(call, signature=SigningKey.wrong(call.signature or ""), signed=False))
        if treatment.malformed is not None:
            bad = malformed.body(treatment.malformed)
            self.by_hand(replace(call, body=bad, signature=receiver.key.sign(bad), event_id="", request_id=""))
        if treatment.old is not None:
            recent = self._record.since(self._record.total - RECENT)
            rows = [e for e in recent if isinstance(e, WebhookAttempt) and e.receiver == receiver.name and e.event_id]
            if rows:
                self.redeliver(rows[treatment.old % len(rows)], receiver)

    def _restamped(self, call: Call) -> Call:
        return restamp(call, self.timestamp(), str(orjson.loads(call.body)["event_timestamp"]))

    def by_hand(self, call: Call, cause: str = "sent") -> None:
        """One attempt of its own, in the background."""

        async def attempt() -> None:
            await self._delivery.attempt(call, cause=cause)

        self._delivery.spawn(attempt())

    async def send(self, owner: Receiver, body: bytes, signature: str, url: str | None = None) -> Answer:
        """Posts any bytes once. `signature`: `right`, `missing`, or the header's value."""
        header = {"right": owner.key.sign(body), "missing": None}.get(signature, signature)
        webhook = owner.webhooks[0] if owner.webhooks else Webhook("", url or "")
        call = Call(owner, webhook, *_told(body), body, header, signed=signature == "right")
        return await self._delivery.attempt(call, cause="sent", url=url)

    # Webhook Call History

    def history(self, receiver: str) -> list[WebhookAttempt]:
        """The Receiver's Webhook Call History: every attempt that is still in the record, oldest first."""
        return [a for a in self._record.webhooks() if a.receiver == receiver]

    def attempt(self, attempt_id: str) -> WebhookAttempt:
        """A row of the history. Raises Unknown."""
        for attempt in reversed(self._record.webhooks()):
            if attempt.id == attempt_id:
                return attempt
        raise Unknown(f"no webhook call {attempt_id}")

    async def redelivered(self, row: WebhookAttempt, receiver: Receiver) -> Answer:
        """Presses Redeliver: the same bytes and signature, to the webhook's URL as it is now."""
        return await self._delivery.attempt(_again(row, receiver), cause="redeliver")

    def redeliver(self, row: WebhookAttempt, receiver: Receiver) -> None:
        """The same in the background."""
        self.by_hand(_again(row, receiver), "redeliver")


def _again(row: WebhookAttempt, receiver: Receiver) -> Call:
    return Call(
        receiver=receiver,
        webhook=receiver.webhook(row.webhook_id),
        request_id=row.request_id,
        event_id=row.event_id,
        action=row.action,
        status=row.status,
        body=row.body,
        signature=row.signature,
        signed=row.signed,
    )


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
