"""The guide's *Testing in UAT*, by commands alone: the sandbox and our receiver as processes, nothing in between."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import aiohttp

from tests.processes import command, free_port

_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RECEIVER_")}
PYTHON = (sys.executable, "-m", "cli.main")


async def start(folder: Path, *arguments: str, ready: str) -> asyncio.subprocess.Process:
    """Start a command and wait until its page answers."""
    with (folder / f"{arguments[0]}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *PYTHON, *arguments, stdout=log, stderr=log, cwd=folder, env=_ENVIRONMENT
        )
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            assert process.returncode is None, (folder / f"{arguments[0]}.log").read_text()
            try:
                async with session.get(ready) as response:
                    if response.status == 200:
                        return process
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)


async def stop(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        assert await process.wait() == 0


async def test_the_whole_uat_walk_by_commands_alone(tmp_path: Path) -> None:
    sandbox_port, port, admin = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{sandbox_port}"

    async def sandbox(*arguments: str) -> str:
        status, printed = await command("sandbox", arguments[0], "--url", url, *arguments[1:], folder=tmp_path)
        assert status == 0, printed
        return printed

    async def until_shown(what: str, *arguments: str) -> str:
        async with asyncio.timeout(30):
            while not re.search(what, printed := await sandbox(*arguments), re.DOTALL):
                pass
        return printed

    def run() -> tuple[str, ...]:
        return ("run", "--config", "receiver.toml")

    played = await start(
        tmp_path,
        *(
            "sandbox",
            "--port",
            str(sandbox_port),
            "--delays",
            "0,0.2,0.2",
            "--write-config",
            ".",
            "--mode",
            "automatic",
        ),
        *("--receiver", f"acme=http://127.0.0.1:{port}/webhook?customer_id=acme"),
        ready=f"{url}/sandbox/requests",
    )
    with (tmp_path / "receiver.toml").open("a") as file:
        file.write(f'[ingress]\nhost = "127.0.0.1"\nport = {port}\nadmin_port = {admin}\n')
    ready = f"http://127.0.0.1:{admin}/healthz/ready"
    receiver = await start(tmp_path, *run(), ready=ready)

    found = re.search(r"VC-\w+", await sandbox("create", "--kind", "bls", "--to", "acme"))
    assert found
    await until_shown("assigned.*acme", "show", found.group())
    history = await until_shown(r"\b202\b.*\b202\b", "history", "acme")
    assert "BROADCAST_RECEIVED" in history
    assert "BROADCAST_ACCEPTED" in history

    await stop(receiver)
    missed = re.search(r"VC-\w+", await sandbox("create", "--kind", "dialysis", "--to", "acme"))
    assert missed
    attempts = rf"(?:[^\n]*{missed.group()}[^\n]*\n.*){{3}}"
    history = await until_shown(attempts, "history", "acme")
    calls = [line for line in history.splitlines() if missed.group() in line]
    assert not [line for line in calls if re.search(r"\b202\b", line)]

    receiver = await start(tmp_path, *run(), ready=ready)
    call = re.search(r"WC-\w+", calls[-1])
    assert call
    assert re.search(r"\b202\b", await sandbox("redeliver", call.group()))
    await until_shown("assigned.*acme", "show", missed.group())
    status, printed = await command("sandbox", "verify", url, "--allow-retries", folder=tmp_path)
    assert (status, "0 wrongs" in printed) == (0, True), printed
    await stop(receiver)
    await stop(played)
