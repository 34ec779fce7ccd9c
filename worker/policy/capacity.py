"""How many units a policy declares for a level of service at a time. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from worker.policy.window import Window


@dataclass(frozen=True, slots=True)
class Units:
    """So many units of a level during a window."""

    level: str
    units: int
    window: Window = field(default_factory=Window)


def free(
    declared: Iterable[Units], level: str | None, local: datetime | None, in_use: int | None, said: int | None
) -> int | None:
    """Units declared for this level and time (those of several windows add up) less those in use: negative where more
    is held than declared, None where anything of it is not known or no unit is declared for the level at all. What a
    dispatch system has `said` it has goes before what is declared."""
    if said is not None:
        return None if in_use is None else said - in_use
    of_level = [units for units in declared if units.level == level]
    if not of_level or local is None or in_use is None:
        return None
    return sum(units.units for units in of_level if units.window.covers(local)) - in_use
