"""Hours of the week in a policy's own time: `days = "mon-fri"`, `from = "22:00"`, `to = "06:00"`. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_NAMES: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
DAY: Final = 24 * 60  # minutes


@dataclass(frozen=True, slots=True)
class Window:
    """`days` (1 is Monday) are those on which it begins. It holds `begins`, not `ends`, in minutes since midnight; an
    end before the beginning is on the next day."""

    days: frozenset[int] = frozenset(range(1, 8))
    begins: int = 0
    ends: int = DAY

    def covers(self, local: datetime) -> bool:
        """Whether a local time is within it."""
        minute = local.hour * 60 + local.minute
        today = local.isoweekday() in self.days
        if self.begins < self.ends:
            return today and self.begins <= minute < self.ends
        since_yesterday = (local.replace(tzinfo=None) - timedelta(days=1)).isoweekday() in self.days
        return (today and minute >= self.begins) or (since_yesterday and minute < self.ends)


def parse_days(text: str) -> frozenset[int]:
    """`mon-sat`, `sat,sun`, `fri-mon`; ValueError says what is wrong."""
    found: set[int] = set()
    for part in text.lower().replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if first not in _NAMES or (dash and last not in _NAMES):
            raise ValueError("is not days such as mon-fri or sat,sun")
        begin = _NAMES.index(first)
        length = (_NAMES.index(last) - begin) % 7 if dash else 0
        found |= {(begin + step) % 7 + 1 for step in range(length + 1)}
    return frozenset(found)


def parse_minute(text: str) -> int:
    """`06:30` as minutes since midnight, `24:00` its end; ValueError says what is wrong."""
    if not _TIME.fullmatch(text):
        raise ValueError("is not a time of day such as 06:30; the end of the day is 24:00")
    return int(text[:2]) * 60 + int(text[3:])
