"""The commands as real processes, and the Receiver of the docs against them."""

import asyncio
import os
import re
import signal
import sys
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from sandbox.remote import ask
from sandbox.server import Sandbox
from tests.sandbox.endpoint import Endpoint

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "sandbox.md").read_text()


async def start(*arguments: str, cwd: Path = ROOT) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "COLUMNS": "140"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(*arguments: str) -> tuple[int, str]:
    """Exit status and output of one command."""
    process = await start("-m", "cli.sandbox", *arguments)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, (out + err).decode()


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[str]:
    """A sandbox as its own process; yields its URL, and sees that SIGTERM ends it with 0."""
    process = await start("-m", "cli.sandbox", "--port", "0", *arguments)
    assert process.stdout is not None
    first = (await asyncio.wait_for(process.stdout.readline(), 15)).decode()
    assert first.startswith("sandbox: "), first
    try:
        yield first.split()[1]
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0


async def test_the_receiver_of_the_docs_walks_the_walk_by_commands_alone(tmp_path: Path) -> None:
    async with Endpoint() as free:
        port = free.url.split(":")[2].split("/")[0]
    webhook = f"acme=http://127.0.0.1:{port}/webhook"
    async with running("--receiver", webhook, "--write-config", str(tmp_path), "--delays", "0,0.5,1,2") as url:
        (code,) = re.findall(r"```python\n(import base64.*?)```", DOCS, re.S)
        assert len(code.splitlines()) <= 40
        (tmp_path / "receiver.py").write_text(code.replace("8080", port))
        receiver = await start("receiver.py", cwd=tmp_path)
        try:
            at = ("--url", url)
            status, request_id = await run("create", "--kind", "bls", "--to", "acme", *at)
            assert status == 0
            for _ in range(2):
                await ask(url, "GET", "idle")
            assert (
                f"{request_id.strip()} is assigned, assigned to acme" in (await run("show", request_id.strip(), *at))[1]
            )
            history = (await run("history", "acme", *at))[1]
            assert "BROADCAST_RECEIVED" in history
            assert "BROADCAST_ACCEPTED" in history
            row = (await ask(url, "GET", "receivers/acme/history"))[-1]["id"]
            assert (await run("redeliver", row, *at))[0] == 0
            assert "0 wrongs" in (await run("verify", url, "--allow-retries"))[1]
        finally:
            receiver.terminate()
            await receiver.wait()


async def test_load_ends_with_the_distributions(sandbox: Sandbox, acme_endpoint: Endpoint) -> None:
    status, told = await run("broadcast", "--rate", "100", "--duration", "0.2", "--to", "acme", "--url", sandbox.url)
    assert status == 0
    assert "20 broadcast, 0 webhook attempts failed" in told
    assert len(acme_endpoint.bodies) == 20
    assert re.search(r"webhook answer\s+│ 20", told)


async def test_play_says_which_step_failed(sandbox: Sandbox, tmp_path: Path) -> None:
    listed = await run("play")
    assert "lost-race" in listed[1]
    file = tmp_path / "mine.toml"
    file.write_text(
        "about = 'x'\n[[steps]]\ndo = 'create'\nname = 'trip'\n[[steps]]\ndo = 'broadcast'\nrequest = 'trip'\n"
        "[[steps]]\nexpect = 'call'\ncall = 'accept'\nwithin = 0.1\n"
    )
    status, told = await run("play", str(file), "--url", sandbox.url)
    assert status == 1
    assert "NO  expect call call=accept within=0.1  saw: " in told


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["show", "VC-1", "--url", "http://127.0.0.1:9"], 1, "no sandbox at"),
        (["--delays", "soon"], 2, "--delays"),
        (["--receiver", "acme=http://example.com/"], 2, "HTTPS"),
        (["create", "--data", "{"], 2, "not JSON"),
        (["play", "nowhere"], 2, "no such scenario"),
        (["verify", "/nowhere"], 2, "is no record"),
    ],
    ids=["no sandbox", "delays", "plain http", "data", "scenario", "record"],
)
async def test_a_wrong_call_ends_with_its_reason(arguments: list[str], status: int, said: str) -> None:
    ended, told = await run(*arguments)
    assert ended == status
    assert said in told


async def test_a_record_file_is_verified_with_its_wrongs_and_status_1(tmp_path: Path) -> None:
    async with Endpoint(500) as endpoint:
        record = tmp_path / "record.jsonl"
        arguments = ("--receiver", f"acme={endpoint.url}", "--record", str(record), "--delays", "0")
        async with running(*arguments) as url:
            await ask(url, "POST", "requests", {"broadcast_to": ["acme"]})
            await ask(url, "GET", "idle")
        status, told = await run("verify", str(record))
        assert status == 1
        assert "not_2xx  acme" in told
        assert {orjson.loads(line)["kind"] for line in record.read_bytes().splitlines()} == {"deed", "webhook"}


async def test_signatures_verify_with_openssl(sandbox: Sandbox, acme_endpoint: Endpoint, tmp_path: Path) -> None:
    await sandbox.broadcast(sandbox.create_request(), ["acme"])
    await sandbox.idle()
    (tmp_path / "key.pem").write_text(sandbox.receivers["acme"].public_key_pem)
    (tmp_path / "body").write_bytes(acme_endpoint.bodies[0])
    (tmp_path / "signature").write_bytes(b64decode(acme_endpoint.headers[0]["X-VectorCare-Signature"]))
    checked = await asyncio.create_subprocess_exec(
        *("openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "body"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    assert (await checked.communicate())[0] == b"Verified OK\n"
