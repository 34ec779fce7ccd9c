"""What each call of VectorCare's API 2.0 says on the wire: method, last part of the path, JSON body. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from shared.topics import rfc3339
from worker.assignment import Call

MOST_LOCATIONS: Final = 200  # that one call may carry


@dataclass(frozen=True, slots=True)
class ApiCall:
    """A call about one service request; `name` is its label in logs and metrics. The body may hold PHI."""

    name: str
    method: str
    suffix: str
    body: Any = field(repr=False)


def answer_offer(call: Call, notes: str | None, propose_at: datetime | None) -> ApiCall:
    """Accept, decline, or propose the pickup at `propose_at`."""
    if call is Call.PROPOSE:
        assert propose_at is not None  # the policy and the command's schema see to it
        return propose(rfc3339(propose_at.timestamp()))
    return ApiCall(call.value, "PUT", call.value, {"response_notes": notes} if notes else {})


def propose(proposed_at: str) -> ApiCall:
    """Offer another pickup time: ISO 8601, UTC."""
    return ApiCall("propose", "PUT", "best-time", {"proposed_agreed_dt": proposed_at})


def request_change(agreed_at: str, reason: str) -> ApiCall:
    """Ask for another time for a trip that is ours; `reason` has at most 450 characters."""
    body = {"agreed_dt": agreed_at, "change_reason": reason}
    return ApiCall("change_request", "POST", "change-request", body)


def report_state(name: str, timestamp: str) -> ApiCall:
    """Where the crew is; the timestamp is ISO 8601, UTC, not in the future and at most 7 days old."""
    return ApiCall("state", "POST", "state", {"name": name, "timestamp": timestamp})


def report_locations(points: Sequence[Mapping[str, float]]) -> ApiCall:
    """Where the vehicle was: `lat`, `lng`, `alt`, `speed`, `timestamp` in Unix seconds; at most 200."""
    return ApiCall("locations", "POST", "locations", [dict(point) for point in points])
