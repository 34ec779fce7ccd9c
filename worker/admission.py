"""Whether a delivery may be acted on at all: what is in a queue is not trusted because it is in a queue. Pure."""

from collections.abc import Collection, Mapping
from enum import StrEnum

import orjson

from shared import event
from shared.broker import Message
from shared.event import Event, Status
from shared.signature import verify
from worker.customers import Customer


class Refusal(StrEnum):
    """Why a delivery is parked instead of handled."""

    UNKNOWN_CUSTOMER = "unknown_customer"
    CUSTOMER_DISABLED = "customer_disabled"
    BAD_SIGNATURE = "bad_signature"
    UNREADABLE = "unreadable"
    WRONG_QUEUE = "wrong_queue"
    OTHER_ORGANIZATION = "other_organization"
    TOO_DEEP = "too_deep"


def admit(
    message: Message,
    customers: Mapping[str, Customer],
    disabled: Collection[str],
    statuses: Collection[Status],
) -> Event | Refusal:
    """The event, its signature checked again with today's keys; or why it must be parked."""
    customer_id = message.headers.get("ce-customerid", "")
    customer = customers.get(customer_id)
    if customer is None:
        return Refusal.CUSTOMER_DISABLED if customer_id in disabled else Refusal.UNKNOWN_CUSTOMER
    verified = verify(customer_id, customer.keys, message.body, message.headers.get("ce-signature"))
    if verified is None:
        return Refusal.BAD_SIGNATURE
    found = event.read(verified)
    if isinstance(found, event.Unreadable):
        return Refusal.UNREADABLE
    if found.status not in statuses:
        return Refusal.WRONG_QUEUE
    if _names_another(found, customer.organization_ids):
        return Refusal.OTHER_ORGANIZATION
    if _is_too_deep(found):
        return Refusal.TOO_DEEP
    return found


def _names_another(found: Event, organization_ids: Collection[str]) -> bool:
    named = (found.data or {}).get("organization_id")
    return bool(organization_ids) and named is not None and not (isinstance(named, str) and named in organization_ids)


def _is_too_deep(found: Event) -> bool:
    """Whether `data` can be read and not be told again: orjson reads 1024 levels and writes 254."""
    try:
        orjson.dumps({"request": found.data})
    except orjson.JSONEncodeError:
        return True
    return False
