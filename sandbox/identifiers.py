"""Makes the ids that VectorCare would make: service requests, organizations, events."""

import time
from random import Random

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def short_id(chance: Random, length: int = 8) -> str:
    """An id after the guide's examples, such as BSBBCY5Q."""
    return "".join(chance.choices(ALPHABET, k=length))


class EventIds:
    """Event ids of 32 hex digits: 12 of milliseconds, 8 of a counter, 12 of chance.

    A later id is lexicographically greater, within one millisecond and when the clock steps back too. With
    `sortable=False` all digits are chance.
    """

    def __init__(self, chance: Random, *, sortable: bool) -> None:
        self._chance = chance
        self._sortable = sortable
        self._millisecond = 0
        self._counter = 0

    def next(self) -> str:
        """A new id, greater than all before it."""
        if not self._sortable:
            return f"{self._chance.getrandbits(128):032x}"
        millisecond = time.time_ns() // 1_000_000
        if millisecond > self._millisecond:
            self._millisecond, self._counter = millisecond, 0
        else:
            self._counter += 1
        return f"{self._millisecond:012x}{self._counter:08x}{self._chance.getrandbits(48):012x}"
