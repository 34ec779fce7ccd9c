"""What of a request the store must be able to search for; the request itself is sealed. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from worker.assignment import Particulars
from worker.policy import Policy, pickup_time

_LONGEST: Final = 64
_DIGEST: Final = 32  # hex digits: the standing order is only ever compared


def particulars(policy: Policy, data: Mapping[str, Any] | None) -> Particulars:
    """Of `data` as VectorCare sent it; whatever is missing or of another kind is None."""
    pickup = pickup_time(data)
    collection = _short((data or {}).get("collection_id"))
    return Particulars(
        pickup_at=pickup.timestamp() if pickup else None,
        level=_short(policy.level(data)),
        collection=hashlib.sha256(collection.encode()).hexdigest()[:_DIGEST] if collection else None,
    )


def _short(value: object) -> str | None:
    # PostgreSQL keeps no NUL in a text; neither a level nor an id has one.
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable() else None
