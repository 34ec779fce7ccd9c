"""A RabbitMQ cluster that loses the node which leads: a second or so, and nothing of what it had confirmed."""

import asyncio
import time

import pytest

from shared import topics
from shared.broker import Delivery, Message
from shared.errors import Unavailable
from shared.rabbitmq import RabbitBroker
from shared.topics import topology
from tests.brokers import until
from tests.rabbit_node import Node

_LEADER = '{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"%s">>)), element(2, amqqueue:get_pid(Q)).'


class Sender:
    """Publishes numbers all the time, several at once, and remembers which were confirmed and how long each took."""

    def __init__(self, broker: RabbitBroker) -> None:
        self._broker = broker
        self._next = 0
        self._stopping = False
        self.confirmed: set[bytes] = set()
        self.took: list[float] = []
        self._tasks = [asyncio.create_task(self._send()) for _ in range(4)]

    async def _send(self) -> None:
        while not self._stopping:
            self._next += 1
            body = str(self._next).encode()
            began = time.monotonic()
            try:
                await self._broker.publish(
                    topics.WEBHOOKS, Message("A.AVAILABLE.acme", {}, body), mandatory=True, timeout=4.5
                )
                self.confirmed.add(body)
            except Unavailable:
                pass
            self.took.append(time.monotonic() - began)
            await asyncio.sleep(0.01)

    async def more(self, count: int, within: float) -> None:
        """Until so many more were confirmed."""
        enough = len(self.confirmed) + count
        await until(lambda: len(self.confirmed) >= enough, within)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


class Taker:
    """Acknowledges whatever comes, and remembers it."""

    def __init__(self) -> None:
        self.bodies: set[bytes] = set()
        self._acks: set[asyncio.Task[None]] = set()

    def __call__(self, delivery: Delivery) -> None:
        self.bodies.add(delivery.message.body)
        self._acks.add(asyncio.create_task(delivery.ack()))

    async def settled(self) -> None:
        await asyncio.gather(*self._acks, return_exceptions=True)


def leader(nodes: list[Node]) -> Node:
    """The node that leads the offers' queue."""
    output = nodes[-1].ctl("eval", _LEADER % topics.BROADCAST_RECEIVED).strip().strip("'")
    return next(node for node in nodes if node.name == output)


@pytest.mark.timeout(180)
async def test_a_killed_leader_costs_about_a_second_and_nothing_that_was_confirmed(
    rabbit_cluster: list[Node],
) -> None:
    nodes = rabbit_cluster
    broker = RabbitBroker([node.url for node in nodes], topology())
    await until(lambda: broker.problem is None, 20)
    taker = Taker()
    await broker.consume(topics.BROADCAST_RECEIVED, 50, taker)
    sender = Sender(broker)
    try:
        await sender.more(100, 20)
        dead = await asyncio.to_thread(leader, nodes)
        sender.took.clear()
        await asyncio.to_thread(dead.kill)
        await sender.more(100, 10)
        assert max(sender.took) < 3
    finally:
        await sender.stop()
    await until(lambda: sender.confirmed <= taker.bodies, 30)
    await taker.settled()
    await broker.close()
