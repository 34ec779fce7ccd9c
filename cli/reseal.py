"""`reseal`: stored bodies under the first key of the ring, so that an older key can be thrown away."""

import asyncio
import contextlib
from collections import Counter

from rich.console import Console
from rich.progress import Progress

from cli.house import open_house
from shared import queue_rows
from shared.database import Database
from shared.embedded import EmbeddedBroker
from shared.engine import Engine
from shared.errors import ConfigurationError, Problem
from shared.keys import read_sealer
from shared.resealing import SealedColumn, reseal, sealed_columns, under_which_keys
from shared.settings import Settings
from worker import tables


def run(settings: Settings) -> int:
    """Seal anew whatever is not under the first key, and say what was and what is; the exit status."""
    if not settings.store.encryption_key_files:
        raise ConfigurationError([Problem("store.encryption_key_files", "names no key to seal with")])
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    sealer = read_sealer(settings)
    console = Console()
    async with open_house(settings, with_store=True) as house, contextlib.AsyncExitStack() as stack:
        assert house.store is not None
        queued = sealed_columns(queue_rows.messages.metadata)
        parts: list[tuple[Database, list[SealedColumn]]] = [(house.store, sealed_columns(tables.assignments.metadata))]
        if isinstance(house.broker, EmbeddedBroker):
            parts.append((house.broker.engine, queued))
        if settings.spool_file is not None and settings.spool_file.exists():
            spool = Engine(settings.spool_file)
            stack.push_async_callback(spool.close)
            await spool.migrate("shared.migrations.versions", "broker_version")
            parts.append((spool, queued))
        before = await _count(parts)
        first = f"key {sealer.prefix[1:].hex()}"
        unopened = 0
        with Progress(console=console) as progress:
            task = progress.add_task("sealing anew", total=before.total() - before[first])
            for database, columns in parts:
                unopened += await reseal(database, columns, sealer, lambda done: progress.advance(task, done))
        after = await _count(parts)
    for name in sorted({*before, *after, first}):
        console.print(f"{name}: {before[name]} before, {after[name]} now" + (" (the first)" if name == first else ""))
    left = after.total() - after[first]
    if left:
        why = f"{unopened} could not be opened: their key is not among store.encryption_key_files" if unopened else ""
        console.print(
            f"{left} are not under the first key. {why or 'Something still seals with another; run it again.'}"
        )
        return 1
    console.print("Everything is under the first key. Once no process has the others as its first, they can go.")
    return 0


async def _count(parts: list[tuple[Database, list[SealedColumn]]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for database, columns in parts:
        found.update(await under_which_keys(database, columns))
    return found
