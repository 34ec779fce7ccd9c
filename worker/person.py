"""A person's answer to a held offer, carried out by the core: accept, decline, propose."""

from dataclasses import dataclass, field
from typing import Literal

from shared.broker import Delivery
from worker.desk import Desk

Outcome = Literal["done", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class PersonCommand:
    """What a person decided. `propose_at` is RFC 3339 in UTC; `not_after` is Unix seconds; notes may be PHI."""

    id: str
    customer_id: str
    service_request_id: str
    kind: Literal["accept", "decline", "propose"]
    notes: str | None = field(repr=False)
    propose_at: str | None
    actor: str
    expected_revision: int | None
    not_after: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """The one result of a command: a code of `command-result/1` and a sentence without values."""

    outcome: Outcome
    code: str
    sentence: str
    vectorcare_code: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """Not decided yet: the delivery comes again after so many seconds."""

    seconds: float


async def decide(desk: Desk, delivery: Delivery, command: PersonCommand) -> Result | Again:
    """Carry it out. Called again with the same id after Again, and after a crash before the result was committed: the
    second time must have no second effect."""
    return Result("refused", "not_built", f"{command.kind} by a person is not built into this version yet")
