"""What the store tells a policy beside the request itself: what the customer has, and what it has seen. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Load:
    """What a customer has taken, but for the request that is being decided.

    `open` are trips that are ours or may be (an accept under way, its answer unknown, its webhook not come);
    `overlapping` of them are those whose pickup is less than the policy's `trip_minutes` from this one's, None where
    this one's is not known; `today` and `last_hour` are accepts sent since local midnight and in the last hour that
    were not lost.
    """

    open: int = 0
    overlapping: int | None = None
    today: int = 0
    last_hour: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a policy may ask of the store.

    `in_use` are open trips of this trip's level whose pickup is less than `trip_minutes` from this one's; None where
    level or pickup is not known. `units` are those of this level that a dispatch system has declared for now, over
    what the policy declares; None where it has not. `other_leg` is the state of the round trip's other leg: a
    published state, `offered`, or `unseen`; None where the request names none. `collection_held` and
    `collection_seen` count the other requests of the same standing order that are ours, and all of them; None where
    there is none. `first_offered_at` is Unix seconds; `times_seen` counts this offer too; `proposals` are those that
    were made for this request.
    """

    load: Load = Load()
    in_use: int | None = None
    units: int | None = None
    other_leg: str | None = None
    collection_held: int | None = None
    collection_seen: int | None = None
    first_offered_at: float | None = None
    times_seen: int = 1
    proposals: int = 0


NOTHING_KNOWN: Final = Facts()


def read_facts(kept: Mapping[str, Any] | None) -> Facts:
    """Facts as `dataclasses.asdict` wrote them; what is missing is as in NOTHING_KNOWN, what is unknown left out."""
    given = {field.name: (kept or {})[field.name] for field in fields(Facts) if field.name in (kept or {})}
    load = given.pop("load", None) or {}
    return Facts(Load(**{field.name: load[field.name] for field in fields(Load) if field.name in load}), **given)
