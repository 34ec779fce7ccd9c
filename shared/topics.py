"""The topics: exchange, queue and header names, routing keys, and the topology as data (docs/events.md).

Pure. These names are a contract with people outside the code.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from shared.broker import Binding, Message, Queue, Topology
from shared.event import Event, Unreadable

WEBHOOKS: Final = "vectorcare.events"
OUTCOMES: Final = "dispatch.events"
COMMANDS: Final = "dispatch.commands"
BROADCAST_RECEIVED: Final = "receiver.broadcast-received"
BROADCAST_ACCEPTED: Final = "receiver.broadcast-accepted"
LIFECYCLE: Final = "receiver.lifecycle"
DEAD_LETTERS: Final = "receiver.dead-letters"
COMMANDS_QUEUE: Final = "receiver.commands"
TRACEPARENT: Final = "traceparent"  # W3C Trace Context; on webhooks and outcomes, where traces are switched on
EVENT_TYPE: Final = "com.vectorcare.openapi.v2."

_NOT_IN_A_KEY: Final = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_ACTION_IN_A_KEY: Final = 64


def topology(subscriptions: Iterable[tuple[str, str]] = ()) -> Topology:
    """All that must exist: each readable webhook reaches exactly one worker queue, by its status.

    `subscriptions` are (queue name, pattern) pairs of the configuration, on the outcomes' exchange; a queue may have
    several.
    """
    ours = (
        Queue(BROADCAST_RECEIVED, (Binding(WEBHOOKS, "*.AVAILABLE.*"),)),
        Queue(BROADCAST_ACCEPTED, (Binding(WEBHOOKS, "*.ASSIGNED.*"),)),
        Queue(
            LIFECYCLE,
            tuple(Binding(WEBHOOKS, f"*.{status}.*") for status in ("UNAVAILABLE", "COMPLETED", "OTHER")),
        ),
        Queue(DEAD_LETTERS, (Binding(WEBHOOKS, "UNREADABLE.*.*"),)),
        Queue(COMMANDS_QUEUE, (Binding(COMMANDS, "*.*"),)),
    )
    bindings: dict[str, tuple[Binding, ...]] = {}
    for name, pattern in subscriptions:
        bindings[name] = (*bindings.get(name, ()), Binding(OUTCOMES, pattern))
    theirs = tuple(Queue(name, bound, ours=False) for name, bound in bindings.items())
    return Topology((WEBHOOKS, OUTCOMES, COMMANDS), ours + theirs)


def rfc3339(at: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds, VectorCare's own form."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def received_at(headers: Mapping[str, str]) -> float | None:
    """When the ingress received a webhook, Unix seconds; None where the headers do not say."""
    try:
        return datetime.fromisoformat(headers["ce-receivedtime"]).timestamp()
    except (KeyError, ValueError):
        return None


def webhook_message(webhook: Event | Unreadable, received: float, traceparent: str | None = None) -> Message:
    """The message for a verified webhook: CloudEvents headers around the exact signed bytes. `traceparent` is the
    context of our own span (`shared.traces`), never what the sender's request said."""
    headers = {
        "ce-specversion": "1.0",
        "ce-source": f"/customers/{webhook.customer_id}",
        "ce-customerid": webhook.customer_id,
        "ce-receivedtime": rfc3339(received),
        "ce-signature": webhook.verified.signature,
        **({TRACEPARENT: traceparent} if traceparent else {}),
    }
    if isinstance(webhook, Unreadable):
        headers |= {
            "ce-id": webhook.digest,
            "ce-type": f"{EVENT_TYPE}UNREADABLE",
            "ce-reason": webhook.reason,
        }
        return Message(f"UNREADABLE.NONE.{webhook.customer_id}", headers, webhook.verified.body)
    headers |= {
        "ce-id": webhook.event_id,
        "ce-type": f"{EVENT_TYPE}{webhook.action}",
        "ce-subject": webhook.service_request_id,
        "ce-time": webhook.event_timestamp,
        "ce-action": webhook.action,
        "ce-requeststatus": webhook.request_status,
    }
    action = _NOT_IN_A_KEY.sub("_", webhook.action)[:_LONGEST_ACTION_IN_A_KEY]
    return Message(f"{action}.{webhook.status}.{webhook.customer_id}", headers, webhook.verified.body)


def matches(pattern: str, key: str) -> bool:
    """AMQP topic matching: `*` is one word, `#` any number of words, words are parted by dots."""
    return _matches(pattern.split("."), key.split("."))


def _matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[taken:]) for taken in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])
