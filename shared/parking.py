"""The headers that say why a message was parked and where it came from; no PHI among them.

Pure. `receiver.dead-letters` is an inbox; the lifecycle role moves what lies in it to the store's parked table.
"""

from typing import Final

from shared.broker import Message
from shared.topics import rfc3339

REASON: Final = "receiver-reason"
ORIGIN_QUEUE: Final = "receiver-queue"
ORIGIN_KEY: Final = "receiver-key"
ATTEMPTS: Final = "receiver-attempts"
PARKED_AT: Final = "receiver-parked-at"


def parked_headers(message: Message, reason: str, queue: str, attempts: int, now: float) -> dict[str, str]:
    """The message's own headers and the five of parking; an earlier parking's are replaced."""
    return {
        **message.headers,
        REASON: reason,
        ORIGIN_QUEUE: queue,
        ORIGIN_KEY: message.routing_key,
        ATTEMPTS: str(attempts),
        PARKED_AT: rfc3339(now),
    }
