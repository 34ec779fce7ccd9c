"""The proxy of the fault suite cuts where it says: a publish that was cut before never arrived, one after it did."""

import pytest

from shared import topics
from shared.errors import Unavailable
from shared.rabbitmq import RabbitBroker
from shared.topics import topology
from tests.brokers import Hands, emptied, message, until
from tests.proxy import Mode, in_front_of


@pytest.mark.parametrize(("mode", "arrives"), [(Mode.CUT_PUBLISHES, False), (Mode.CUT_CONFIRMS, True)])
async def test_a_publish_cut_before_or_after_the_broker_had_it(amqp_url: str, mode: Mode, arrives: bool) -> None:
    await emptied(amqp_url)
    async with in_front_of(amqp_url) as proxy:
        broker = RabbitBroker([proxy.url], topology())
        near = RabbitBroker([amqp_url], topology())
        try:
            await until(lambda: broker.problem is None and near.problem is None, 10)
            hands = Hands()
            await near.consume(topics.BROADCAST_RECEIVED, 10, hands)
            proxy.set(mode)
            with pytest.raises(Unavailable):
                await broker.publish(topics.WEBHOOKS, message(), mandatory=True, timeout=0.3)
            assert proxy.cuts >= 1
            assert await hands.nothing(0.5) != arrives
            proxy.set(Mode.PASS)
            await broker.publish(topics.WEBHOOKS, message(body=b"after"), mandatory=True, timeout=10)
            while (await hands.next()).message.body != b"after":
                pass
        finally:
            await broker.close()
            await near.close()
