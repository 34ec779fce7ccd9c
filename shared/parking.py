"""The headers that say why a message was parked and where it came from; no PHI among them.

Pure. `receiver.dead-letters` is an inbox; the lifecycle role moves what lies in it to the store's parked table.
"""

from collections.abc import Mapping
from typing import Final

from shared.broker import Message
from shared.topics import rfc3339

REASON: Final = "receiver-reason"
ORIGIN_QUEUE: Final = "receiver-queue"
ORIGIN_KEY: Final = "receiver-key"
ATTEMPTS: Final = "receiver-attempts"
FIRST_FAILED_AT: Final = "receiver-first-failed-at"
PARKED_AT: Final = "receiver-parked-at"  # which is when it failed last
_STORY: Final = (REASON, ORIGIN_QUEUE, ORIGIN_KEY, ATTEMPTS, FIRST_FAILED_AT, PARKED_AT)


def parked_headers(
    message: Message, reason: str, queue: str, attempts: int, first_failed_at: float | None, now: float
) -> dict[str, str]:
    """The message's own headers and the six of parking; an earlier parking's are replaced.

    `first_failed_at` is when a counted retry was first asked for; None where this is its first failure.
    """
    return {
        **message.headers,
        REASON: reason,
        ORIGIN_QUEUE: queue,
        ORIGIN_KEY: message.routing_key,
        ATTEMPTS: str(attempts),
        FIRST_FAILED_AT: rfc3339(now if first_failed_at is None else first_failed_at),
        PARKED_AT: rfc3339(now),
    }


def without_story(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as they were before the message was parked."""
    return {name: value for name, value in headers.items() if name not in _STORY}
