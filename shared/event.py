"""What a webhook says: the envelope of VectorCare's Open API 2.0, read from verified bytes.

Pure. A body that can't be read is a value too (`Unreadable`), because it was signed and must not be lost.
"""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import orjson

from shared.signature import Verified


class Status(StrEnum):
    """VectorCare's `request_status`; anything else is OTHER, and the original word travels in headers and body."""

    AVAILABLE = "AVAILABLE"
    ASSIGNED = "ASSIGNED"
    UNAVAILABLE = "UNAVAILABLE"
    COMPLETED = "COMPLETED"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class Event:
    """A readable webhook. `action` is an open set; `data` (PHI) is the complete request, or None."""

    customer_id: str
    event_id: str
    event_timestamp: str
    service_request_id: str
    request_status: str
    action: str
    verified: Verified = field(repr=False)
    data: dict[str, Any] | None = field(repr=False)

    @property
    def status(self) -> Status:
        """The four statuses that VectorCare documents, else OTHER."""
        return Status(self.request_status) if self.request_status in _STATUSES else Status.OTHER

    @property
    def sent_at(self) -> datetime:
        """When VectorCare says that it sent this attempt."""
        return datetime.fromisoformat(self.event_timestamp.upper())


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Signed, but not an event: `reason` names the place and holds nothing of the body."""

    customer_id: str
    reason: str
    verified: Verified = field(repr=False)

    @property
    def digest(self) -> str:
        """A stable name for a body that has no id of its own."""
        return "sha256-" + hashlib.sha256(self.verified.body).hexdigest()


_STATUSES: Final = frozenset(status.value for status in Status if status is not Status.OTHER)
_LABEL: Final = re.compile(r"[\x20-\x7e]{1,128}")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,40})?([Zz]|[+-]\d\d:\d\d)")


def read(verified: Verified) -> Event | Unreadable:
    """Read the envelope. Unknown fields, actions and statuses are fine; the contract says what is not."""
    try:
        envelope = orjson.loads(verified.body)
    except orjson.JSONDecodeError:
        return Unreadable(verified.customer_id, "the body is not UTF-8 JSON", verified)
    reason = _unreadable(envelope)
    if reason:
        return Unreadable(verified.customer_id, reason, verified)
    return Event(
        verified.customer_id,
        envelope["event_id"],
        envelope["event_timestamp"],
        envelope["service_request_id"],
        envelope["request_status"],
        envelope["action"],
        verified,
        envelope.get("data"),
    )


def _unreadable(envelope: object) -> str | None:
    if not isinstance(envelope, dict):
        return "the body is not a JSON object"
    for name in ("event_id", "action", "request_status"):
        value = envelope.get(name)
        if not isinstance(value, str) or not _LABEL.fullmatch(value):
            return f"{name} is not a string of 1 to 128 printable ASCII characters"
    request_id = envelope.get("service_request_id")
    if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
        return "service_request_id is not 1 to 64 letters, digits, _ or -"
    if not _is_rfc3339(envelope.get("event_timestamp")):
        return "event_timestamp is not an RFC 3339 time"
    data = envelope.get("data")
    if data is not None and not isinstance(data, dict):
        return "data is neither an object nor null"
    return None


def _is_rfc3339(value: object) -> bool:
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True
