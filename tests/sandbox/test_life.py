"""The life of a service request, as values: whatever happens in whatever order, the marketplace stays in order."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import life
from sandbox.life import COMPETITOR, NotAvailable, ServiceRequest, Stage, Step
from sandbox.options import Options, Status

NAMES = ("acme", "birch", "cedar")
OPTIONS = Options()
TIME = "2027-01-15T15:30:00Z"

DEEDS: dict[str, Callable[[ServiceRequest, str], Step]] = {
    "broadcast": lambda r, n: life.broadcast(r, [n]),
    "accept": lambda r, n: life.accept(r, n, OPTIONS),
    "decline": life.decline,
    "competitor": lambda r, n: life.competitor_accepts(r, OPTIONS),
    "assign": lambda r, n: life.assign(r, n, OPTIONS),
    "cancel": lambda r, n: life.cancel(r),
    "withdraw": lambda r, n: life.withdraw(r, [n]),
    "expire": lambda r, n: life.expire(r),
    "complete": lambda r, n: life.complete(r, OPTIONS),
    "change": lambda r, n: life.change_data(r, {"escalated": True}, OPTIONS),
    "propose": lambda r, n: life.propose(r, n, TIME),
    "proposal accepted": lambda r, n: life.answer_proposal(r, n, OPTIONS, answer="accepted"),
    "proposal declined": lambda r, n: life.answer_proposal(r, n, OPTIONS, answer="declined"),
    "proposal countered": lambda r, n: life.answer_proposal(r, n, OPTIONS, answer="countered", counter=TIME),
    "ask change": lambda r, n: life.ask_change(r, n, TIME),
    "change accepted": lambda r, n: life.answer_change(r, n, accepted=True),
    "en_route": lambda r, n: life.report_state(r, n, "en_route", OPTIONS),
    "completed": lambda r, n: life.report_state(r, n, "completed", OPTIONS),
    "dry_run": lambda r, n: life.report_state(r, n, "dry_run", OPTIONS),
}


def fresh() -> ServiceRequest:
    return ServiceRequest("VC-1", "mercy", {"change_request_enabled": True, "agreed_for_time": None})


@given(st.lists(st.tuples(st.sampled_from(sorted(DEEDS)), st.sampled_from(NAMES)), max_size=30))
def test_at_most_one_receiver_is_assigned_and_all_know_what_they_were_told(deeds: list[tuple[str, str]]) -> None:
    request, told = fresh(), dict[str, Status]()
    for deed, name in deeds:
        try:
            step = DEEDS[deed](request, name)
        except NotAvailable:
            continue
        request = step.request
        told |= {notice.receiver: notice.status for notice in step.notices}
        assert told == {n: offer.status for n, offer in request.offers.items()}
        holders = life.holders(request, Status.ASSIGNED)
        assert holders in ([], [request.assigned_to])
        if request.stage is Stage.ASSIGNED and request.assigned_to != COMPETITOR:
            assert holders == [request.assigned_to]
        if request.stage is not Stage.OPEN:
            assert life.holders(request, Status.AVAILABLE) == []


def walked(*deeds: tuple[str, str]) -> Step:
    step = Step(fresh())
    for deed, name in deeds:
        step = DEEDS[deed](step.request, name)
    return step


def test_an_accepted_proposal_assigns_at_the_proposed_time_and_the_others_lose() -> None:
    step = walked(("broadcast", "acme"), ("broadcast", "birch"), ("propose", "acme"), ("proposal accepted", "acme"))
    assert [(n.receiver, n.action, n.status) for n in step.notices] == [
        ("acme", "PROPOSAL_ACCEPTED", "ASSIGNED"),
        ("birch", "BROADCAST_CANCELED", "UNAVAILABLE"),
    ]
    assert step.request.data["agreed_for_time"] == TIME


def test_a_countered_proposal_is_an_offer_at_another_time() -> None:
    step = walked(("broadcast", "acme"), ("propose", "acme"), ("proposal countered", "acme"))
    assert [(n.action, n.status) for n in step.notices] == [("PROPOSAL_COUNTERED", "AVAILABLE")]
    assert step.request.data["agreed_for_time"] == TIME


def test_a_declined_proposal_leaves_the_offer_open_or_not_as_the_option_says() -> None:
    request = walked(("broadcast", "acme"), ("propose", "acme")).request
    for status in (Status.AVAILABLE, Status.UNAVAILABLE):
        step = life.answer_proposal(request, "acme", Options(proposal_declined=status), answer="declined")
        assert [(n.action, n.status) for n in step.notices] == [("PROPOSAL_DECLINED", status)]


def test_an_answered_change_request_sets_the_time_or_leaves_it() -> None:
    asked = walked(("broadcast", "acme"), ("accept", "acme"), ("ask change", "acme")).request
    taken, refused = (life.answer_change(asked, "acme", accepted=accepted) for accepted in (True, False))
    assert taken.notices[0].action == "CHANGE_REQUEST_ACCEPTED"
    assert taken.request.data["agreed_for_time"] == TIME
    assert refused.notices[0].action == "CHANGE_REQUEST_DECLINED"
    assert refused.request.data["agreed_for_time"] is None


def test_a_trip_that_is_given_to_another_leaves_the_first() -> None:
    step = walked(("broadcast", "acme"), ("accept", "acme"), ("assign", "birch"))
    assert {n.receiver: n.status for n in step.notices} == {"acme": "UNAVAILABLE", "birch": "ASSIGNED"}


def test_a_trip_that_is_withdrawn_can_be_broadcast_and_accepted_again() -> None:
    step = walked(
        ("broadcast", "acme"), ("accept", "acme"), ("withdraw", "acme"), ("broadcast", "acme"), ("accept", "acme")
    )
    assert step.request.accepts_taken == {"acme": 2}


def test_with_the_option_each_reported_state_comes_back_as_an_update() -> None:
    assigned = walked(("broadcast", "acme"), ("accept", "acme")).request
    step = life.report_state(assigned, "acme", "en_route", Options(tell_states=True))
    assert [(n.action, n.status) for n in step.notices] == [("REQUEST_UPDATED", "ASSIGNED")]


@pytest.mark.parametrize(
    ("states", "name", "back"),
    [
        ((), "arrived", False),
        (("en_route",), "en_route", False),
        (("en_route",), "on_board", False),
        (("on_board",), "arrived", True),
        (("arrived",), "dry_run", False),
        (("dry_run",), "completed", True),
        (("completed",), "canceled", True),
        (("completed",), "completed", False),
    ],
)
def test_states_go_forward(states: tuple[str, ...], name: str, back: bool) -> None:
    assert life.goes_back(states, name) is back
