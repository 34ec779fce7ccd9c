"""Receivers as real processes, configured against a sandbox, with their logs and their health."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from sandbox.server import Sandbox

ACCEPT_ALL = '[[rules]]\nname = "all"\nwhen = "true"\nthen = "accept"\n'
_START_SECONDS = 60.0  # on a crowded machine five of them at once have taken 30
_CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("RECEIVER_")}


def free_port() -> int:
    """A port that nobody listens on now, below those from 32768 up, which Linux gives to outgoing connections: one of
    them could have it by the time that it is listened on."""
    while True:
        port = random.randrange(20_000, 32_768)
        with contextlib.suppress(OSError), socket.socket() as each:
            each.bind(("127.0.0.1", port))
            return port


class Home:
    """A folder with a receiver's configuration: keys, policies, receiver.toml."""

    def __init__(
        self,
        folder: Path,
        sandbox: Sandbox,
        *,
        broker: str = "sqlite:receiver.db",
        store: str = "sqlite:receiver.db",
        store_more: str = "",
        worker_more: str = "",
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.port = free_port()
        self.admin_port = free_port()
        self.file = folder / "receiver.toml"
        self._sandbox = sandbox
        self._parts = [
            f'[ingress]\nhost = "127.0.0.1"\nport = {self.port}\nadmin_port = {self.admin_port}',
            f"[worker]\nadmin_port = 0\n{worker_more}",
            f'[broker]\nurl = "{broker}"',
            f'[store]\nurl = "{store}"\n{store_more}',
        ]

    def customer(self, name: str, *, policy: str = ACCEPT_ALL, token: str | None = None, **settings: Any) -> None:
        """A customer that is a Receiver of the sandbox, with its webhook set."""
        receiver = self._sandbox.receivers.get(name) or self._sandbox.add_receiver(name)
        (self.folder / f"{name}.pem").write_text(receiver.public_key_pem)
        (self.folder / f"{name}.toml").write_text(policy)
        lines = {
            "environment": "custom",
            "api_url": f"{self._sandbox.url}/openapi/v2.0",
            "token_url": f"{self._sandbox.url}/v2.0/oauth2/token",
            "public_keys": [f"{name}.pem"],
            "client_id": receiver.client_id,
            "client_secret": receiver.client_secret,
            "policy": f"{name}.toml",
            "mode": "automatic",
            **({"webhook_token": token} if token else {}),
            **settings,
        }
        self._parts.append(f"[customers.{name}]\n" + "\n".join(f"{key} = {_toml(lines[key])}" for key in lines))
        self._sandbox.set_webhook(name, self.webhook(name, token))
        self.write()

    def webhook(self, name: str, token: str | None = None) -> str:
        """The customer's webhook URL."""
        return f"http://127.0.0.1:{self.port}/webhook?customer_id={name}" + (f"&token={token}" if token else "")

    def write(self, more: str = "") -> None:
        """Write receiver.toml, for its owner alone."""
        self.file.touch(mode=0o600)
        self.file.write_text("\n".join([*self._parts, more]))


class Process:
    """A running command of the product. An async context manager; what is still running at its end is killed."""

    def __init__(
        self, home: Home, *command: str, module: str = "cli.main", variables: dict[str, str] | None = None
    ) -> None:
        self._home = home
        self._command = command
        self._module = module
        self._variables = variables or {}
        self._process: asyncio.subprocess.Process | None = None
        self.log = home.folder / f"{'-'.join(command)}.log"

    async def __aenter__(self) -> "Process":
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                *self._command,
                "--config",
                str(self._home.file),
                stdout=log,
                stderr=log,
                env=_CLEAN | self._variables,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process."""
        assert self._process is not None
        return self._process

    async def ready(self) -> None:
        """Until its readiness is green."""
        url = f"http://127.0.0.1:{self._home.admin_port}/healthz/ready"
        async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
            while True:
                if self.process.returncode is not None:
                    raise AssertionError(f"it ended with {self.process.returncode}:\n{self.log.read_text()}")
                try:
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)

    async def logged(self, event: str) -> None:
        """Until its log holds a line of this event."""
        async with asyncio.timeout(_START_SECONDS):
            while f'"event":"{event}"' not in self.log.read_text():
                await asyncio.sleep(0.02)

    async def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(40):
            return await self.process.wait()

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.wait()


async def command(*arguments: str, folder: Path, variables: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command to its end; its exit status and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cli.main",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_CLEAN | {"COLUMNS": "200", "NO_COLOR": "1"} | (variables or {}),
        cwd=folder,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool | int | float) else f'"{value}"'
