"""What a trip is by the policy's own tables: its level of service, how far and how long. Estimates; pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from worker.policy.offer import LOCATIONS
from worker.policy.window import Window

_EARTH_MILES: Final = 3958.8  # mean radius
ROAD: Final = 1.3  # miles by road for each mile as the crow flies, where the policy says nothing; a common estimate


@dataclass(frozen=True, slots=True)
class Levels:
    """Where the level of service is found, and what it means here. An empty map takes the words as they are."""

    fields: tuple[str, ...] = ()
    map: Mapping[str, str] | None = None

    def of(self, data: Mapping[str, Any] | None) -> str | None:
        """The level by the first field that says anything; None where none does or it is a word not in the map."""
        for name in self.fields:
            value = (data or {}).get(name)
            if value is not None:
                known = isinstance(value, str) and value
                return (self.map.get(value) if self.map else value) if known else None
        return None


@dataclass(frozen=True, slots=True)
class Travel:
    """How miles and minutes are estimated. The first of `speeds` whose window holds the pickup counts, else `mph`."""

    miles_factor: float = ROAD
    mph: float | None = None
    stop_minutes: float = 0
    speeds: tuple[tuple[Window, float], ...] = ()
    miles_field: str | None = None
    minutes_field: str | None = None

    def miles(self, data: Mapping[str, Any]) -> float | None:
        """By road from pickup to destination; None where a place has no position."""
        stated = _number(data.get(self.miles_field)) if self.miles_field else None
        if stated is not None:
            return stated
        places = [_position(data.get(name)) for name in LOCATIONS]
        begin, end = places
        return None if begin is None or end is None else round(_great_circle(begin, end) * self.miles_factor, 2)

    def minutes(self, data: Mapping[str, Any], local: datetime | None) -> float | None:
        """From pickup to drop-off, stops included; None where miles or speed are not known."""
        stated = _number(data.get(self.minutes_field)) if self.minutes_field else None
        if stated is not None:
            return stated
        miles, mph = self.miles(data), self._mph(local)
        return None if miles is None or mph is None else round(self.stop_minutes + miles / mph * 60, 1)

    def _mph(self, local: datetime | None) -> float | None:
        if not self.speeds:
            return self.mph
        if local is None:
            return None
        return next((mph for window, mph in self.speeds if window.covers(local)), self.mph)


def will_call(data: Mapping[str, Any]) -> bool | None:
    """Whether the way back begins when somebody calls, as `return_on_will_call` says; None where it does not say."""
    value = data.get("return_on_will_call")
    return value if isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _position(place: Any) -> tuple[float, float] | None:
    if not isinstance(place, Mapping):
        return None
    position = []
    for name, most in (("lat", 90), ("lng", 180)):
        value = place.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= most:
            return None
        position.append(math.radians(value))
    lat, lng = position
    return None if lat == 0 and lng == 0 else (lat, lng)  # 0, 0 is an address that was not found


def _great_circle(begin: tuple[float, float], end: tuple[float, float]) -> float:
    (lat, lng), (to_lat, to_lng) = begin, end
    half = math.sin((to_lat - lat) / 2) ** 2 + math.cos(lat) * math.cos(to_lat) * math.sin((to_lng - lng) / 2) ** 2
    return 2 * _EARTH_MILES * math.asin(min(1.0, math.sqrt(half)))
