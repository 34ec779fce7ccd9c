"""What a policy says of an offer. Pure values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Verdict(StrEnum):
    """What a policy does with an offer."""

    ACCEPT = "accept"
    DECLINE = "decline"
    PROPOSE = "propose"
    HOLD = "hold"
    IGNORE = "ignore"


class Reason(StrEnum):
    """Why it does so: the part of the contract's reason codes that a policy can give."""

    RULE = "rule"
    DEFAULT = "default"
    UNKNOWN_FIELD = "unknown_field"
    POLICY_ERROR = "policy_error"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy said. `reason` is a sentence without values; `rule` is None where none decided.

    `propose_at` is the time that PROPOSE proposes, UTC. A HOLD that nobody has answered within `answer_within` seconds
    becomes `then_after`. `tags` travel with the outcome.
    """

    verdict: Verdict
    reason_code: Reason
    reason: str
    rule: str | None = None
    notes: str | None = None
    propose_at: datetime | None = None
    answer_within: float | None = None
    then_after: Verdict | None = None
    tags: tuple[str, ...] = ()


def held(code: Reason, reason: str, rule: str | None = None) -> Decision:
    """A hold for want of knowledge or by a mistake: it has no deadline, a person must look."""
    return Decision(Verdict.HOLD, code, reason, rule)
