"""`migrate`: what a person does with the store as a whole."""

import asyncio

import typer

from cli.house import open_store
from shared.settings import Settings
from worker import app as workers


def migrate(settings: Settings) -> None:
    """Bring the store's tables up to date, and say which steps that took."""
    for step in asyncio.run(_migrate(settings)):
        typer.echo(step)
    typer.echo("The store is up to date.")


async def _migrate(settings: Settings) -> tuple[str, ...]:
    async with open_store(settings) as store:
        return await workers.migrate(store)
