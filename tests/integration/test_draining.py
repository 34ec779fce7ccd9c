"""A stop hands back what it can't finish: the next process has it at once, and nothing is parked for it."""

import asyncio
from pathlib import Path

import pytest

from shared import topics
from tests.brokers import Hands, OpenBroker, embedded, emptied, message, rabbitmq
from worker.assignment import ACK
from worker.consume import Handled, Intake


@pytest.fixture(params=["embedded", "rabbitmq"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> OpenBroker:
    if request.param == "embedded":
        return embedded(tmp_path / "broker.db", lease=60.0)
    url: str = request.getfixturevalue("amqp_url")
    await emptied(url)
    return rabbitmq(url)


async def test_what_is_not_finished_at_a_stop_comes_again_at_once_and_is_not_counted(opened: OpenBroker) -> None:
    began = asyncio.Event()

    async def never(_: object) -> Handled:
        began.set()
        await asyncio.Event().wait()
        return Handled(ACK, "never", {})

    async with opened() as broker:
        intake = Intake(topics.LIFECYCLE, never, 8, frozenset({"acme"}))
        await intake.start(broker, 10)
        await broker.publish(topics.WEBHOOKS, message("A.COMPLETED.acme"), mandatory=True, timeout=5)
        await asyncio.wait_for(began.wait(), 10)
        await intake.stop(0.1)
        hands = Hands()
        await broker.consume(topics.LIFECYCLE, 10, hands)
        again = await hands.next(5)
        assert (again.message.routing_key, again.attempts) == ("A.COMPLETED.acme", 0)
        await again.ack()
