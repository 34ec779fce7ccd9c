"""The names that rules read, and how each gets its value. Pure; only what some rule reads is computed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from worker.expression import Path
from worker.facts import Facts
from worker.policy.capacity import Units, free
from worker.policy.offer import Offer, pickup_time, request
from worker.policy.trip import Levels, Travel, will_call

_TIME: Final = ("hour", "minute", "weekday", "date")
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "event": ("event_id", "event_timestamp", "service_request_id", "request_status", "action"),
    "local": _TIME,
    "now_local": _TIME,
    "trip": ("level", "miles", "minutes", "will_call"),
    "load": ("open", "overlapping", "today", "last_hour"),
    "capacity": ("free",),
    "other_leg": ("state",),
    "collection": ("held", "seen"),
    "offer": ("age_minutes", "times_seen", "proposals"),
}
"""What is inside the variables that are objects and not the request."""
VARIABLES: Final = ("request", "lists", "lead_minutes", *FIELDS)
WHOLE: Final = ("request", *FIELDS)
"""Those that must be followed by a field."""
ALWAYS_KNOWN: Final[frozenset[Path]] = frozenset(
    {("offer", "times_seen"), ("offer", "proposals"), ("load", "open"), ("load", "today"), ("load", "last_hour")}
    | {("now_local", name) for name in _TIME}
)
FROM_STORE: Final = frozenset({"load", "capacity", "other_leg", "collection", "offer"})


@dataclass(frozen=True, slots=True)
class Tables:
    """What a policy file says beside its rules, for variables to be computed with."""

    timezone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    lists: Mapping[str, list[Any]] = field(default_factory=dict)
    levels: Levels = field(default_factory=Levels)
    capacity: tuple[Units, ...] = ()
    travel: Travel = field(default_factory=Travel)


@dataclass(frozen=True, slots=True)
class _Scene:
    tables: Tables
    offer: Offer
    data: Mapping[str, Any]
    pickup: datetime | None
    local: datetime | None
    now: float
    facts: Facts


def variables(
    tables: Tables, offer: Offer, now: float, facts: Facts, reads: Collection[Path], names: Collection[str]
) -> dict[str, Any]:
    """The variables in `names`, with every field of `request` in `reads` present: null where the request is silent."""
    pickup = pickup_time(offer.data)
    scene = _Scene(tables, offer, offer.data or {}, pickup, _local(pickup, tables.timezone), now, facts)
    values = {name: made(scene) for name, made in _MADE.items() if name in names}
    if "request" in names:
        values["request"] = request(scene.data, {path[1:] for path in reads if path[0] == "request"})
    if "lists" in names:
        named = {path[1] for path in reads if path[0] == "lists" and len(path) > 1}
        whole = any(path == ("lists",) for path in reads)
        values["lists"] = {name: items for name, items in tables.lists.items() if whole or name in named}
    return values


def _local(moment: datetime | None, timezone: ZoneInfo) -> datetime | None:
    try:
        return moment.astimezone(timezone) if moment else None
    except (OverflowError, ValueError):  # in the year 1 or 9999
        return None


def _time(local: datetime | None) -> dict[str, Any]:
    if local is None:
        return dict.fromkeys(_TIME)
    return {
        "hour": local.hour,
        "minute": local.minute,
        "weekday": local.isoweekday(),
        "date": local.date().isoformat(),
    }


def _event(scene: _Scene) -> dict[str, Any]:
    return {name: getattr(scene.offer, name) for name in FIELDS["event"]}


def _lead_minutes(scene: _Scene) -> float | None:
    return (scene.pickup.timestamp() - scene.now) / 60 if scene.pickup else None


def _now_local(scene: _Scene) -> dict[str, Any]:
    return _time(datetime.fromtimestamp(scene.now, UTC).astimezone(scene.tables.timezone))


def _trip(scene: _Scene) -> dict[str, Any]:
    travel = scene.tables.travel
    return {
        "level": scene.tables.levels.of(scene.data),
        "miles": travel.miles(scene.data),
        "minutes": travel.minutes(scene.data, scene.local),
        "will_call": will_call(scene.data),
    }


def _load(scene: _Scene) -> dict[str, Any]:
    load = scene.facts.load
    return {"open": load.open, "overlapping": load.overlapping, "today": load.today, "last_hour": load.last_hour}


def _capacity(scene: _Scene) -> dict[str, Any]:
    level = scene.tables.levels.of(scene.data)
    return {"free": free(scene.tables.capacity, level, scene.local, scene.facts.in_use, scene.facts.units)}


def _offer(scene: _Scene) -> dict[str, Any]:
    facts = scene.facts
    age = None if facts.first_offered_at is None else max(0.0, (scene.now - facts.first_offered_at) / 60)
    if age is None and facts.times_seen <= 1:
        age = 0.0  # it is being seen for the first time
    return {"age_minutes": age, "times_seen": facts.times_seen, "proposals": facts.proposals}


_MADE: Final[Mapping[str, Callable[[_Scene], Any]]] = {
    "lead_minutes": _lead_minutes,
    "event": _event,
    "local": lambda scene: _time(scene.local),
    "now_local": _now_local,
    "trip": _trip,
    "load": _load,
    "capacity": _capacity,
    "other_leg": lambda scene: {"state": scene.facts.other_leg},
    "collection": lambda scene: {"held": scene.facts.collection_held, "seen": scene.facts.collection_seen},
    "offer": _offer,
}
