"""The hook that lets a pod go only when its spool is empty, against a real admin listener."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ingress.app import port
from shared import admin, metrics
from shared.admin import Health

HOOK: Final = Path(__file__).parents[2] / "k8s/components/ingress-with-spool/drain-spool.py"


async def started(address: str, longest: str = "60") -> asyncio.subprocess.Process:
    variables = {"DRAIN_METRICS": address, "DRAIN_PROXIES_SECONDS": "0", "DRAIN_LONGEST_SECONDS": longest}
    return await asyncio.create_subprocess_exec(sys.executable, str(HOOK), env={**os.environ, **variables})


@pytest.fixture
def spool_metric() -> Iterator[None]:
    yield
    metrics.SPOOL_EVENTS.set(0)


async def test_a_pod_goes_when_its_spool_is_empty_and_not_before(spool_metric: None) -> None:
    runner = await admin.listen(admin.application(lambda: Health({}, {})), "127.0.0.1", 0)
    metrics.SPOOL_EVENTS.set(3)
    hook = await started(f"http://127.0.0.1:{port(runner)}/metrics")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hook.wait(), 2)
    metrics.SPOOL_EVENTS.set(0)
    assert await asyncio.wait_for(hook.wait(), 10) == 0
    await runner.cleanup()


async def test_it_gives_up_in_time_and_where_nobody_answers(spool_metric: None) -> None:
    runner = await admin.listen(admin.application(lambda: Health({}, {})), "127.0.0.1", 0)
    address = f"http://127.0.0.1:{port(runner)}/metrics"
    metrics.SPOOL_EVENTS.set(3)
    hook = await started(address, "0")
    assert await asyncio.wait_for(hook.wait(), 10) == 0
    await runner.cleanup()
    hook = await started(address)
    assert await asyncio.wait_for(hook.wait(), 10) == 0
