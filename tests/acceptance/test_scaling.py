"""Scaling by queue depth with real processes, by a small scaler that follows the ScaledObject's own numbers.

Time is made shorter. SCALING_PLOT=docs/scaling.svg names a file for the plot of a run.
"""

import asyncio
import math
import os
import time
from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import yaml

from sandbox.server import Options, Sandbox
from sandbox.trouble import Trouble
from shared import topics
from tests.acceptance.scaling_plot import plot
from tests.acceptance.test_rides import assert_each_became_one_trip, broadcast, subscribed_by_amqp
from tests.brokers import until
from tests.processes import Home, Process
from tests.rabbit_node import Node

OBJECT: Final = Path(__file__).parents[2] / "k8s/base/workers/broadcast-received-scaled-object.yaml"
SPEC: Final[dict[str, Any]] = yaml.safe_load(OBJECT.read_text())["spec"]
FASTER: Final = 100  # five quiet minutes are three seconds here
MOST: Final = 4  # of the processes that this machine carries


class Scaler:
    """KEDA and the autoscaler in small: as many workers as the depth asks for, up at once, down slowly."""

    def __init__(self, node: Node, home: Home, stack: AsyncExitStack) -> None:
        behaviour = SPEC["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        (trigger,) = SPEC["triggers"]
        self._queue = trigger["metadata"]["queueName"]
        self._each = int(trigger["metadata"]["value"])
        self._window = behaviour["stabilizationWindowSeconds"] / FASTER
        self._period = behaviour["policies"][0]["periodSeconds"] / FASTER
        self._node, self._home, self._stack = node, home, stack
        self._wished: deque[tuple[float, int]] = deque()
        self._down_at = 0.0
        self._leaving: list[asyncio.Task[int]] = []
        self.workers: list[Process] = []
        self.seen: list[tuple[float, int, int]] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            depth = await asyncio.to_thread(self._depth)
            self.seen.append((time.time(), depth, len(self.workers)))
            wish = max(SPEC["minReplicaCount"], min(SPEC["maxReplicaCount"], MOST, math.ceil(depth / self._each)))
            now = time.monotonic()
            self._wished.append((now, wish))
            while self._wished[0][0] < now - self._window:
                self._wished.popleft()
            for _ in range(wish - len(self.workers)):
                self.workers.append(
                    await self._stack.enter_async_context(Process(self._home, "worker", "broadcast-received"))
                )
            if max(each for _, each in self._wished) < len(self.workers) and now >= self._down_at:
                self._down_at = now + self._period
                self._leaving.append(asyncio.create_task(self.workers.pop(0).terminate()))
            await asyncio.sleep(SPEC["pollingInterval"] / FASTER)

    async def left(self) -> list[int]:
        """The exit status of each worker that was sent away."""
        return await asyncio.gather(*self._leaving)

    def _depth(self) -> int:
        """Messages in the queue, those in hand included, as the management API counts them."""
        for line in self._node.ctl("list_queues", "-q", "name", "messages").splitlines():
            name, _, count = line.partition("\t")
            if name == self._queue:
                return int(count)
        return 0


async def test_workers_come_and_go_with_the_queue_and_nothing_is_lost_or_accepted_twice(
    tmp_path: Path, mortal_rabbit: Node
) -> None:
    url = mortal_rabbit.url
    async with Sandbox(Options(seed=11)) as sandbox, AsyncExitStack() as stack:
        home = Home(tmp_path, sandbox, broker=url)
        home._parts[1] += "\nprefetch = 10\nin_flight_per_customer = 10"  # few in hand, so that a queue forms
        home.customer("acme")
        sandbox.set_trouble(Trouble(slow=1.0, slow_seconds=2.0, calls=("accept",)), "acme")
        ingress = await stack.enter_async_context(Process(home, "ingress"))
        await ingress.ready()
        confirmed = await stack.enter_async_context(Process(home, "worker", "broadcast-accepted", "lifecycle"))
        await confirmed.logged("started")
        scaler = Scaler(mortal_rabbit, home, stack)
        scaling = asyncio.create_task(scaler.run())
        async with subscribed_by_amqp(url) as subscriber:
            requests = await broadcast(sandbox, 200, "acme", pause=0)
            await until(lambda: subscriber.assigned() == 200, 60)
            requests += await broadcast(sandbox, 60, "acme", pause=0.1)  # while workers are being sent away
            await until(lambda: subscriber.assigned() == 260, 60)
            await until(lambda: len(scaler.workers) == SPEC["minReplicaCount"], 30)
        scaling.cancel()
        assert set(await scaler.left()) == {0}
        assert_each_became_one_trip(sandbox, subscriber, requests)
    # How far up depends on how fast the machine works the queue off; never further than the object allows.
    assert SPEC["minReplicaCount"] < max(workers for _, _, workers in scaler.seen) <= MOST
    assert max(depth for _, depth, _ in scaler.seen) > SPEC["minReplicaCount"] * scaler._each
    assert scaler._queue == topics.BROADCAST_RECEIVED
    if file := os.environ.get("SCALING_PLOT"):
        Path(file).write_text(drawn(sandbox, scaler))


def drawn(sandbox: Sandbox, scaler: Scaler) -> str:
    """A run as a plot; the time to accept is from the first webhook of a request to the accept call."""
    began = scaler.seen[0][0]
    offered: dict[str, float] = {}
    for webhook in sandbox.record.webhooks():
        offered.setdefault(webhook.request_id, webhook.at)
    accepted = [(call.at - began, call.at - offered[call.request_id]) for call in sandbox.record.calls("accept")]
    return plot(
        [
            ("messages in receiver.broadcast-received", [(at - began, depth) for at, depth, _ in scaler.seen], True),
            ("workers", [(at - began, workers) for at, _, workers in scaler.seen], True),
            ("seconds to accept", accepted, False),
        ]
    )
