"""What a running receiver really says on /metrics, against what alert rules and dashboard ask for."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from sandbox.server import Options, Sandbox
from tests.acceptance.test_rides import broadcast
from tests.monitoring.test_alerts import expressions
from tests.processes import Home, Process

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(home: Home) -> tuple[Samples, set[str]]:
    """Every sample, and every family that is announced, with a value or without."""
    url = f"http://127.0.0.1:{home.admin_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return samples, set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


async def until_scraped(home: Home, holds: Callable[[Samples], bool], within: float) -> tuple[Samples, set[str]]:
    async with asyncio.timeout(within):
        while True:
            samples, families = await scraped(home)
            if holds(samples):
                return samples, families
            await asyncio.sleep(0.05)


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of this name that carry these labels."""
    return sum(
        each for (called, has), each in samples.items() if called == name and labels.items() <= dict(has).items()
    )


async def test_a_ride_and_a_forged_webhook_are_seen_in_the_metrics_that_are_watched(tmp_path: Path) -> None:
    async with Sandbox(Options()) as sandbox:
        home = Home(tmp_path, sandbox)
        home.customer("acme")
        async with Process(home, "run") as process:
            await process.ready()
            await broadcast(sandbox, 3, "acme")
            await sandbox.send("acme", b"{}", "wrong")
            samples, families = await until_scraped(
                home, lambda seen: value(seen, "receiver_outcomes_published_total", customer="acme") >= 6, 20
            )
    offered = {"customer": "acme", "action": "BROADCAST_RECEIVED", "answer": "accepted"}
    assert value(samples, "receiver_webhooks_total", **offered) == 3
    assert value(samples, "receiver_webhooks_total", customer="acme", action="NONE", answer="unauthorized") == 1
    assert value(samples, "receiver_webhooks_refused_total", customer="acme", why="wrong_key") == 1
    assert value(samples, "receiver_outcomes_total", customer="acme", state="assigned") == 3
    assert value(samples, "receiver_queue_wait_seconds_count", queue="receiver.broadcast-received") == 3
    assert value(samples, "receiver_time_to_accept_seconds_count") == 3
    assert value(samples, "receiver_consumer_alive", queue="receiver.broadcast-accepted") == 1
    assert value(samples, "receiver_build_info", part="run") == 1
    for place, expression in expressions():
        for name in set(re.findall(r"receiver_\w+", expression)):
            assert families & {name, re.sub(r"_(bucket|count|sum)$", "", name)}, f"{place}: {name} is not said"
