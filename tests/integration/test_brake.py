"""A bad deploy stops the consumer instead of draining the queue into the dead letters; a bad customer stops nobody."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared import topics
from shared.broker import Broker, Delivery, Message
from tests.brokers import Hands, embedded, emptied, rabbitmq, until
from worker.assignment import ACK
from worker.consume import Handled, Intake

OFFERS = topics.BROADCAST_RECEIVED


class Bug(Exception):
    """What nobody expected."""


class Handler:
    """Fails for these customers, and remembers what it dealt with."""

    def __init__(self, *broken_for: str) -> None:
        self.broken_for = set(broken_for)
        self.failed: list[str] = []
        self.handled: list[str] = []

    async def __call__(self, delivery: Delivery) -> Handled:
        headers = delivery.message.headers
        if headers["ce-customerid"] in self.broken_for:
            self.failed.append(headers["ce-id"])
            raise Bug
        self.handled.append(headers["ce-id"])
        return Handled(ACK, "fine", {})


@pytest.fixture(params=["embedded", "rabbitmq"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    if request.param == "embedded":
        opened = embedded(tmp_path / "broker.db")
    else:
        url = request.getfixturevalue("amqp_url")
        await emptied(url)
        opened = rabbitmq(url)
    async with opened() as each:
        yield each


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.brake.FIRST_PAUSE", 0.3)
    monkeypatch.setattr("worker.brake.LONGEST_PAUSE", 0.6)
    monkeypatch.setattr("worker.consume._BRAKED_AGAIN", 0.05)
    monkeypatch.setattr("worker.consume._UNEXPECTED_AGAIN", (0.05, 0.05, 0.05))


async def publish(broker: Broker, customer: str, count: int) -> None:
    for number in range(count):
        headers = {"ce-customerid": customer, "ce-id": f"{customer}{number}"}
        sent = Message(f"A.AVAILABLE.{customer}", headers, b"{}")
        await broker.publish(topics.WEBHOOKS, sent, mandatory=True, timeout=5)


async def test_a_bad_deploy_stops_the_consumer_parks_nothing_and_lets_go_once_it_is_mended(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    handler, parked = Handler("acme", "birch"), Hands()
    intake = Intake(OFFERS, handler, 8, frozenset({"acme", "birch"}))
    await broker.consume(topics.DEAD_LETTERS, 100, parked)
    await publish(broker, "acme", 20)
    await publish(broker, "birch", 20)
    await intake.start(broker, 10)
    await until(lambda: "braked" in (intake.problem or ""), 10)
    await until(lambda: not intake._alive(), 10)
    tries = len(handler.failed)
    await until(lambda: len(handler.failed) > tries, 10)  # one at a time, after a pause
    assert await parked.nothing(1.5)
    assert len(handler.failed) < tries + 10
    handler.broken_for.clear()
    await until(lambda: len(set(handler.handled)) == 40, 30)
    assert intake.problem is None
    assert await parked.nothing(0.1)
    logged = capsys.readouterr().err
    assert logged.count('"event":"braked"') == 1
    await intake.stop(5)


async def test_one_customers_bad_events_are_parked_and_hold_up_nobody(broker: Broker) -> None:
    handler, parked = Handler("acme"), Hands()
    intake = Intake(OFFERS, handler, 8, frozenset({"acme", "birch"}))
    await broker.consume(topics.DEAD_LETTERS, 100, parked)
    await intake.start(broker, 10)
    await publish(broker, "acme", 7)
    dead = [await parked.next(20) for _ in range(7)]
    assert {each.message.headers["receiver-attempts"] for each in dead} == {"3"}
    assert intake.problem is None
    await publish(broker, "birch", 10)
    await until(lambda: len(handler.handled) == 10, 10)
    await intake.stop(5)


async def test_a_braked_intake_stops_in_time(broker: Broker) -> None:
    intake = Intake(OFFERS, Handler("acme"), 8, frozenset({"acme"}))
    await publish(broker, "acme", 10)
    await intake.start(broker, 10)
    await until(lambda: intake.problem is not None, 10)
    async with asyncio.timeout(8):
        await intake.stop(1)
