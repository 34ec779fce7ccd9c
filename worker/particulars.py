"""What of a request the store must be able to search for; the request itself is sealed. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from worker.assignment import Particulars
from worker.policy import Policy, pickup_time

_LONGEST_ID: Final = 64
_DIGEST: Final = 32  # hex digits: the standing order is only ever compared


def particulars(policy: Policy, data: Mapping[str, Any] | None) -> Particulars:
    """Of `data` as VectorCare sent it; whatever is missing or of another kind is None."""
    pickup = pickup_time(data)
    collection = _text(data, "collection_id")
    return Particulars(
        pickup_at=pickup.timestamp() if pickup else None,
        level=policy.level(data),
        other_leg=_text(data, "round_trip_other_service_request_id"),
        collection=hashlib.sha256(collection.encode()).hexdigest()[:_DIGEST] if collection else None,
    )


def _text(data: Mapping[str, Any] | None, name: str) -> str | None:
    value = (data or {}).get(name)
    # PostgreSQL keeps no NUL in a text; an id has none.
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isprintable() else None
