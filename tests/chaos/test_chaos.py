"""The fault suite in short: one house, broken in a few ways one after the other; and the judge judged. `make chaos` is
the long form."""

from pathlib import Path
from typing import Any

import pytest

from sandbox.record import ApiCall, Entry, WebhookAttempt
from tests.chaos.faults import FAULTS, PLAIN, SINGLE
from tests.chaos.house import Plan, standing
from tests.chaos.judge import Told, judge
from tests.chaos.trial import alone

SHORT = {
    "confirms_cut_after": 2.0,
    "broker_paused": 3.0,
    "ingress_killed_with_full_spool": 2.0,
    "api_answer_lost": 1.0,
}
RATE = 40


@pytest.mark.timeout(300)  # about 45 s on a machine of its own
async def test_every_webhook_that_was_answered_2xx_is_handled_once_through_every_fault_of_the_short_form(
    tmp_path: Path,
) -> None:
    async with standing(SINGLE, tmp_path) as house:
        results = [await alone(house, name, seconds, RATE) for name, seconds in SHORT.items()]
        cuts = sum(proxy.cuts for proxy in house.proxies)
    assert [result.to_json() for result in results if not result.holds] == []
    by_name = {result.fault: result for result in results}
    assert cuts > 0
    for name in ("broker_paused", "ingress_killed_with_full_spool"):
        assert by_name[name].spooled > 0, name
    assert all(result.verdict.accepts > RATE for result in results)


def test_each_fault_names_a_house_that_can_have_it() -> None:
    assert {entry.plan for name, entry in FAULTS.items() if entry.mixes} == {PLAIN}
    assert all(isinstance(entry.plan, Plan) for entry in FAULTS.values())


def _webhook(event_id: str, status: str, code: int | None = 202, **more: Any) -> WebhookAttempt:
    values = {"attempt": 1, "cause": "event", "error": None, "seconds": 0.01, "body": b"{}", "signature": "", **more}
    return WebhookAttempt(
        id=event_id, at=float(event_id), receiver="acme", webhook_id="w", request_id="VC-1", event_id=event_id,
        action="A", status=status, response_code=code, **values,
    )  # fmt: skip


def _accept(at: float, status: int = 201) -> ApiCall:
    return ApiCall(
        at, "acme", "PUT", "/", "accept", "VC-1", status, None, 0.01, "good",
        took_effect=status == 201, answered=True, trouble=None, body=b"{}",
    )  # fmt: skip


def _told(*states: str, code: str = "rule") -> Told:
    told = Told()
    for revision, state in enumerate(states, 1):
        told.note(
            {
                "id": f"acme/VC-1/{revision}",
                "customer_id": "acme",
                "service_request_id": "VC-1",
                "revision": revision,
                "state": state,
                "confirmed": state == "assigned",
                "reason_code": code,
                "needs_attention": code == "unconfirmed_accept",
            }
        )
    return told


FINE: list[Entry] = [_webhook("1", "AVAILABLE"), _accept(1.1), _webhook("2", "ASSIGNED")]


def test_the_judge_finds_nothing_where_an_offer_became_a_trip() -> None:
    verdict = judge(FINE, _told("accepting", "assigned"), 3, range(2, 4))
    assert verdict.holds
    assert (verdict.taken, verdict.accepts, verdict.undelivered) == (2, 1, 0)


@pytest.mark.parametrize(
    ("entries", "told", "parked"),
    [
        pytest.param(FINE, (), 0, id="nothing was told"),
        pytest.param(FINE, ("accepting",), 0, id="the confirmation was lost"),
        pytest.param([FINE[0]], ("held",), 0, id="nothing was accepted"),
        pytest.param([*FINE, _accept(3.0)], ("accepting", "assigned"), 0, id="accepted twice"),
        pytest.param(FINE, ("accepting", "assigned", "assigned"), 0, id="told twice"),
        pytest.param(FINE, ("accepting", "assigned"), 1, id="parked"),
        pytest.param([*FINE, _webhook("3", "AVAILABLE", 503, seconds=6.1)], ("accepting", "assigned"), 0, id="late"),
    ],
)
def test_the_judge_finds(entries: list[Entry], told: tuple[str, ...], parked: int) -> None:
    assert not judge(entries, _told(*told), parked, range(0)).holds


def test_the_judge_counts_an_offer_of_which_a_person_was_told_that_it_may_have_been_accepted() -> None:
    verdict = judge([FINE[0], _accept(1.1, 500)], _told("held", code="unconfirmed_accept"), 0, range(0))
    assert (verdict.holds, verdict.accepts, verdict.unconfirmed) == (True, 0, 1)


def test_the_judge_finds_one_outcome_that_was_told_in_two_ways() -> None:
    told = _told("accepting", "assigned")
    told.note({**told.of(("acme", "VC-1"))[1], "state": "released"})
    assert not judge(FINE, told, 0, range(0)).holds


def test_the_judge_asks_nothing_of_what_was_never_answered_2xx() -> None:
    verdict = judge([*FINE, _webhook("3", "ASSIGNED", 503)], _told("accepting", "assigned"), 0, range(0))
    assert verdict.holds
    assert verdict.undelivered == 1
