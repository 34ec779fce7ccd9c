"""The inbox of parked events: each is written to the store's parked table, from where it can be seen and redriven."""

import hashlib
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update

from shared import event as webhook
from shared import metrics
from shared.broker import Delivery, Message
from shared.event import Event
from shared.parking import ATTEMPTS, ORIGIN_KEY, ORIGIN_QUEUE, REASON
from shared.signature import verify
from worker import assignment
from worker.assignment import ACK
from worker.consume import UNEXPECTED, Handled
from worker.desk import Desk
from worker.tables import parked

_UNREADABLE: Final = "unreadable"
_BY_BROKER: Final = "dead_lettered_by_broker"  # its delivery limit, for example


async def handle(desk: Desk, delivery: Delivery) -> Handled:
    """Keep a parked event; the same one parked again renews its row. A failure of ours is also told as `failed`."""
    message = delivery.message
    reason = _reason(message)
    event = _event(desk, message) if reason == UNEXPECTED else None

    def keep(connection: Connection, now: float) -> bool:
        return _keep(connection, _row(desk, message, reason), now)

    if event is None:
        await desk.ledger.transact(keep)
    else:
        await desk.ledger.step_with(
            keep,
            event.customer_id,
            event.service_request_id,
            lambda known, _, __: assignment.failed(known, event, reason),
        )
        desk.outbox.publish_soon()
    if REASON not in message.headers:  # parked by no worker, so none has counted it
        customer = message.headers.get("ce-customerid", "")
        metrics.PARKED.labels(customer if customer in desk.customers else "unknown", reason).inc()
    return Handled(ACK, "parked", {"reason": reason})


def _reason(message: Message) -> str:
    if REASON in message.headers:
        return message.headers[REASON]
    return _UNREADABLE if "ce-reason" in message.headers else _BY_BROKER


def _event(desk: Desk, message: Message) -> Event | None:
    """The event of a message that is truly VectorCare's; nothing is told in the name of any other."""
    customer = desk.customers.get(message.headers.get("ce-customerid", ""))
    if customer is None:
        return None
    signature = message.headers.get("ce-signature")
    verified = verify(customer.customer_id, customer.keys, message.body, signature)
    found = webhook.read(verified) if verified else None
    return found if isinstance(found, Event) else None


def _row(desk: Desk, message: Message, reason: str) -> dict[str, Any]:
    headers = message.headers
    attempts = headers.get(ATTEMPTS, "0")
    origin = headers.get(ORIGIN_QUEUE, "")
    named = (headers.get("ce-customerid", ""), headers.get("ce-id", ""), origin)
    digest = hashlib.sha256("\n".join(named).encode() + b"\n" + message.body)
    return {
        "fingerprint": digest.hexdigest(),
        "customer_id": headers.get("ce-customerid"),
        "service_request_id": headers.get("ce-subject"),
        "reason": reason,
        "attempts": int(attempts) if attempts.isdecimal() else 0,
        "origin_queue": origin,
        "routing_key": headers.get(ORIGIN_KEY, message.routing_key),
        "headers": dict(headers),
        "body": desk.ledger.seal(message.body),
    }


def _keep(connection: Connection, row: dict[str, Any], now: float) -> bool:
    """Write the row; whether it is a new one."""
    same = parked.c.fingerprint == row["fingerprint"]
    if connection.execute(select(parked.c.id).where(same)).first() is None:
        connection.execute(insert(parked).values(**row, first_parked_at=now, last_parked_at=now))
        return True
    connection.execute(update(parked).where(same).values(**row, last_parked_at=now))
    return False
