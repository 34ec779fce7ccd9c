"""Several ingress processes behind one address: some die, others are restarted under load, and no webhook is lost."""

import asyncio
import contextlib
import signal
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from sandbox.record import WebhookAttempt
from sandbox.server import Options, Sandbox
from tests.acceptance.test_rides import SOON, assert_each_became_one_trip, broadcast, subscribed_by_amqp
from tests.balancer import Balancer
from tests.brokers import emptied, until
from tests.processes import Home, Process

INGRESSES: Final = 3
PAUSE: Final = 0.025  # between broadcasts; each makes two webhooks, so about 80 come in a second
GIVES_UP: Final = 10.0  # VectorCare, on one attempt


def answered(process: Process) -> int:
    """How many webhooks a process has answered 202, by its log."""
    return process.log.read_text().count('"answer":"accepted"')


async def serves_more_than(before: int, process: Process) -> None:
    """Until a restarted process, whose log goes on where the one before stopped, answers webhooks again."""
    await until(lambda: answered(process) > before, 60)


def assert_each_webhook_was_answered_in_time(attempts: list[WebhookAttempt]) -> None:
    by_event: dict[str, list[WebhookAttempt]] = defaultdict(list)
    for attempt in attempts:
        by_event[attempt.event_id].append(attempt)
    for event_id, tries in by_event.items():
        assert any(each.taken and each.seconds < GIVES_UP for each in tries), event_id


@pytest.mark.timeout(240)  # two starts under load, which a crowded machine makes slow
async def test_no_webhook_is_lost_when_one_ingress_is_killed_and_the_others_are_restarted_under_load(
    tmp_path: Path, amqp_url: str
) -> None:
    await emptied(amqp_url)
    async with Sandbox(Options(seed=7, attempt_delays=SOON)) as sandbox, contextlib.AsyncExitStack() as stack:
        homes = []
        for number in range(INGRESSES):
            (tmp_path / str(number)).mkdir()
            homes.append(Home(tmp_path / str(number), sandbox, broker=amqp_url))
            homes[-1].customer("acme")
        ingresses = [await stack.enter_async_context(Process(home, "ingress")) for home in homes]
        worker = await stack.enter_async_context(
            Process(homes[0], "worker", "broadcast-received", "broadcast-accepted", "lifecycle")
        )
        await asyncio.gather(worker.logged("started"), *(ingress.ready() for ingress in ingresses))
        front = await stack.enter_async_context(Balancer([home.port for home in homes]))
        sandbox.set_webhook("acme", f"http://127.0.0.1:{front.port}/webhook?customer_id=acme")
        requests: list[str] = []
        enough = asyncio.Event()

        async def load() -> None:
            while not enough.is_set():
                requests.extend(await broadcast(sandbox, 10, "acme", pause=PAUSE))
                front.spread()

        async with subscribed_by_amqp(amqp_url) as subscriber:
            loading = asyncio.create_task(load())
            await until(lambda: all(map(answered, ingresses)), 60)
            killed = ingresses[0]
            killed.process.send_signal(signal.SIGSTOP)  # so that it certainly dies with webhooks in hand
            await until(lambda: front.unanswered(homes[0].port), 60)
            await killed.kill()
            for home, ingress in zip(homes[1:], ingresses[1:], strict=True):
                before = answered(ingress)
                assert await ingress.terminate() == 0
                again = await stack.enter_async_context(Process(home, "ingress"))
                await again.ready()
                await serves_more_than(before, again)
            enough.set()
            await loading
            await sandbox.idle(60)
            await until(lambda: subscriber.assigned() == len(requests), 60)
        assert_each_webhook_was_answered_in_time(sandbox.record.webhooks())
        assert any(not attempt.taken for attempt in sandbox.record.webhooks())
        assert_each_became_one_trip(sandbox, subscriber, requests)
