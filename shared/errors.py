"""The errors that cross rooms, split by what happens next.

    ReceiverError
    ├── ConfigurationError   a person mends it: every problem with its place; exit status 2
    ├── Unavailable          try again: the broker or the database can't be had just now
    │   ├── Unroutable       no queue took the message: our topology is missing on the broker
    │   ├── NotTaken         the broker answers, and a queue takes nothing: full, or changing its leader
    │   └── CannotOpen       a stored body's key is not on the ring (shared.sealing); it may be tomorrow
    └── DeliveryLost         nothing to do: the broker took the delivery back and will hand it out again

No message of these errors holds a payload, a header value or a secret.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class ReceiverError(Exception):
    """The root of every error that this product raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the configuration that a person must mend.

    `place` is a setting's path (`customers.acme.client_id`), a variable's name or a file; `message` says what is
    wrong and what to do, and never repeats a value. `customer` names the one customer that it concerns, if any.
    """

    place: str
    message: str
    customer: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class ConfigurationError(ReceiverError):
    """The configuration can't be used; `problems` lists all that was found at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Unavailable(ReceiverError):
    """The broker or the database did not do it in time; whether it was done is not known."""


class Unroutable(Unavailable):
    """The broker confirmed that no queue took the message."""


class NotTaken(Unavailable):
    """The broker is there and says no: a queue is full, or changes its leader; other queues may take theirs."""


class DeliveryLost(ReceiverError):
    """The broker no longer counts this delivery as ours, so it can't be settled; it comes again."""
