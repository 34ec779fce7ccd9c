"""The consumers of docs/subscribe.md do what it says, as they stand there."""

import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sandbox.server import Options, Sandbox
from tests.acceptance.test_doors import TOKEN, with_http
from tests.acceptance.test_rides import broadcast
from tests.brokers import emptied
from tests.processes import Home, Process, free_port

TEXT = (Path(__file__).parents[2] / "docs/subscribe.md").read_text()
TRIPS = 5


def example(language: str) -> str:
    """The one example in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    assert isinstance(found, str)
    return found


@contextlib.asynccontextmanager
async def consumer(
    *command: str, unread: list[str] | None = None, **variables: str
) -> AsyncIterator[Callable[[int], Awaitable[list[str]]]]:
    """A running consumer; the function reads so many lines of what it prints. What it had printed besides when it was
    killed is put into `unread`."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={**os.environ, **variables}, start_new_session=True
    )
    assert process.stdout is not None
    output = process.stdout

    async def lines(count: int) -> list[str]:
        async with asyncio.timeout(30):
            return [(await output.readline()).decode().strip() for _ in range(count)]

    try:
        yield lines
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        rest, _ = await process.communicate()
        if unread is not None:
            unread += rest.decode().splitlines()


async def node_modules(folder: Path) -> None:
    """Fetch amqplib; where there is no Node or no registry, this can't be shown."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no Node here")
    installing = await asyncio.create_subprocess_exec(
        npm, "install", "--silent", "--no-audit", "--no-fund", "amqplib", cwd=folder
    )
    if await installing.wait():
        pytest.skip("amqplib can't be had here")


@pytest.mark.parametrize("language", ["python", "javascript"])
async def test_the_amqp_consumers_hear_of_each_trip_and_acknowledge_it(
    tmp_path: Path, amqp_url: str, language: str
) -> None:
    if language == "javascript":
        await node_modules(tmp_path)
    await emptied(amqp_url, "cad")
    file = tmp_path / {"python": "consumer.py", "javascript": "consumer.js"}[language]
    file.write_text(example(language))
    async with Sandbox(Options(seed=4)) as sandbox:
        home = Home(tmp_path, sandbox, broker=amqp_url)
        home.customer("acme")
        home.write('[[subscriptions]]\nname = "cad"\ncustomers = ["acme"]\nacknowledge_within = 1\n')
        program = sys.executable if language == "python" else "node"
        async with Process(home, "run") as process:
            await process.ready()
            async with consumer(program, str(file), AMQP_URL=amqp_url) as lines:
                requests = await broadcast(sandbox, TRIPS, "acme")
                told = await lines(2 * TRIPS)
                await _acknowledged(process, TRIPS)
            assert await process.terminate() == 0
        await emptied(amqp_url, "cad")
        assert sorted(told) == sorted(f"{each} {state}" for each in requests for state in ("accepting", "assigned"))


async def test_the_curl_consumer_acknowledges_each_trip(tmp_path: Path) -> None:
    if not all(map(shutil.which, ("curl", "jq", "bash"))):
        pytest.skip("no curl, or no jq")
    (tmp_path / "consumer.sh").write_text(example("bash"))
    async with Sandbox(Options(seed=5)) as sandbox:
        home, port = Home(tmp_path, sandbox), free_port()
        home.customer("acme")
        home.write(with_http(home, port, acknowledges="true"))
        async with Process(home, "run") as process:
            await process.ready()
            url = f"http://127.0.0.1:{port}"
            async with consumer("bash", str(tmp_path / "consumer.sh"), TOKEN=TOKEN, URL=url) as lines:
                requests = await broadcast(sandbox, TRIPS, "acme")
                told = await lines(TRIPS)
            assert await process.terminate() == 0
        assert sorted(told) == sorted(f"ack-{each} done" for each in requests)


async def _acknowledged(process: Process, count: int) -> None:
    """Until so many commands were carried out."""
    async with asyncio.timeout(20):
        while process.log.read_text().count('"command":"acknowledge"') < count:
            await asyncio.sleep(0.05)


async def test_a_consumer_that_is_killed_again_and_again_misses_no_trip(tmp_path: Path, amqp_url: str) -> None:
    await emptied(amqp_url, "cad")
    file = tmp_path / "consumer.py"
    file.write_text(example("python"))
    told: list[str] = []
    async with Sandbox(Options(seed=6)) as sandbox:
        home = Home(tmp_path, sandbox, broker=amqp_url)
        home.customer("acme")
        home.write('[[subscriptions]]\nname = "cad"\ncustomers = ["acme"]\n')
        async with Process(home, "run") as process:
            await process.ready()
            broadcasting = asyncio.create_task(broadcast(sandbox, 40, "acme", pause=0.05))
            for lives in (3, 7, 1, 12):
                async with consumer(sys.executable, str(file), unread=told, AMQP_URL=amqp_url) as lines:
                    told += await lines(lives)
            requests = await broadcasting
            async with consumer(sys.executable, str(file), AMQP_URL=amqp_url) as lines:
                while not {f"{each} assigned" for each in requests} <= set(told):
                    told += await lines(1)
            assert await process.terminate() == 0
    await emptied(amqp_url, "cad")
