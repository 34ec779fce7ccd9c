"""`migrate`, `backup`, `restore`: what a person does with the store as a whole."""

import asyncio
from pathlib import Path
from typing import Final

import typer

from cli.house import open_store
from shared import files
from shared.engine import Engine
from shared.errors import Unavailable
from shared.settings import Settings
from worker import app as workers
from worker.restored import mark_restored

_PG_DUMP: Final = (
    "the store is on PostgreSQL: back it up with pg_dump (or a base backup), which is safe while the receiver runs"
)
_PG_RESTORE: Final = "the store is on PostgreSQL: restore it with pg_restore, then run `restore` without a file"
_PAUSED: Final = """\
Every customer is paused: this store has forgotten what happened since the backup, and would accept again.
Start the receiver and let it work off what is queued (all of it is held). Compare the held offers and the open trips
with VectorCare's own list, then `vectorcare-receiver resume --all`."""


def migrate(settings: Settings) -> None:
    """Bring the store's tables up to date, and say which steps that took."""
    for step in asyncio.run(_migrate(settings)):
        typer.echo(step)
    typer.echo("The store is up to date.")


def backup(settings: Settings, target: Path) -> None:
    """A copy of the store's file, taken while the receiver runs."""
    if settings.store_file is None:
        raise Unavailable(_PG_DUMP)
    files.copy(settings.store_file, target)
    typer.echo(f"{target}: {target.stat().st_size} bytes")
    if settings.broker_file not in (None, settings.store_file):
        typer.echo(f"What is queued in {settings.broker_file} is not in it: that is another file.")


def restore(settings: Settings, source: Path | None) -> None:
    """Put a backup in the store's place, with every customer paused. The receiver must not run."""
    store = settings.store_file
    if store is None:
        if source is not None:
            raise Unavailable(_PG_RESTORE)
        asyncio.run(_mark(settings))
    else:
        if source is None:
            raise typer.BadParameter("name the backup's file")
        _restore(store, source)
    typer.echo(_PAUSED)


def _restore(store: Path, source: Path) -> None:
    files.check(source)
    marked = store.with_name(f"{store.name}.restored")
    marked.unlink(missing_ok=True)  # of a restore that was interrupted
    files.copy(source, marked)
    asyncio.run(_mark_file(marked))
    aside = files.put_aside(store)
    marked.rename(store)
    if aside is not None:
        typer.echo(f"What was there is now {aside}.")


async def _migrate(settings: Settings) -> tuple[str, ...]:
    async with open_store(settings) as store:
        return await workers.migrate(store)


async def _mark(settings: Settings) -> None:
    async with open_store(settings) as store:
        await workers.migrate(store)
        await store.transact(mark_restored)


async def _mark_file(file: Path) -> None:
    engine = Engine(file)
    try:
        await workers.migrate(engine)
        await engine.transact(mark_restored)
    finally:
        await engine.close()
