"""What the AMQP library raises where a connection is lost, in the words that the adapter expects."""

import pytest

from shared.amqp_link import LOSSES, losses_named


def test_a_waiter_that_is_ended_without_a_reason_has_lost_its_connection() -> None:
    with pytest.raises(LOSSES), losses_named():
        raise Exception  # noqa: TRY002 - that is what aiormq raises


@pytest.mark.parametrize("kind", [ValueError, KeyError, AssertionError])
def test_an_error_of_ours_is_not_taken_for_a_lost_connection(kind: type[Exception]) -> None:
    with pytest.raises(kind), losses_named():
        raise kind
