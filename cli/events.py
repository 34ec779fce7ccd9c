"""Looking at events as they pass, without patient data."""

import asyncio
import contextlib
import re
import signal
import sys
from typing import Final

import typer

from cli.house import open_house
from shared import topics
from shared.broker import Binding, Message
from shared.settings import Settings

app = typer.Typer(help="The events on the topics.", no_args_is_help=True)

_PATTERN: Final = re.compile(r"[A-Za-z0-9_*#-]+(\.[A-Za-z0-9_*#-]+)*")
_SHOWN: Final = ("ce-time", "ce-subject", "ce-id", "ce-reason")


def tail(settings: Settings, pattern: str) -> None:
    """Print a line for each event whose key matches, until interrupted."""
    if not _PATTERN.fullmatch(pattern):
        raise typer.BadParameter("a pattern is words of letters, digits, _, -, * and #, parted by dots")
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_tail(settings, pattern))


async def _tail(settings: Settings, pattern: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    bindings = (Binding(topics.WEBHOOKS, pattern), Binding(topics.OUTCOMES, pattern))
    async with (
        open_house(settings, with_store=False) as house,
        contextlib.aclosing(house.broker.tail(bindings)) as messages,
    ):
        async for message in messages:
            sys.stdout.write(line(message) + "\n")
            sys.stdout.flush()


def line(message: Message) -> str:
    """An event in one line: its key and what names it. The body, where patients are, is not opened."""
    return "  ".join([message.routing_key, *(message.headers[name] for name in _SHOWN if name in message.headers)])
