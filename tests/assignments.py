"""Builders for the state machine's tests: events, decisions, counsel, and the steps that they make."""

from datetime import UTC, datetime
from typing import Any

from shared.event import Event
from tests.webhooks import event
from worker import assignment
from worker.assignment import (
    Answer,
    Answered,
    Assignment,
    Counsel,
    Mode,
    Particulars,
    Rules,
    Step,
)
from worker.policy import Decision, Reason, Verdict

RULES = Rules(lease=15.0, confirm_within=120.0)
NEW = Assignment("acme", "VC-1")
NOW = 1000.0
ACCEPT = Decision(Verdict.ACCEPT, Reason.RULE, "rule 'all'", "all", "Gladly.")
DECLINE = Decision(Verdict.DECLINE, Reason.RULE, "rule 'none'", "none", "Sorry.")
PROPOSE = Decision(
    Verdict.PROPOSE, Reason.RULE, "rule 'later'", "later", propose_at=datetime(2026, 11, 23, 19, tzinfo=UTC)
)
NO_PARTICULARS = Particulars()
HOLD = Decision(Verdict.HOLD, Reason.DEFAULT, "no rule matched")
TEMPLATE = event()


def webhook(number: int, status: str = "AVAILABLE", action: str = "", data: Any = None) -> Event:
    """An event of our request; the number is its place in time."""
    names = {"AVAILABLE": "BROADCAST_RECEIVED", "ASSIGNED": "BROADCAST_ACCEPTED", "UNAVAILABLE": "GONE"}
    return Event(
        "acme",
        f"{number:032d}",
        f"2026-11-23T12:{number // 60 % 60:02d}:{number % 60:02d}.000Z",
        "VC-1",
        status,
        action or names.get(status, status),
        TEMPLATE.verified,
        data if data is not None or status == "UNAVAILABLE" else {"patient_age": 7},
    )


def counsel(
    decision: Decision = ACCEPT,
    *,
    mode: Mode = Mode.AUTOMATIC,
    limit: str | None = None,
    paused: bool = False,
    about: Particulars = NO_PARTICULARS,
    other_leg_is_missing: bool = False,
    other_leg_seconds: float = 0.0,
) -> Counsel:
    return Counsel(
        mode,
        about,
        decide=lambda _: decision,
        limit=lambda _: limit,
        paused=lambda: paused,
        other_leg_is_missing=lambda _: other_leg_is_missing,
        other_leg_seconds=other_leg_seconds,
    )


def offered(
    known: Assignment, found: Event, decision: Decision = ACCEPT, *, now: float = NOW, attempts: int = 0, **more: Any
) -> Step:
    return assignment.offered(
        known, found, counsel(decision, **more), rules=RULES, intent_id="intent", attempts=attempts, now=now
    )


def assigned(known: Assignment, found: Event, *, wanted: Any = lambda: True, rules: Rules = RULES) -> Step:
    return assignment.assigned(known, found, NO_PARTICULARS, wanted=lambda _: wanted(), rules=rules)


def answered(
    step: Step,
    found: Event,
    kind: Answered,
    *,
    now: float = NOW + 1,
    attempts: int = 0,
    intent_id: str = "intent",
    refusals: int = 1,
    **more: Any,
) -> Step:
    assert step.call is not None
    return assignment.answered(
        step.known,
        found,
        step.call,
        Answer(kind, **more),
        refusals=lambda: refusals,
        rules=RULES,
        intent_id=intent_id,
        attempts=attempts,
        now=now,
    )
