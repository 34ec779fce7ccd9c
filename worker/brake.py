"""Tells a bad deploy from a bad event: a run of unexpected errors that is not one customer's doing. Pure.

Without it a bug that every event meets would move the whole queue into the dead letters within a minute.
"""

from typing import Final

RUN: Final = 5  # events in a row that fail unexpectedly
CUSTOMERS: Final = 2  # that they must be of, where there are so many: one customer's oddity must not stop the others
FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 60.0


class Brake:
    """Counts events that failed with no success in between; the same event again counts once."""

    def __init__(self, customers: int) -> None:
        self._needed = max(1, min(CUSTOMERS, customers))
        self._run: dict[tuple[str, str], None] = {}

    def failed(self, customer: str, event_id: str) -> bool:
        """An event failed unexpectedly; whether it is time to brake."""
        self._run[customer, event_id] = None
        return len(self._run) >= RUN and len({customer for customer, _ in self._run}) >= self._needed

    def succeeded(self) -> None:
        """An event was dealt with, whatever became of it."""
        self._run.clear()


def pause(trials: int) -> float:
    """Seconds until one delivery is tried again, after so many that failed."""
    doubled: float = FIRST_PAUSE * 2 ** min(trials, 10)
    return min(LONGEST_PAUSE, doubled)
