"""docs/assignment.md holds the whole table of the state machine; here the machine is asked for each of its cells."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.assignments import (
    ACCEPT,
    DECLINE,
    HOLD,
    NEW,
    NO_PARTICULARS,
    NOW,
    PROPOSE,
    RULES,
    answered,
    assigned,
    offered,
    webhook,
)
from worker import assignment
from worker.assignment import Answered, Assignment, Call, Step, Wish
from worker.assignment.offers import call_forgotten

DOC = (Path(__file__).parents[2] / "docs/assignment.md").read_text()
OFFER = webhook(10)
LATER = NOW + 5

INTENDED = offered(NEW, OFFER)
UNKNOWN = answered(INTENDED, OFFER, Answered.UNKNOWN)
TAKEN = answered(INTENDED, OFFER, Answered.TAKEN)
DECLINING = offered(NEW, OFFER, DECLINE)
PROPOSING = offered(NEW, OFFER, PROPOSE)
HELD = offered(NEW, OFFER, HOLD)
UNTOLD = offered(UNKNOWN.known, OFFER, now=NOW + 200)

SITUATIONS: Mapping[str, Assignment] = {
    "nothing is known": NEW,
    "held": HELD.known,
    "accept under way": INTENDED.known,
    "accept, answer unknown": UNKNOWN.known,
    "held, unconfirmed accept": UNTOLD.known,
    "accept taken": TAKEN.known,
    "assigned, not confirmed": offered(TAKEN.known, OFFER, now=NOW + 200).known,
    "assigned": assigned(TAKEN.known, webhook(12, "ASSIGNED")).known,
    "decline under way": DECLINING.known,
    "declined": answered(DECLINING, OFFER, Answered.TAKEN).known,
    "proposed": answered(PROPOSING, OFFER, Answered.TAKEN).known,
    "lost": answered(INTENDED, OFFER, Answered.GONE).known,
    "closed": assignment.ended(HELD.known, webhook(12, "UNAVAILABLE"), rules=RULES).known,
    "released": assignment.ended(TAKEN.known, webhook(12, "UNAVAILABLE"), rules=RULES).known,
    "completed": assignment.completed(TAKEN.known, webhook(12, "COMPLETED"), NO_PARTICULARS, rules=RULES).known,
}
EVENTS: Mapping[str, Callable[[Assignment], Step]] = {
    "AVAILABLE, older": lambda known: offered(known, webhook(5), now=LATER),
    "AVAILABLE, again": lambda known: offered(known, OFFER, now=LATER),
    "AVAILABLE, newer": lambda known: offered(known, webhook(20), now=LATER),
    "ASSIGNED": lambda known: assigned(known, webhook(20, "ASSIGNED", data={"patient_age": 8})),
    "UNAVAILABLE": lambda known: assignment.ended(known, webhook(20, "UNAVAILABLE"), rules=RULES),
    "COMPLETED": lambda known: assignment.completed(known, webhook(20, "COMPLETED"), NO_PARTICULARS, rules=RULES),
    "a person accepts": lambda known: assignment.wished(
        known, Wish("1", Call.ACCEPT, "ann"), paused=lambda: False, rules=RULES, intent_id="2", now=LATER
    ),
}
ANSWERS: Mapping[str, tuple[Answered, str | None, int]] = {
    "taken (200, 201)": (Answered.TAKEN, None, 1),
    "gone (403, 404)": (Answered.GONE, None, 1),
    "gone, the fifth in a row without permission": (Answered.GONE, "members:permission_denied", 5),
    "not_permitted (403 `public_api:`)": (Answered.NOT_PERMITTED, "public_api:public_api_not_enabled", 1),
    "invalid (400)": (Answered.INVALID, None, 1),
    "throttled (429)": (Answered.THROTTLED, None, 1),
    "no_token (401 after renewal, no token)": (Answered.NO_TOKEN, None, 1),
    "not_sent (no connection)": (Answered.NOT_SENT, None, 1),
    "unknown (5xx, broken off, timeout)": (Answered.UNKNOWN, None, 1),
}
CALLS: Mapping[str, Step] = {
    "accept": INTENDED,
    "accept, after an unknown one": offered(UNKNOWN.known, OFFER, ACCEPT, now=LATER),
    "accept, overtaken by ASSIGNED": replace(INTENDED, known=assigned(INTENDED.known, webhook(20, "ASSIGNED")).known),
    "accept, overtaken by UNAVAILABLE": replace(
        INTENDED, known=assignment.ended(INTENDED.known, webhook(20, "UNAVAILABLE"), rules=RULES).known
    ),
    "accept, given up while it hung": replace(INTENDED, known=call_forgotten(INTENDED.known)),
    "decline": DECLINING,
    "propose": PROPOSING,
}


def cell(step: Step) -> str:
    """What was told, or in brackets what was done instead; and whether it comes again."""
    told = ", ".join(f"**{outcome.state}**" for outcome in step.outcomes)
    codes = [outcome.reason_code for outcome in step.outcomes if outcome.state == "held"]
    told += f" {codes[0]}" if codes else ""
    again = " ↻" if step.settle.after is not None else ""
    return (told or step.note.replace("_", " ")) + again


def documented(heading: str) -> list[list[str]]:
    part = DOC.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|") and not set(line) <= set("|- ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_table_of_what_happens_to_what_is_known_is_the_codes() -> None:
    wanted = [["what we know", *EVENTS]]
    wanted += [[name, *(cell(event(known)) for event in EVENTS.values())] for name, known in SITUATIONS.items()]
    assert documented("What happens") == wanted, "\n".join("| " + " | ".join(row) + " |" for row in wanted)


@pytest.mark.parametrize("name", ANSWERS)
def test_what_an_answer_of_the_api_does_is_in_the_table(name: str) -> None:
    kind, code, refusals = ANSWERS[name]
    again: dict[str, Any] = {"now": LATER, "code": code, "refusals": refusals, "attempts": int(refusals > 1)}
    wanted = [name, *(cell(answered(step, OFFER, kind, **again)) for step in CALLS.values())]
    table = documented("What the API answers")
    assert table[0] == ["answer", *CALLS]
    assert wanted in table, "| " + " | ".join(wanted) + " |"


@pytest.mark.parametrize("kind", Answered)
def test_every_answer_is_in_the_table(kind: Answered) -> None:
    assert any(name.startswith(kind.value) for name in ANSWERS)
    assert len(documented("What the API answers")) == 1 + len(ANSWERS)
