"""How an outcome is told to dispatch systems: the message on `dispatch.events` (docs/events.md, assignment/1). Pure."""

from typing import Final

import orjson

from shared.broker import Message
from shared.topics import TRACEPARENT, rfc3339
from worker.assignment import Assignment, Outcome, State

OUTCOME_TYPE: Final = "com.vectorcare.receiver.assignment."
_WITHOUT_REQUEST: Final = frozenset({State.LOST, State.DECLINING, State.PROPOSING})  # the minimum necessary


def outcome_message(
    known: Assignment, outcome: Outcome, environment: str, now: float, traceparent: str | None = None
) -> Message:
    """The message for one outcome of `known`; its id is the same however often it is published, and so is the trace
    that it belongs to."""
    subject = known.service_request_id
    outcome_id = f"{known.customer_id}/{subject}/{outcome.revision}"
    occurred_at = rfc3339(now)
    body = {
        "schema": "assignment/1",
        "id": outcome_id,
        "customer_id": known.customer_id,
        "environment": environment,
        "service_request_id": subject,
        "revision": outcome.revision,
        "state": outcome.state,
        "previous_state": outcome.previous_state,
        "confirmed": outcome.confirmed,
        "reason_code": outcome.reason_code,
        "reason": outcome.reason,
        "changed": outcome.changed,
        "needs_attention": outcome.needs_attention,
        "decided_by": outcome.decided_by,
        "actor": outcome.actor,
        "suggested": outcome.suggested,
        "tags": outcome.tags,
        "event_id": outcome.event_id,
        "action": outcome.action,
        "occurred_at": occurred_at,
        "request_event_id": outcome.request_event_id,
        "request": None if outcome.state in _WITHOUT_REQUEST else known.request,
    }
    headers = {
        "ce-specversion": "1.0",
        "ce-id": outcome_id,
        "ce-type": f"{OUTCOME_TYPE}{outcome.state}",
        "ce-source": f"/customers/{known.customer_id}",
        "ce-subject": subject,
        "ce-time": occurred_at,
        "ce-customerid": known.customer_id,
        **({TRACEPARENT: traceparent} if traceparent else {}),
    }
    return Message(f"assignment.{outcome.state}.{known.customer_id}", headers, orjson.dumps(body))
