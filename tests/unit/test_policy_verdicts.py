"""Proposals, deadlines of holds, tags, explanations, and what a policy file may not say."""

from typing import Any

import pytest

from worker import policy
from worker.facts import Facts
from worker.policy import Decision, PolicyError, Reason, Sample, Verdict, Went
from worker.policy.compare import Comparison, Seen
from worker.policy.remarks import remarks

NOW = 1795435200.0  # 2026-11-23T12:00:00Z
PICKUP = {"pickup_date_time": "2026-11-23T12:20:00.000Z"}


def rule(more: str, name: str = "a", when: str = "true") -> str:
    return f"[[rules]]\nname = '{name}'\nwhen = '''{when}'''\n{more}\n"


def decide(text: str, data: dict[str, Any] | None = None) -> Decision:
    return policy.read(text).decide(Sample(data), NOW, Facts())


@pytest.mark.parametrize(
    ("minutes", "data", "at"),
    [
        pytest.param("propose_minutes_after_pickup = 60", PICKUP, "13:20:00", id="after the pickup"),
        pytest.param("propose_minutes_after_pickup = -19.5", PICKUP, "12:00:30", id="before it"),
        pytest.param("propose_minutes_after_pickup = 0", PICKUP, "12:20:00", id="at it"),
        pytest.param("propose_minutes_from_now = 45", PICKUP, "12:45:00", id="from now"),
        pytest.param("propose_minutes_from_now = 45", {}, "12:45:00", id="from now, without a pickup"),
        pytest.param(
            "propose_minutes_after_pickup = 5",
            {"pickup_date_time": "2026-11-23T04:20:00-08:00"},
            "12:25:00",
            id="in UTC, whatever the request's own zone",
        ),
    ],
)
def test_a_proposal_names_the_time_that_it_proposes(minutes: str, data: dict[str, Any], at: str) -> None:
    decision = decide(rule(f"then = 'propose'\n{minutes}"), data)
    assert (decision.verdict, decision.reason_code, decision.rule) == (Verdict.PROPOSE, Reason.RULE, "a")
    assert decision.propose_at is not None
    assert decision.propose_at.isoformat() == f"2026-11-23T{at}+00:00"


@pytest.mark.parametrize(
    ("minutes", "data", "why"),
    [
        pytest.param(-20, PICKUP, "a time that is past", id="at this moment"),
        pytest.param(-30, PICKUP, "a time that is past", id="past"),
        pytest.param(30, {}, "a pickup that is not known", id="no pickup"),
        pytest.param(30, {"pickup_date_time": "soon"}, "a pickup that is not known", id="a pickup that is no time"),
        pytest.param(30, {"pickup_date_time": "9999-12-31T23:59:00Z"}, "a pickup that", id="the end of time"),
        pytest.param(-30, {"pickup_date_time": "0001-01-01T00:00:00Z"}, "a pickup that", id="its beginning"),
    ],
)
def test_a_proposal_whose_time_cannot_be_is_held_and_says_why(minutes: int, data: dict[str, Any], why: str) -> None:
    decision = decide(rule(f"then = 'propose'\npropose_minutes_after_pickup = {minutes}"), data)
    assert (decision.verdict, decision.reason_code) == (Verdict.HOLD, Reason.POLICY_ERROR)
    assert why in decision.reason
    assert decision.propose_at is None


def test_a_hold_carries_its_deadline_its_tags_and_its_notes() -> None:
    decision = decide(
        rule("then = 'hold'\nanswer_within_minutes = 2.5\nthen_after = 'decline'\ntags = ['a', 'b c']\nnotes = 'No.'")
    )
    assert decision == Decision(
        Verdict.HOLD, Reason.RULE, "rule 'a'", "a", "No.", None, 150.0, Verdict.DECLINE, ("a", "b c")
    )


def test_the_default_may_be_a_hold_with_a_deadline_and_only_where_no_rule_matched() -> None:
    text = "answer_within_minutes = 5\nthen_after = 'ignore'\n" + rule("then = 'accept'", when="request.hospice")
    assert decide(text, {"hospice": False}).then_after is Verdict.IGNORE
    assert decide(text, {"hospice": False}).answer_within == 300
    undecided = decide(text, {})
    assert (undecided.reason_code, undecided.answer_within) == (Reason.UNKNOWN_FIELD, None)


@pytest.mark.parametrize("default", ["accept", "decline", "hold", "ignore"])
def test_the_default_decides_where_no_rule_does(default: str) -> None:
    assert decide(f"default = '{default}'\n") == Decision(Verdict(default), Reason.DEFAULT, "no rule matched")


def test_ignore_lets_an_offer_expire() -> None:
    assert decide(rule("then = 'ignore'")).verdict is Verdict.IGNORE


def test_the_numbers_that_the_workers_need_are_there_with_their_defaults() -> None:
    assert (policy.read("").trip_minutes, policy.read("").other_leg_seconds) == (90, 0)
    given = policy.read("trip_minutes = 45\n[round_trips]\nwait_seconds = 20\n")
    assert (given.trip_minutes, given.other_leg_seconds) == (45, 20)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        pytest.param(rule("then = 'propose'"), "rules[0]", "needs propose_minutes", id="a proposal without a time"),
        pytest.param(
            rule("then = 'propose'\npropose_minutes_after_pickup = 1\npropose_minutes_from_now = 1"),
            "rules[0]",
            "one of them",
            id="with two",
        ),
        pytest.param(
            rule("then = 'accept'\npropose_minutes_after_pickup = 1"), "rules[0]", "does not propose", id="an accept"
        ),
        pytest.param(
            rule("then = 'propose'\npropose_minutes_after_pickup = '60'"),
            "rules[0].propose_minutes_after_pickup",
            "number",
            id="a text",
        ),
        pytest.param(
            rule("then = 'propose'\npropose_minutes_from_now = -5"),
            "rules[0].propose_minutes_from_now",
            "greater than 0",
            id="before now",
        ),
        pytest.param(rule("then = 'hold'\nanswer_within_minutes = 5"), "rules[0]", "go together", id="half a deadline"),
        pytest.param(rule("then = 'hold'\nthen_after = 'decline'"), "rules[0]", "go together", id="the other half"),
        pytest.param(
            rule("then = 'accept'\nanswer_within_minutes = 5\nthen_after = 'decline'"),
            "rules[0]",
            "are for a hold",
            id="a deadline of an accept",
        ),
        pytest.param(
            rule("then = 'hold'\nanswer_within_minutes = 5\nthen_after = 'propose'"),
            "rules[0].then_after",
            "'accept', 'decline' or 'ignore'",
            id="a proposal afterwards",
        ),
        pytest.param(
            "default = 'accept'\nanswer_within_minutes = 5\nthen_after = 'decline'\n",
            "file",
            "are for a hold",
            id="a deadline of a default that is no hold",
        ),
        pytest.param(rule("then = 'accept'\ntags = ['']"), "rules[0].tags[0]", "at least 1", id="an empty tag"),
        pytest.param("default = 'propose'", "default", "'accept', 'decline', 'hold' or 'ignore'", id="a default"),
        pytest.param("[[capacity]]\nlevel = 'a'\nunits = 1", "capacity", "needs [levels]", id="no levels"),
        pytest.param(
            "levels.fields = ['l']\nlevels.map = {W = 'b'}\n[[capacity]]\nlevel = 'a'\nunits = 1",
            "capacity[0].level",
            "no word of levels.map means 'a'",
            id="a level that nothing means",
        ),
        pytest.param(
            "levels.fields = ['l']\n[[capacity]]\nlevel = 'a'\nunits = 1\ndays = 'mon-someday'",
            "capacity[0].days",
            "is not days",
            id="days",
        ),
        pytest.param(
            "levels.fields = ['l']\n[[capacity]]\nlevel = 'a'\nunits = 1\nfrom = '6:00'",
            "capacity[0].from",
            "is not a time of day",
            id="a time of day",
        ),
        pytest.param(
            "levels.fields = ['l']\n[[capacity]]\nlevel = 'a'\nunits = 1\nfrom = '06:00'\nto = '06:00'",
            "capacity[0]",
            "leave no time",
            id="an empty window",
        ),
        pytest.param("trip_minutes = 0", "trip_minutes", "greater than 0", id="trips of no length"),
        pytest.param("round_trips.wait_seconds = 3600", "round_trips.wait_seconds", "600", id="too long a wait"),
        pytest.param("travel.mph = 0", "travel.mph", "greater than 0", id="no speed"),
    ],
)
def test_a_policy_that_says_what_cannot_be_is_refused_with_the_place(text: str, place: str, problem: str) -> None:
    with pytest.raises(PolicyError) as refused:
        policy.read(text)
    assert refused.value.problems[0][0] == place
    assert problem in refused.value.problems[0][1]


def test_an_explanation_tells_what_became_of_each_rule_until_one_decided() -> None:
    rules = policy.read(
        rule("then = 'decline'\nunknown = 'skip'", "heavy", "request.patient_weight_lbs > 300")
        + rule("then = 'decline'", "old", "request.patient_age > 100")
        + rule("then = 'accept'", "rest")
        + rule("then = 'hold'", "never asked")
    )
    explained = rules.explain(Sample({"patient_age": 7}), NOW)
    assert [(tried.rule, tried.went, tried.why) for tried in explained.tried] == [
        ("heavy", Went.SKIPPED, "request.patient_weight_lbs"),
        ("old", Went.DID_NOT_MATCH, None),
        ("rest", Went.MATCHED, None),
    ]
    assert explained.decision == rules.decide(Sample({"patient_age": 7}), NOW)
    assert rules.explain(Sample({}), NOW).tried[-1].went is Went.UNDECIDED
    failed = rules.explain(Sample({"patient_age": "secret"}), NOW)
    assert failed.tried[-1].went is Went.FAILED
    assert "secret" not in str(failed)


def test_a_comparison_counts_from_which_verdict_to_which_and_lists_the_first_changes() -> None:
    old = policy.read(rule("then = 'accept'", "young", "request.patient_age < 60"))
    new = policy.read(
        rule("then = 'accept'", "child", "request.patient_age < 18")
        + rule("then = 'decline'", "grown", "request.patient_age < 60")
    )
    comparison = Comparison(most=2)
    for age in (7, 20, 30, 40, 80):
        comparison.add(
            old, new, [Seen("acme", Sample({"patient_age": age}, service_request_id=str(age)), NOW, Facts())]
        )
    assert comparison.seen == 5
    assert (comparison.same, comparison.other_rules) == (2, 1)
    assert comparison.matrix == {
        (Verdict.ACCEPT, Verdict.ACCEPT): 1,
        (Verdict.ACCEPT, Verdict.DECLINE): 3,
        (Verdict.HOLD, Verdict.HOLD): 1,
    }
    assert [(change.service_request_id, change.old.rule, change.new.rule) for change in comparison.changes] == [
        ("20", "young", "grown"),
        ("30", "young", "grown"),
    ]


def test_a_variable_without_its_table_is_remarked() -> None:
    when = "trip.level == 'a' && capacity.free > 0 && trip.minutes < 3"
    assert [remark.split()[0] for remark in remarks(policy.read(rule("then = 'hold'", when=when)))] == [
        "trip.level",
        "capacity.free",
        "trip.minutes",
    ]
    assert list(remarks(policy.read(rule("then = 'hold'", when="trip.miles > 3")))) == []
