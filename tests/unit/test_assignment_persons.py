"""What persons' commands may never do: end unheard, or go on for ever."""

from dataclasses import replace

from tests.assignments import HOLD, NEW, NOW, RULES, assigned, offered, webhook
from worker import assignment
from worker.assignment import Answer, Answered, Assignment, Call, Step, Wish

HELD = offered(NEW, webhook(1), HOLD).known


def wished(known: Assignment, name: str, *, now: float = NOW, paused: bool = False) -> Step:
    wish = Wish(name, Call.ACCEPT, "kim")
    return assignment.wished(known, wish, paused=lambda: paused, rules=RULES, intent_id=name, now=now)


def answered(step: Step, name: str, kind: Answered, *, now: float = NOW) -> Step:
    return assignment.answered(
        step.known, None, Call.ACCEPT, Answer(kind), refusals=int, rules=RULES, intent_id=name, attempts=0, now=now
    )


def test_a_second_command_waits_for_what_becomes_of_the_first_ones_accept() -> None:
    unknown = answered(wished(HELD, "first"), "first", Answered.UNKNOWN)
    second = wished(unknown.known, "second", now=NOW + 2)
    assert (second.call, second.note, second.settle.counted) == (None, "call_under_way", False)
    told = wished(second.known, "first", now=NOW + RULES.confirm_within + 1)
    assert [outcome.reason_code for outcome in told.outcomes] == ["unconfirmed_accept"]
    assert wished(told.known, "second", now=NOW + RULES.confirm_within + 2).call is Call.ACCEPT


def test_a_pause_ends_no_command_whose_accept_may_have_been_taken() -> None:
    unknown = answered(wished(HELD, "first"), "first", Answered.UNKNOWN)
    again = wished(unknown.known, "first", now=NOW + 20, paused=True)
    assert (again.call, again.result, again.settle.after) == (None, None, RULES.confirm_within - 20)
    told = wished(again.known, "first", now=NOW + RULES.confirm_within, paused=True)
    assert [outcome.reason_code for outcome in told.outcomes] == ["unconfirmed_accept"]


def test_a_command_that_finds_its_accept_taken_still_sees_to_its_confirmation() -> None:
    taken = answered(wished(HELD, "first"), "first", Answered.TAKEN)
    again = wished(taken.known, "first", now=NOW + 20)
    assert again.result is not None
    assert (again.result.code, again.settle.after) == ("accepted", RULES.confirm_within - 20)
    confirmed = assigned(taken.known, webhook(2, "ASSIGNED"))
    assert wished(confirmed.known, "first", now=NOW + 20).settle.after is None


def test_a_taken_accept_after_an_unconfirmed_one_mends_its_gap() -> None:
    unknown = answered(wished(HELD, "first"), "first", Answered.UNKNOWN)
    silent = wished(unknown.known, "first", now=NOW + RULES.confirm_within + 1)
    assert silent.opens == (assignment.Gap.ANSWER,)
    again = wished(silent.known, "second", now=NOW + 200)
    assert answered(again, "second", Answered.TAKEN, now=NOW + 201).closes == (assignment.Gap.ANSWER,)
    anew = offered(replace(silent.known, decided_by=None), webhook(2), HOLD, now=NOW + 200)
    assert anew.closes == (assignment.Gap.ANSWER,)


def test_an_assigned_that_comes_after_its_completed_mends_the_gap() -> None:
    over = assignment.completed(NEW, webhook(3, "COMPLETED"), assignment.Particulars(), rules=RULES)
    assert over.opens == (assignment.Gap.ASSIGNMENT,)
    assert assigned(over.known, webhook(2, "ASSIGNED")).closes == (assignment.Gap.ASSIGNMENT,)
