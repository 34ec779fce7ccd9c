"""The time to accept on both brokers: from the start of VectorCare's POST until its API has our call, p50 and p99."""

import asyncio
import contextlib
import tempfile
from pathlib import Path
from statistics import quantiles

from sandbox.server import Options, Sandbox
from tests.brokers import until
from tests.processes import Home, Process
from tests.rabbit_node import running_node

RATE, SECONDS = 50, 4.0  # broadcasts a second, for so long


async def times_to_accept(folder: Path, broker: str) -> list[float]:
    """Broadcast to a receiver process at the rate; seconds to each accept."""
    async with Sandbox(Options()) as sandbox:
        home = Home(folder, sandbox, broker=broker)
        home.customer("acme")
        async with Process(home, "run") as receiver:
            await receiver.ready()
            count = int(RATE * SECONDS) + 20
            for _ in range(count):
                await sandbox.broadcast(sandbox.create_request("bls"), ["acme"])
                await asyncio.sleep(1 / RATE)
            await until(lambda: len(sandbox.record.calls("accept")) == count, 30)
        began = {each.request_id: each.at for each in sandbox.record.webhooks() if each.status == "AVAILABLE"}
        return [call.at - began[call.request_id] for call in sandbox.record.calls("accept")][20:]  # the first warm up


def main() -> None:
    """Print a line for each broker."""
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        brokers = {
            "embedded SQLite": "sqlite:receiver.db",
            "RabbitMQ, one node": stack.enter_context(running_node()).url,
        }
        for folder, (name, url) in zip(folders, brokers.items(), strict=True):
            cuts = quantiles(asyncio.run(times_to_accept(folder, url)), n=100, method="inclusive")
            print(f"{name:20} time to accept at {RATE}/s: p50 {cuts[49] * 1000:6.1f} ms, p99 {cuts[98] * 1000:6.1f} ms")  # noqa: T201


if __name__ == "__main__":
    main()
