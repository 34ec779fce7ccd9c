"""What people are told: a sentence without patient data, counted, and never in floods."""

import pytest

from shared.settings import NotifySettings
from worker.notify import Notices


def test_a_held_offer_is_told_with_its_pickup_and_those_that_follow_are_counted() -> None:
    notices = Notices(NotifySettings(every=300))
    notices.add("held", "acme", pickup_at=42 * 60)
    assert notices.due(0) == [("held", "acme: 1 offer held, pickup in 42 min")]
    for minutes in (90, 60, 120):
        notices.add("held", "acme", pickup_at=minutes * 60)
    assert notices.due(299) == []
    assert notices.due(300) == [("held", "acme: 3 offers held, first pickup in 55 min")]
    assert notices.due(900) == []


def test_one_customer_or_kind_silences_no_other() -> None:
    notices = Notices(NotifySettings())
    notices.add("parked", "acme")
    assert len(notices.due(0)) == 1
    notices.add("parked", "birch", 2)
    notices.add("token_failure", "acme")
    assert {sentence for _, sentence in notices.due(1)} == {
        "birch: 2 events were parked",
        "acme: VectorCare gave no access token",
    }


@pytest.mark.parametrize(
    "kind",
    ["held", "unconfirmed", "other_leg_lost", "unacknowledged", "bad_signature", "parked", "token_failure"],
)
def test_each_kind_can_be_switched_off(kind: str) -> None:
    notices = Notices(NotifySettings.model_validate({kind: False}))
    notices.add(kind, "acme")
    assert notices.due(0) == []
