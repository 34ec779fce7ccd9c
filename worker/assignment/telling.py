"""How a transition is told: an outcome with the next revision; and what every transition does to what we know. Pure."""

from dataclasses import replace
from typing import Any

from shared.event import Event
from worker.assignment.values import Assignment, Order, Outcome, Particulars, State, Step

PERSON = "person"


def tell(
    known: Assignment,
    event: Event | None,
    state: State,
    code: str,
    reason: str,
    *,
    confirmed: bool | None = None,
    changed: tuple[str, ...] = (),
    needs_attention: bool = False,
    suggested: str | None = None,
) -> Step:
    """The step that makes `state` known to everybody."""
    outcome = Outcome(
        state,
        known.state,
        known.revision + 1,
        code,
        reason,
        confirmed=confirmed,
        changed=changed,
        needs_attention=needs_attention,
        decided_by=known.decided_by,
        actor=known.actor,
        suggested=suggested,
        event_id=event.event_id if event else None,
        action=event.action if event else None,
        request_event_id=known.request_event_id,
        tags=known.tags,
    )
    return Step(replace(known, state=state, revision=outcome.revision), state.value, outcomes=(outcome,))


def then(first: Step, second: Step) -> Step:
    """Two transitions at once, told in their order."""
    return replace(second, outcomes=first.outcomes + second.outcomes)


def decider(known: Assignment) -> str:
    """The reason code that says who decided what was done: a person, a rule, or the policy's default."""
    if known.decided_by == PERSON:
        return "person"
    return "default" if known.decided_by is None else "rule"


def overtaken(known: Assignment) -> Assignment:
    """A webhook has told the end of whatever call is under way. No other begins before that one must have ended."""
    return replace(without_intent(known), not_before=max(known.not_before, known.intent_deadline))


def heard(known: Assignment, event: Event, order: Order) -> Assignment:
    """Nothing older than this event counts from now on."""
    return replace(known, newest=order, newest_status=event.status)


def described(known: Assignment, event: Event, particulars: Particulars) -> Assignment:
    """The request as this event has it; one that carries no data leaves it as it was."""
    if event.data is None:
        return known
    return replace(
        known,
        request=event.data,
        request_event_id=event.event_id,
        pickup_at=particulars.pickup_at,
        level=particulars.level,
        collection=particulars.collection,
    )


def without_intent(known: Assignment) -> Assignment:
    """No call is under way, and nobody is waited for."""
    return replace(known, intent_id=None, intent_call=None, intent_deadline=0.0, hold_until=None)


def differences(before: Any, after: Any, path: str = "") -> set[str]:
    """The paths of the fields that differ, to the depth of objects; lists count as one field."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {
            inner
            for name in before.keys() | after.keys()
            for inner in differences(before.get(name), after.get(name), f"{path}.{name}" if path else name)
        }
    return set() if before == after else {path or "request"}
