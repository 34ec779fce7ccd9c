"""How long things wait: backoff between calls, and how long a webhook may yet tell what became of an accept. Pure."""

from typing import Final

from worker.assignment.values import Assignment, Rules

BACKOFF: Final = (1.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # seconds: quick first, because the first to accept gets it
MOST_ATTEMPTS: Final = 12  # of a call that never reached VectorCare; then a person is told
LOOK_AGAIN: Final = 2.0  # how soon a delivery asks after a call that another one is making
_JITTER: Final = 0.3  # of a long wait, so that what failed together does not come again together
_LONG: Final = 5.0  # seconds; the quick tries are worth more than their spreading


def backoff(attempts: int, intent_id: str) -> float:
    """Seconds until the next try; the intent's id, which is random, spreads those that failed at the same moment."""
    wait = BACKOFF[min(attempts, len(BACKOFF) - 1)]
    if wait < _LONG:
        return wait
    return wait * (1 + _JITTER * (sum(intent_id.encode()) % 16) / 16)


def left(known: Assignment, rules: Rules, now: float) -> float:
    """Seconds in which a webhook may yet tell what became of an accept whose answer is not known."""
    return (known.uncertain_since or now) + rules.confirm_within - now


def is_over(known: Assignment, now: float) -> bool:
    """Whether the pickup's time has passed, so that nothing is accepted unasked any more."""
    return known.pickup_at is not None and known.pickup_at <= now
