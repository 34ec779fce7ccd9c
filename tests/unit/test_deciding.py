"""What the state machine does beside webhooks and answers: deadlines, proposals, pauses, persons, two legs."""

from dataclasses import replace
from typing import Any

import pytest

from tests.assignments import ACCEPT, DECLINE, HOLD, NEW, NOW, PROPOSE, RULES, answered, assigned, offered, webhook
from worker import assignment
from worker.assignment import Answered, Assignment, Call, Mode, Particulars, State, Step, Wish
from worker.policy import Verdict

OFFER = webhook(10)
ASKING = replace(HOLD, answer_within=600.0, then_after=Verdict.ACCEPT)
LEG = {"round_trip_other_service_request_id": "VC-2"}


def told(*steps: Step) -> list[tuple[str, str]]:
    return [(outcome.state.value, outcome.reason_code) for step in steps for outcome in step.outcomes]


def wished(
    known: Assignment, call: Call = Call.ACCEPT, *, by: str = "c-1", now: float = NOW, paused: bool = False, **more: Any
) -> Step:
    wish = Wish(by, call, "ann", **more)
    return assignment.wished(known, wish, paused=lambda: paused, rules=RULES, intent_id="person", now=now)


def person_answered(step: Step, kind: Answered, **more: Any) -> Step:
    assert step.call is not None
    given = answered(step, OFFER, kind, intent_id="person", **more)
    return assignment.wish_answered(given, step.call, assignment.Answer(kind))


def test_a_hold_that_nobody_answers_is_decided_again_and_only_then_done() -> None:
    held = offered(NEW, OFFER, ASKING)
    assert (told(held), held.settle.after) == ([("held", "default")], 600.0)
    early = offered(held.known, OFFER, ASKING, now=NOW + 100)
    assert (told(early), early.settle.after) == ([], 500.0)
    late = offered(held.known, OFFER, ASKING, now=NOW + 600)
    assert late.call is Call.ACCEPT


def test_after_the_deadline_rules_limits_and_the_pause_go_first() -> None:
    held = offered(NEW, OFFER, ASKING).known
    assert offered(held, OFFER, DECLINE, now=NOW + 600).call is Call.DECLINE
    assert told(offered(held, OFFER, ASKING, now=NOW + 600, limit="max_open (1) is reached")) == [("held", "limit")]
    assert told(offered(held, OFFER, ASKING, now=NOW + 600, paused=True)) == [("held", "paused")]
    assert offered(held, OFFER, HOLD, now=NOW + 600).note == "held_on"


def test_a_hold_that_a_person_answered_has_no_deadline_any_more() -> None:
    held = offered(NEW, OFFER, ASKING).known
    taken = person_answered(wished(held), Answered.TAKEN)
    assert offered(taken.known, OFFER, ASKING, now=NOW + 600).call is None


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.SUGGEST])
def test_a_deadline_does_nothing_where_the_policy_may_not_act(mode: Mode) -> None:
    held = offered(NEW, OFFER, ASKING, mode=mode)
    assert held.settle.after is None


def test_a_rule_proposes_once_for_a_request_however_often_it_is_offered() -> None:
    proposing = offered(NEW, OFFER, PROPOSE)
    assert (proposing.call, proposing.propose_at) == (Call.PROPOSE, PROPOSE.propose_at)
    proposed = answered(proposing, OFFER, Answered.TAKEN)
    assert told(proposed) == [("proposing", "rule")]
    again = offered(proposed.known, webhook(20), PROPOSE)
    assert (again.call, told(again)) == (None, [("held", "rule")])


def test_a_proposal_whose_answer_is_unknown_is_not_made_again() -> None:
    unknown = answered(offered(NEW, OFFER, PROPOSE), OFFER, Answered.UNKNOWN)
    assert (told(unknown), unknown.known.proposals) == ([("held", "other")], 1)
    crashed = offered(offered(NEW, OFFER, PROPOSE).known, OFFER, PROPOSE, now=NOW + RULES.lease + 1)
    assert (crashed.call, told(crashed)) == (None, [("held", "rule")])


def test_a_proposal_that_the_requester_takes_makes_the_trip_ours() -> None:
    proposed = answered(offered(NEW, OFFER, PROPOSE), OFFER, Answered.TAKEN)
    ours = assigned(proposed.known, webhook(20, "ASSIGNED", "PROPOSAL_ACCEPTED"))
    assert told(ours) == [("assigned", "proposal_accepted")]


def test_an_ignored_offer_is_told_to_nobody_and_closes_when_it_expires() -> None:
    ignored = offered(NEW, OFFER, replace(HOLD, verdict=Verdict.IGNORE))
    assert (ignored.call, told(ignored), ignored.note) == (None, [], "ignored")
    expired = assignment.ended(ignored.known, webhook(20, "UNAVAILABLE", "BROADCAST_EXPIRED"), rules=RULES)
    assert told(expired) == [("closed", "expired")]


@pytest.mark.parametrize("decision", [ACCEPT, DECLINE, PROPOSE])
def test_while_paused_nothing_is_called_and_the_offer_is_held(decision: Any) -> None:
    step = offered(NEW, OFFER, decision, paused=True)
    assert (step.call, told(step)) == (None, [("held", "paused")])


def test_an_offer_whose_pickup_has_passed_is_held_and_never_accepted_unasked() -> None:
    about = Particulars(pickup_at=NOW - 1)
    step = offered(NEW, OFFER, ACCEPT, about=about)
    assert (step.call, told(step)) == (None, [("held", "offer_too_old")])
    assert wished(step.known).call is Call.ACCEPT


def test_an_unknown_accept_is_not_repeated_while_paused() -> None:
    unknown = answered(offered(NEW, OFFER), OFFER, Answered.UNKNOWN)
    assert offered(unknown.known, OFFER, paused=True, now=NOW + 3).call is None


def test_the_fifth_refusal_in_a_row_for_lack_of_permission_is_no_lost_race() -> None:
    code = "members:permission_denied"
    first = answered(offered(NEW, OFFER), OFFER, Answered.GONE, code=code, refusals=4)
    assert told(first) == [("lost", "taken_by_other")]
    again = answered(offered(NEW, OFFER), OFFER, Answered.GONE, code=code, refusals=5)
    assert (told(again), again.settle.after) == ([], 2.0)
    last = answered(offered(again.known, OFFER), OFFER, Answered.GONE, code=code, refusals=6, attempts=1)
    assert told(last) == [("held", "not_permitted")]


def test_a_round_trip_waits_for_its_other_leg_and_not_for_ever() -> None:
    offer = webhook(10, data=LEG)
    waiting = offered(NEW, offer, other_leg_is_missing=True, other_leg_seconds=30.0)
    assert (waiting.call, waiting.note) == (None, "awaiting_other_leg")
    assert offered(waiting.known, offer, other_leg_seconds=30.0, now=NOW + 1).call is Call.ACCEPT
    assert offered(waiting.known, offer, other_leg_is_missing=True, other_leg_seconds=30.0, now=NOW + 31).call


def test_whoever_has_one_leg_is_told_once_that_the_other_is_lost() -> None:
    mine = answered(offered(NEW, webhook(10, data=LEG)), OFFER, Answered.TAKEN).known
    assert mine.other_leg == "VC-2"
    other = replace(NEW, service_request_id="VC-2", state=State.LOST)
    first = assignment.other_leg_ended(mine, other)
    assert told(first) == [("updated", "other_leg_lost")]
    assert first.outcomes[0].needs_attention
    assert told(assignment.other_leg_ended(first.known, other)) == []
    assert told(assignment.other_leg_ended(mine, replace(other, state=State.HELD))) == []


def test_a_persons_accept_takes_the_way_of_a_rules() -> None:
    intended = wished(offered(NEW, OFFER, HOLD).known, notes="Gladly.")
    assert (intended.call, intended.notes, intended.result) == (Call.ACCEPT, "Gladly.", None)
    taken = person_answered(intended, Answered.TAKEN)
    assert told(taken) == [("accepting", "person")]
    assert (taken.outcomes[0].actor, taken.outcomes[0].decided_by) == ("ann", "person")
    assert taken.result is not None
    assert (taken.result.ending, taken.settle.after) == ("done", RULES.confirm_within)
    silent = assignment.wish_looked_after(taken.known, Wish("c-1", Call.ACCEPT, "ann"), rules=RULES, now=NOW + 200)
    assert (told(silent), silent.outcomes[0].confirmed) == ([("assigned", "person")], False)


def test_a_persons_accept_that_is_refused_has_failed_and_is_lost() -> None:
    refused = person_answered(wished(offered(NEW, OFFER, HOLD).known), Answered.GONE)
    assert told(refused) == [("lost", "taken_by_other")]
    assert refused.result is not None
    assert (refused.result.ending, refused.result.code) == ("failed", "not_available")


def test_a_persons_accept_of_which_nothing_is_known_is_repeated_and_ends_as_unconfirmed() -> None:
    unknown = person_answered(wished(offered(NEW, OFFER, HOLD).known), Answered.UNKNOWN)
    assert (unknown.result, unknown.settle.after) == (None, 1.0)
    again = wished(unknown.known, now=NOW + 3)
    assert again.call is Call.ACCEPT
    lost_again = person_answered(again, Answered.UNKNOWN, now=NOW + 4)
    ended = wished(lost_again.known, now=NOW + 200)
    assert told(ended) == [("held", "unconfirmed_accept")]
    assert ended.result is not None
    assert ended.result.code == "unconfirmed_accept"
    taken = assigned(lost_again.known, webhook(20, "ASSIGNED"))
    meanwhile = wished(taken.known, now=NOW + 5)
    assert meanwhile.result is not None
    assert meanwhile.result.ending == "done"


@pytest.mark.parametrize(
    ("known", "more", "code"),
    [
        pytest.param(NEW, {}, "unknown_request", id="never heard of"),
        pytest.param(offered(NEW, OFFER, HOLD).known, {"expected_revision": 7}, "stale_revision", id="stale"),
        pytest.param(offered(NEW, OFFER, HOLD).known, {"not_after": NOW - 1}, "expired", id="too late"),
        pytest.param(assigned(NEW, webhook(10, "ASSIGNED")).known, {}, "already_ours", id="ours"),
        pytest.param(assignment.ended(NEW, webhook(10, "UNAVAILABLE"), rules=RULES).known, {}, "not_open", id="gone"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_without_a_call(known: Assignment, more: Any, code: str) -> None:
    step = wished(known, **more)
    assert (step.call, step.outcomes) == (None, ())
    assert step.result is not None
    assert (step.result.ending, step.result.code) == ("refused", code)


def test_while_paused_a_person_may_decline_and_not_accept() -> None:
    held = offered(NEW, OFFER, HOLD).known
    refused = wished(held, paused=True)
    assert refused.result is not None
    assert refused.result.code == "paused"
    assert wished(held, Call.DECLINE, paused=True).call is Call.DECLINE


def test_what_proves_a_lost_webhook_is_kept_and_closed_when_it_comes_after_all() -> None:
    taken = assigned(NEW, webhook(20, "ASSIGNED"))
    assert taken.opens == (assignment.Gap.OFFER,)
    assert assignment.Gap.OFFER in offered(taken.known, OFFER).closes
    silent = offered(answered(offered(NEW, OFFER), OFFER, Answered.TAKEN).known, OFFER, now=NOW + 200)
    assert silent.opens == (assignment.Gap.CONFIRMATION,)
    assert assignment.Gap.CONFIRMATION in assigned(silent.known, webhook(20, "ASSIGNED")).closes


def test_a_wish_whose_time_is_over_is_not_tried_again_unless_its_accept_may_have_been_taken() -> None:
    held = offered(NEW, OFFER, HOLD).known
    unreached = person_answered(wished(held, not_after=NOW + 5), Answered.NOT_SENT)
    late = wished(unreached.known, not_after=NOW + 5, now=NOW + 10)
    assert late.result is not None
    assert late.result.code == "expired"
    unknown = person_answered(wished(held, not_after=NOW + 5), Answered.UNKNOWN)
    assert wished(unknown.known, not_after=NOW + 5, now=NOW + 10).result is None


def test_an_accept_that_was_given_up_while_it_hung_is_looked_after_by_whoever_made_it() -> None:
    hanging = offered(NEW, OFFER)
    given_up = wished(hanging.known, now=NOW + 20, paused=True).known
    late = answered(replace(hanging, known=given_up), OFFER, Answered.GONE, now=NOW + 21)
    assert (told(late), late.settle.after) == ([], 1.0)
    assert told(offered(late.known, OFFER, now=NOW + 200)) == [("held", "unconfirmed_accept")]


def test_a_decline_that_was_given_up_while_it_hung_keeps_its_answer() -> None:
    hanging = offered(NEW, OFFER, DECLINE)
    given_up = wished(hanging.known, now=NOW + 20, paused=True).known
    assert told(answered(replace(hanging, known=given_up), OFFER, Answered.TAKEN)) == [("declining", "rule")]


@pytest.mark.parametrize("call", [Call.ACCEPT, Call.DECLINE])
def test_another_person_waits_for_an_unknown_accept_and_tells_of_it_where_nobody_did_in_time(call: Call) -> None:
    unknown = person_answered(wished(offered(NEW, OFFER, HOLD).known), Answered.UNKNOWN).known
    waits = wished(unknown, call, by="c-2", now=NOW + 60)
    assert (waits.call, waits.result, waits.settle.after) == (None, None, 2.0)
    tells = wished(waits.known, call, by="c-2", now=NOW + 200)
    assert (told(tells), tells.result, tells.settle.after) == ([("held", "unconfirmed_accept")], None, 2.0)
    assert wished(tells.known, call, by="c-2", now=NOW + 202).call is call
    first = wished(tells.known, now=NOW + 203)
    assert (first.outcomes, first.result and first.result.code) == ((), "unconfirmed_accept")


def test_a_decline_that_hung_waits_for_the_accept_that_was_made_in_its_place() -> None:
    declining = wished(offered(NEW, OFFER, HOLD).known, Call.DECLINE)
    unknown = answered(offered(declining.known, OFFER, now=NOW + 20), OFFER, Answered.UNKNOWN, now=NOW + 21).known
    late = person_answered(replace(declining, known=unknown), Answered.GONE, now=NOW + 22)
    assert late.result is None
    again = wished(late.known, Call.DECLINE, now=NOW + 24)
    assert (again.call, again.result, again.known.uncertain_since) == (None, None, NOW + 21)


def test_a_refusal_long_after_an_unknown_accept_is_told_at_once() -> None:
    unknown = person_answered(wished(offered(NEW, OFFER, HOLD).known), Answered.UNKNOWN).known
    untold = wished(unknown, now=NOW + 200).known
    again = person_answered(wished(untold, by="c-2", now=NOW + 300), Answered.GONE, now=NOW + 301)
    assert told(again) == [("held", "unconfirmed_accept")]
    assert again.result is not None
    assert (again.result.code, again.settle.after) == ("not_available", None)


def test_a_decline_that_is_taken_proves_that_no_accept_was() -> None:
    unknown = answered(offered(NEW, OFFER), OFFER, Answered.UNKNOWN).known
    untold = offered(unknown, OFFER, now=NOW + 200).known
    declined = person_answered(wished(untold, Call.DECLINE, now=NOW + 300), Answered.TAKEN)
    assert (declined.known.uncertain_since, declined.closes) == (None, (assignment.Gap.ANSWER,))


@pytest.mark.parametrize("kind", [Answered.TAKEN, Answered.GONE, Answered.UNKNOWN])
def test_a_decline_whose_webhook_overtakes_its_answer_is_done(kind: Answered) -> None:
    declining = wished(offered(NEW, OFFER, HOLD).known, Call.DECLINE)
    over = assignment.ended(declining.known, webhook(12, "UNAVAILABLE", "BROADCAST_DECLINED"), rules=RULES)
    late = person_answered(replace(declining, known=over.known), kind)
    assert late.result is not None
    assert (late.outcomes, late.result.ending, late.result.code) == ((), "done", "declined")


def test_a_superseded_accept_of_an_open_offer_says_what_vectorcare_answered() -> None:
    hanging = wished(offered(NEW, OFFER, HOLD).known)
    other = assignment.wished(
        hanging.known, Wish("c-1", Call.ACCEPT, "ann"), paused=lambda: False, rules=RULES, intent_id="2", now=NOW + 20
    )
    late = person_answered(replace(hanging, known=other.known), Answered.UNKNOWN)
    assert late.result is not None
    assert late.result.code == "unknown"


def test_a_lost_race_of_before_does_not_end_a_persons_accept_whose_process_died() -> None:
    lost = answered(offered(NEW, OFFER), OFFER, Answered.GONE).known
    dead = wished(lost, now=NOW + 10)
    assert dead.call is Call.ACCEPT
    assert wished(dead.known, now=NOW + 30).call is Call.ACCEPT


@pytest.mark.parametrize("status", ["ASSIGNED", "UNAVAILABLE", "COMPLETED"])
def test_while_a_call_that_a_webhook_overtook_may_be_in_flight_no_other_begins(status: str) -> None:
    calling = offered(NEW, OFFER).known
    overtaking = webhook(12, status)
    if status == "ASSIGNED":
        calling = assigned(calling, overtaking).known
        overtaking = webhook(13, "UNAVAILABLE")
    if status == "COMPLETED":
        known = assignment.completed(calling, overtaking, Particulars(), rules=RULES).known
    else:
        known = assignment.ended(calling, overtaking, rules=RULES).known
    too_soon = offered(known, webhook(14), now=NOW + 1)
    assert (too_soon.call, too_soon.note) == (None, "too_soon")
    assert offered(too_soon.known, webhook(14), now=NOW + 15).call is Call.ACCEPT


def test_an_unknown_accept_is_not_repeated_where_the_limit_is_reached_meanwhile() -> None:
    unknown = answered(offered(NEW, OFFER), OFFER, Answered.UNKNOWN).known
    assert offered(unknown, OFFER, limit="two are open", now=NOW + 3).call is None
