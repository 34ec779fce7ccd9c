"""The state machine: every answer by name, and what may never happen whatever the order of things."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.event import Event, Status
from tests.assignments import (
    ACCEPT,
    DECLINE,
    HOLD,
    NEW,
    NO_PARTICULARS,
    NOW,
    RULES,
    answered,
    assigned,
    counsel,
    offered,
    webhook,
)
from worker import assignment
from worker.assignment import (
    Answer,
    Answered,
    Call,
    Mode,
    State,
    Step,
    order_of,
)
from worker.policy import Decision


def told(*steps: Step) -> list[str]:
    return [outcome.state.value for step in steps for outcome in step.outcomes]


OFFER = webhook(1)
INTENDED = offered(NEW, OFFER)
TAKEN = answered(INTENDED, OFFER, Answered.TAKEN)


def test_the_intent_is_written_before_the_call_and_nothing_is_told_yet() -> None:
    assert (INTENDED.call, INTENDED.notes, INTENDED.outcomes) == (Call.ACCEPT, "Gladly.", ())
    assert (INTENDED.known.intent_id, INTENDED.known.intent_deadline) == ("intent", NOW + RULES.lease)


def test_a_taken_accept_is_told_and_looked_after_until_it_is_confirmed() -> None:
    assert told(TAKEN) == ["accepting"]
    assert TAKEN.settle.after == RULES.confirm_within
    confirmed = assigned(TAKEN.known, webhook(2, "ASSIGNED"), wanted=lambda: True)
    assert told(confirmed) == ["assigned"]
    assert confirmed.outcomes[0].confirmed
    late = offered(confirmed.known, OFFER, now=NOW + 500)
    assert (late.note, late.outcomes, late.settle.after) == ("seen_through", (), None)


def test_a_taken_accept_without_a_webhook_is_told_as_assigned_but_not_confirmed() -> None:
    early = offered(TAKEN.known, OFFER, now=NOW + 60)
    assert told(early) == []
    assert early.settle.after == pytest.approx(61)
    late = offered(TAKEN.known, OFFER, now=NOW + 200)
    assert told(late) == ["assigned"]
    assert (late.outcomes[0].confirmed, late.outcomes[0].needs_attention) == (False, True)
    again = offered(late.known, OFFER, now=NOW + 300)
    assert told(again) == []
    confirmed = assigned(again.known, webhook(2, "ASSIGNED"), wanted=lambda: True)
    assert (told(confirmed), confirmed.outcomes[0].confirmed) == (["assigned"], True)


def test_the_webhook_that_overtakes_the_answer_tells_both_and_the_answer_adds_nothing() -> None:
    overtaken = assigned(INTENDED.known, webhook(2, "ASSIGNED"), wanted=lambda: True)
    assert told(overtaken) == ["accepting", "assigned"]
    assert [outcome.revision for outcome in overtaken.outcomes] == [1, 2]
    late = answered(replace(INTENDED, known=overtaken.known), OFFER, Answered.TAKEN)
    assert (late.outcomes, late.settle.after) == ((), None)


def test_a_refused_accept_is_lost() -> None:
    assert told(answered(INTENDED, OFFER, Answered.GONE)) == ["lost"]


def test_an_unavailable_that_overtakes_the_refusal_tells_the_same() -> None:
    gone = assignment.ended(INTENDED.known, webhook(2, "UNAVAILABLE"), rules=RULES)
    assert told(gone) == ["lost"]
    assert told(answered(replace(INTENDED, known=gone.known), OFFER, Answered.GONE)) == []


def test_a_lost_request_that_is_assigned_after_all_is_ours() -> None:
    lost = answered(INTENDED, OFFER, Answered.GONE)
    ours = assigned(lost.known, webhook(2, "ASSIGNED"), wanted=lambda: True)
    assert told(ours) == ["assigned"]


@pytest.mark.parametrize(("kind", "code"), [(Answered.NOT_PERMITTED, "not_permitted"), (Answered.INVALID, "other")])
def test_an_accept_that_can_not_work_is_held_for_a_person(kind: Answered, code: str) -> None:
    step = answered(INTENDED, OFFER, kind)
    assert told(step) == ["held"]
    assert step.outcomes[0].reason_code == code


@pytest.mark.parametrize("kind", [Answered.NO_TOKEN, Answered.NOT_SENT, Answered.THROTTLED])
def test_a_call_that_had_no_effect_is_made_again_later_not_before_retry_after_and_not_for_ever(kind: Answered) -> None:
    step = answered(INTENDED, OFFER, kind, retry_after=33.0)
    assert (told(step), step.settle.after, step.known.uncertain_since) == ([], 33.0, None)
    assert offered(step.known, OFFER, now=NOW + 33).note == "too_soon"
    assert offered(step.known, OFFER, now=NOW + 40).call is Call.ACCEPT
    assert told(answered(INTENDED, OFFER, kind, attempts=12)) == ["held"]


def test_an_accept_without_an_answer_is_unknown_repeated_and_a_refusal_then_proves_nothing() -> None:
    unknown = answered(INTENDED, OFFER, Answered.UNKNOWN)
    assert (told(unknown), unknown.known.uncertain_since) == ([], NOW + 1)
    again = offered(unknown.known, OFFER, now=NOW + 3)
    assert again.call is Call.ACCEPT
    refused = answered(again, OFFER, Answered.GONE, now=NOW + 4)
    assert told(refused) == []
    assert refused.settle.after is not None
    silent = offered(refused.known, OFFER, now=NOW + 200)
    assert told(silent) == ["held"]
    assert (silent.outcomes[0].reason_code, silent.outcomes[0].needs_attention) == ("unconfirmed_accept", True)
    assert offered(silent.known, OFFER, now=NOW + 300).note == "duplicate"


def test_an_unknown_accept_is_not_repeated_once_the_policy_no_longer_wants_it() -> None:
    unknown = answered(INTENDED, OFFER, Answered.UNKNOWN)
    waiting = offered(unknown.known, OFFER, HOLD, now=NOW + 3)
    assert (waiting.call, told(waiting)) == (None, [])


def test_while_a_call_is_under_way_another_delivery_waits_and_after_its_lease_it_is_unknown() -> None:
    waiting = offered(INTENDED.known, OFFER, now=NOW + 1)
    assert (waiting.call, waiting.note) == (None, "call_under_way")
    assert waiting.settle.after
    crashed = offered(INTENDED.known, OFFER, now=NOW + RULES.lease + 1)
    assert crashed.call is Call.ACCEPT
    assert crashed.known.uncertain_since is not None


def test_the_same_offer_again_is_a_duplicate_and_an_older_one_is_set_aside() -> None:
    held = offered(NEW, webhook(5), HOLD)
    assert told(held) == ["held"]
    assert offered(held.known, webhook(5), ACCEPT).note == "duplicate"
    assert offered(held.known, webhook(4), ACCEPT).note == "older"
    assert offered(held.known, webhook(6), ACCEPT).call is Call.ACCEPT


def test_an_unavailable_that_overtakes_its_offer_stops_the_accept() -> None:
    gone = assignment.ended(NEW, webhook(2, "UNAVAILABLE", "BROADCAST_CANCELED"), rules=RULES)
    assert told(gone) == ["closed"]
    assert gone.outcomes[0].reason_code == "canceled_by_requester"
    assert offered(gone.known, webhook(1)).call is None
    assert offered(gone.known, webhook(3)).call is Call.ACCEPT


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.SUGGEST])
@pytest.mark.parametrize("decision", [ACCEPT, DECLINE])
def test_only_automatic_mode_calls_the_others_hold_and_say_what_they_would_do(mode: Mode, decision: Decision) -> None:
    step = offered(NEW, OFFER, decision, mode=mode)
    assert (step.call, told(step)) == (None, ["held"])
    assert (step.outcomes[0].suggested, step.outcomes[0].reason_code) == (decision.verdict.value, "suggested")


def test_a_reached_limit_holds() -> None:
    step = offered(NEW, OFFER, limit="max_open (3) is reached")
    assert (step.call, told(step), step.outcomes[0].reason_code) == (None, ["held"], "limit")
    assert offered(step.known, OFFER).note == "duplicate"


def test_a_decline_is_told_once_and_its_webhook_closes() -> None:
    declining = offered(NEW, OFFER, DECLINE)
    assert declining.call is Call.DECLINE
    done = answered(declining, OFFER, Answered.TAKEN)
    closed = assignment.ended(done.known, webhook(2, "UNAVAILABLE", "BROADCAST_DECLINED"), rules=RULES)
    assert told(done, closed) == ["declining", "closed"]
    overtaken = assignment.ended(declining.known, webhook(2, "UNAVAILABLE", "BROADCAST_DECLINED"), rules=RULES)
    late = answered(replace(declining, known=overtaken.known), OFFER, Answered.TAKEN)
    assert told(overtaken, late) == ["declining", "closed"]


@pytest.mark.parametrize(
    ("action", "code", "by"),
    [
        ("REQUEST_ASSIGNED", "direct_assignment", "requester"),
        ("PROPOSAL_ACCEPTED", "proposal_accepted", "requester"),
        ("BROADCAST_ACCEPTED", "person", "person"),
    ],
)
def test_a_trip_that_we_did_not_accept_is_ours_all_the_same(action: str, code: str, by: str) -> None:
    step = assigned(NEW, webhook(1, "ASSIGNED", action), wanted=lambda: True)
    assert told(step) == ["assigned"]
    assert (step.outcomes[0].reason_code, step.outcomes[0].decided_by) == (code, by)


def test_changed_data_of_our_trip_is_told_with_what_changed_and_whether_it_is_still_wanted() -> None:
    first = webhook(1, "ASSIGNED", data={"a": {"zip": "1", "x": [1]}, "b": 2})
    ours = assigned(NEW, first, wanted=lambda: True)
    second = webhook(2, "ASSIGNED", "UPDATED", data={"a": {"zip": "2", "x": [1, 2]}, "b": 2, "c": None})
    step = assigned(ours.known, second, wanted=lambda: False)
    assert told(step) == ["updated"]
    assert (step.outcomes[0].changed, step.outcomes[0].needs_attention) == (("a.x", "a.zip"), True)
    assert told(assigned(step.known, webhook(3, "ASSIGNED", data=second.data), wanted=bool)) == []


def test_a_trip_taken_away_is_released_and_a_finished_one_completed() -> None:
    ours = assigned(NEW, webhook(1, "ASSIGNED"), wanted=lambda: True)
    assert told(assignment.ended(ours.known, webhook(2, "UNAVAILABLE"), rules=RULES)) == ["released"]
    assert told(assignment.completed(ours.known, webhook(2, "COMPLETED"), NO_PARTICULARS, rules=RULES)) == ["completed"]


def test_on_a_tie_an_offer_loses() -> None:
    offer, end = webhook(1), webhook(1, "UNAVAILABLE")
    assert order_of(offer).is_before(order_of(end), "event_id")
    assert order_of(webhook(9)).is_before(order_of(replace(webhook(9, "ASSIGNED"), event_id="0")), "event_timestamp")


def test_the_order_may_be_switched_on_any_day() -> None:
    held = offered(NEW, webhook(5), HOLD)
    by_time = replace(RULES, order_by="event_timestamp")
    trip = replace(webhook(6, "ASSIGNED"), event_id="0" * 32)
    assert assigned(held.known, trip, wanted=bool).note == "older"
    assert told(assigned(held.known, trip, wanted=bool, rules=by_time)) == ["assigned"]


def test_an_event_that_a_retry_has_restamped_is_the_same_event() -> None:
    held = offered(NEW, webhook(5), HOLD)
    restamped = replace(webhook(5), event_timestamp="2026-11-23T13:00:00.000Z")
    assert offered(held.known, restamped, ACCEPT).note == "duplicate"


def test_a_late_yes_does_not_revive_what_a_newer_webhook_has_ended() -> None:
    over = assignment.ended(INTENDED.known, webhook(2, "UNAVAILABLE"), rules=RULES)
    late = answered(replace(INTENDED, known=over.known), OFFER, Answered.TAKEN)
    assert (told(late), late.known.ours, late.outcomes[0].needs_attention) == (["released"], False, True)


def test_a_late_yes_to_a_trip_that_is_completed_by_now_adds_nothing() -> None:
    over = assignment.completed(INTENDED.known, webhook(2, "COMPLETED"), NO_PARTICULARS, rules=RULES)
    late = answered(replace(INTENDED, known=over.known), OFFER, Answered.TAKEN)
    assert (told(late), late.known.state, late.settle.after) == ([], "completed", None)


def test_an_accept_that_is_taken_twice_is_told_once() -> None:
    frozen = offered(INTENDED.known, OFFER, now=NOW + RULES.lease + 1)
    first = answered(frozen, OFFER, Answered.TAKEN)
    second = answered(replace(frozen, known=first.known), OFFER, Answered.TAKEN, intent_id="older", now=NOW + 20)
    assert told(first, second) == ["accepting"]


def test_a_refusal_of_a_call_that_overlapped_a_taken_one_does_not_lose_the_trip() -> None:
    frozen = offered(INTENDED.known, OFFER, now=NOW + RULES.lease + 1)
    first = answered(frozen, OFFER, Answered.TAKEN, intent_id="other", now=NOW + 20)
    second = answered(replace(frozen, known=first.known), OFFER, Answered.GONE, now=NOW + 21)
    assert told(first, second) == ["accepting"]
    assert told(offered(second.known, OFFER, now=NOW + 200)) == ["assigned"]


def test_a_newer_offer_that_comes_too_soon_is_the_one_that_counts() -> None:
    throttled = answered(INTENDED, OFFER, Answered.THROTTLED, retry_after=30.0)
    newer = offered(throttled.known, webhook(3), DECLINE, now=NOW + 5)
    assert newer.note == "too_soon"
    assert offered(newer.known, OFFER, now=NOW + 60).note == "older"
    assert offered(newer.known, webhook(3), DECLINE, now=NOW + 60).call is Call.DECLINE


def test_an_offer_that_is_newer_than_our_trip_waits_for_the_webhook_that_takes_the_trip_away() -> None:
    ours = assigned(NEW, webhook(2, "ASSIGNED"), wanted=bool)
    early = offered(ours.known, webhook(4))
    assert (early.call, told(early), early.settle.after) == (None, [], 1.0)
    released = assignment.ended(early.known, webhook(3, "UNAVAILABLE"), rules=RULES)
    assert told(released) == ["released"]
    assert offered(released.known, webhook(4)).call is Call.ACCEPT
    never = offered(ours.known, webhook(4), attempts=20)
    assert told(never) == ["updated"]
    assert never.outcomes[0].needs_attention
    assert offered(never.known, webhook(4), attempts=20).note == "duplicate"


def test_an_unknown_accept_is_told_in_time_however_long_vectorcare_asks_to_wait() -> None:
    unknown = answered(INTENDED, OFFER, Answered.UNKNOWN)
    again = offered(unknown.known, OFFER, now=NOW + 3)
    throttled = answered(again, OFFER, Answered.THROTTLED, now=NOW + 4, retry_after=3600.0)
    assert throttled.settle.after is not None
    assert throttled.settle.after <= RULES.confirm_within
    assert offered(throttled.known, OFFER, now=NOW + 60).note == "too_soon"
    assert told(offered(throttled.known, OFFER, now=NOW + 122)) == ["held"]


def test_an_id_and_a_timestamp_that_disagree_are_noticed() -> None:
    known = offered(NEW, webhook(5), HOLD).known
    swapped = replace(webhook(6), event_timestamp="2026-11-23T11:00:00.000Z")
    assert assignment.disagrees(known, swapped)
    assert not assignment.disagrees(known, webhook(6))


class AnyOrder(RuleBasedStateMachine):
    """Webhooks in any order and number, answers of any kind, crashes, and time; one request of one customer."""

    @initialize()
    def begin(self) -> None:
        self.known = NEW
        self.now = NOW
        self.call: tuple[Call, Event, str] | None = None
        self.calls_taken = 0
        self.intents = 0
        self.told: list[State] = []
        self.newest: Event | None = None

    def apply(self, step: Step) -> None:
        revisions = [outcome.revision for outcome in step.outcomes]
        assert revisions == list(range(self.known.revision + 1, self.known.revision + 1 + len(revisions)))
        assert step.known.revision == self.known.revision + len(revisions)
        if step.outcomes:
            assert step.outcomes[0].previous_state == self.known.state
            assert step.outcomes[-1].state == step.known.state
        self.known = step.known
        self.told += [outcome.state for outcome in step.outcomes]

    def hear(self, found: Event) -> None:
        if self.newest is None or order_of(self.newest).is_before(order_of(found), "event_id"):
            self.newest = found

    @rule(number=st.integers(1, 30), decision=st.sampled_from([ACCEPT, DECLINE, HOLD]))
    def an_offer(self, number: int, decision: Decision) -> None:
        found = webhook(number * 3)  # ids are unique: each kind of event has its own
        self.intents += 1
        intent = str(self.intents)
        step = assignment.offered(
            self.known,
            found,
            counsel(decision),
            rules=RULES,
            intent_id=intent,
            attempts=0,
            now=self.now,
        )
        if step.call is not None:
            assert self.call is None or self.now >= self.known.intent_deadline, "two calls under way"
            assert not self.known.ours, "an accept of what is ours"
            self.call = (step.call, found, intent)
        if not self.known.ours and step.note not in {"older", "call_under_way", "too_soon"}:
            self.hear(found)
        self.apply(step)

    @precondition(lambda self: self.call is not None)
    @rule(kind=st.sampled_from(Answered))
    def an_answer(self, kind: Answered) -> None:
        assert self.call is not None
        call, found, intent = self.call
        self.call = None
        was_ours = self.known.ours
        self.apply(
            assignment.answered(
                self.known,
                found,
                call,
                Answer(kind),
                refusals=lambda: 1,
                rules=RULES,
                intent_id=intent,
                attempts=0,
                now=self.now,
            )
        )
        if call is Call.ACCEPT and kind is Answered.TAKEN:
            over = self.known.newest_status in {Status.UNAVAILABLE, Status.COMPLETED}
            assert self.known.ours or was_ours or over
            assert State.RELEASED in self.told or State.ACCEPTING in self.told or State.ASSIGNED in self.told

    @precondition(lambda self: self.call is not None)
    @rule()
    def a_crash_in_the_middle_of_a_call(self) -> None:
        self.call = None
        self.now = max(self.now, self.known.intent_deadline)

    @rule(seconds=st.sampled_from([0.5, 10.0, 130.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.known.intent_call is None or self.now >= self.known.intent_deadline:
            self.call = None if self.known.intent_call is None else self.call

    @rule(number=st.integers(1, 30), action=st.sampled_from(["BROADCAST_ACCEPTED", "REQUEST_ASSIGNED"]))
    def a_trip(self, number: int, action: str) -> None:
        found = webhook(number * 3 + 1, "ASSIGNED", action, {"n": number})
        step = assigned(self.known, found, wanted=lambda: True)
        if step.note != "older":
            self.hear(found)
            assert step.known.ours
        self.apply(step)

    @rule(number=st.integers(1, 30), action=st.sampled_from(["GONE", "BROADCAST_CANCELED", "BROADCAST_DECLINED"]))
    def an_end(self, number: int, action: str) -> None:
        found = webhook(number * 3 + 2, "UNAVAILABLE", action)
        step = assignment.ended(self.known, found, rules=RULES)
        if step.note != "older":
            self.hear(found)
            assert not step.known.ours
        self.apply(step)

    @invariant()
    def an_older_event_never_overwrites_a_newer_one(self) -> None:
        if self.newest is not None and self.known.newest:
            assert not self.known.newest.is_before(order_of(self.newest), "event_id")

    @invariant()
    def what_is_ours_is_told_as_ours(self) -> None:
        if self.known.ours:
            assert self.known.state in {State.ACCEPTING, State.ASSIGNED, State.UPDATED}

    @invariant()
    def what_a_webhook_confirmed_is_assigned(self) -> None:
        if self.known.confirmed:
            assert self.known.state in {State.ASSIGNED, State.UPDATED, State.COMPLETED}
            assert self.known.newest_status in {Status.ASSIGNED, Status.COMPLETED}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
