"""`pause` and `resume`: written straight to the store, so that they count from the commit on, for every worker."""

import asyncio
import sys
from typing import Annotated

import typer
from sqlalchemy import Connection

from cli.configured import Actor, Config, acting, configuration, known
from cli.house import open_house
from shared import logs
from shared.settings import Settings
from worker import audit, pausing

Customer = Annotated[str | None, typer.Argument(help="A customer.")]
All = Annotated[bool, typer.Option("--all", help="Every customer.")]


def pause(customer: Customer = None, everyone: All = False, actor: Actor = None, config: Config = None) -> None:
    """Begin no accept any more, on any worker, until resumed; offers are held."""
    _set("pause", customer, everyone=everyone, actor=acting(actor), config=config)


def resume(customer: Customer = None, everyone: All = False, actor: Actor = None, config: Config = None) -> None:
    """Let the policy decide again. What was held meanwhile stays held."""
    _set("resume", customer, everyone=everyone, actor=acting(actor), config=config)


def _set(deed: str, customer: str | None, *, everyone: bool, actor: str, config: "Config") -> None:
    logs.configure()
    if everyone == (customer is not None):
        raise typer.BadParameter(f"name a customer, or --all: {deed} CUSTOMER")
    settings = configuration(config)
    whom = pausing.ALL if customer is None else known(settings, customer)
    changed, left = asyncio.run(_write(settings, deed, whom, actor))
    who_is = "everybody" if whom == pausing.ALL else whom
    state = "paused" if deed == "pause" else "no longer paused"
    sys.stdout.write(f"{who_is}: {state}\n" if changed else f"{who_is}: was {state} already\n")
    if deed == "resume":
        for line in left:
            sys.stdout.write(f"still paused: {line}\n")


async def _write(settings: Settings, deed: str, whom: str, actor: str) -> tuple[bool, list[str]]:
    def work(connection: Connection, now: float) -> tuple[bool, list[str]]:
        begins = deed == "pause"
        changed = pausing.pause(connection, now, whom, actor) if begins else pausing.resume(connection, whom)
        result = "done" if changed else "was_so"
        audit.note(connection, now, actor=actor, deed=deed, customer_id=whom, subject="", result=result)
        return changed, ["everybody" if each == pausing.ALL else each for each in pausing.paused(connection)]

    async with open_house(settings, with_store=True) as house:
        assert house.store is not None
        return await house.store.transact(work)
