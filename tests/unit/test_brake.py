"""When the brake is put on: a run of unexpected errors, and not one customer's doing."""

import pytest

from worker.brake import FIRST_PAUSE, LONGEST_PAUSE, RUN, Brake, pause


def fail(brake: Brake, *customers: str, first: int = 0) -> list[bool]:
    return [brake.failed(customer, str(first + number)) for number, customer in enumerate(customers)]


def test_a_run_over_two_customers_brakes_and_not_before_it_is_one() -> None:
    assert fail(Brake(3), *["acme", "birch"] * 3) == [False] * (RUN - 1) + [True, True]


def test_one_customer_alone_never_stops_the_others() -> None:
    assert not any(fail(Brake(2), *["acme"] * 100))


def test_the_only_customer_there_is_brakes() -> None:
    assert fail(Brake(1), *["acme"] * RUN)[-1]


def test_one_event_that_fails_again_and_again_is_no_run() -> None:
    brake = Brake(1)
    assert not any(brake.failed("acme", "the same") for _ in range(100))


@pytest.mark.parametrize("before", range(1, RUN))
def test_a_success_ends_the_run(before: int) -> None:
    brake = Brake(2)
    fail(brake, *["acme", "birch"] * before)
    brake.succeeded()
    assert not any(fail(brake, *["acme", "birch"] * (RUN - 1), first=100)[: RUN - 1])


def test_pauses_grow_and_have_an_end() -> None:
    pauses = [pause(trials) for trials in range(100)]
    assert pauses[0] == FIRST_PAUSE
    assert pauses[1] == 2 * FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
