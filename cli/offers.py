"""`offers`: what waits for a person, and the person's answer, which goes the way of every command."""

import asyncio
import sys
import time
import uuid
from datetime import datetime
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Row, select

from cli.configured import Actor, Config, acting, configuration, known
from cli.house import House, open_house
from cli.present import present
from shared import logs, topics
from shared.broker import Message
from shared.settings import Settings
from shared.topics import rfc3339
from worker import command
from worker.command import Malformed
from worker.results import PENDING
from worker.tables import commands

app = typer.Typer(help="Held offers: see them, and answer them.", no_args_is_help=True)

_SECONDS: Final = 30.0  # how long a result is waited for
_LOOK_SECONDS: Final = 0.1
_PUBLISH_SECONDS: Final = 10.0

Offer = Annotated[str, typer.Argument(metavar="CUSTOMER/REQUEST", help="Which, as `offers list` shows it.")]
Notes = Annotated[
    str | None, typer.Option("--notes", help="What VectorCare shows the requester; - reads standard input.")
]
Within = Annotated[float, typer.Option("--within", help="Seconds to wait for the result.")]


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    config: Config = None,
) -> None:
    """Show the offers that are held, without patient data."""
    logs.configure()
    held = asyncio.run(_held(configuration(config)))
    if as_json:
        for each in held:
            sys.stdout.write(orjson.dumps(each).decode() + "\n")
        return
    table = Table("offer", "since", "pickup in", "reason", "suggested", "rule")
    for each in held:
        minutes = each["pickup_in_minutes"]
        pickup = "" if minutes is None else f"{minutes} min"
        rule, suggested = each["rule"] or "", each["suggested"] or ""
        table.add_row(each["offer"], each["since"], pickup, each["reason_code"], suggested, rule)
    Console().print(table)


@app.command("accept")
def accept(
    offer: Offer, notes: Notes = None, actor: Actor = None, within: Within = _SECONDS, config: Config = None
) -> None:
    """Accept a held offer."""
    _answer("accept", offer, {"notes": _notes(notes)}, acting(actor), within, config)


@app.command("decline")
def decline(
    offer: Offer, notes: Notes = None, actor: Actor = None, within: Within = _SECONDS, config: Config = None
) -> None:
    """Decline a held offer."""
    _answer("decline", offer, {"notes": _notes(notes)}, acting(actor), within, config)


@app.command("propose")
def propose(
    offer: Offer,
    at: Annotated[str, typer.Option("--at", help="The pickup time, as in 2026-11-23T18:00:00Z.")],
    actor: Actor = None,
    within: Within = _SECONDS,
    config: Config = None,
) -> None:
    """Propose another pickup time for a held offer."""
    _answer("propose", offer, {"at": at}, acting(actor), within, config)


def _notes(given: str | None) -> str | None:
    return sys.stdin.read().strip() or None if given == "-" else given


async def _held(settings: Settings) -> list[dict[str, Any]]:
    async with open_house(settings, with_store=True) as house:
        told = await present(house, settings.declared)
    now = time.time()
    return [_shown(each, now) for each in told if each["state"] == "held"]


def _shown(told: dict[str, Any], now: float) -> dict[str, Any]:
    """An offer without its patient."""
    return {
        "offer": f"{told['customer_id']}/{told['service_request_id']}",
        "revision": told["revision"],
        "since": told["occurred_at"],
        "pickup_in_minutes": _minutes_until((told["request"] or {}).get("pickup_date_time"), now),
        "reason_code": told["reason_code"],
        "reason": told["reason"],
        "suggested": told["suggested"],
        "rule": told["decided_by"],
    }


def _minutes_until(moment: object, now: float) -> int | None:
    try:
        found = datetime.fromisoformat(moment.upper()) if isinstance(moment, str) else None
        return None if found is None or found.tzinfo is None else round((found.timestamp() - now) / 60)
    except (ValueError, OverflowError):
        return None


def _answer(word: str, offer: str, args: dict[str, Any], actor: str, within: float, config: "Config") -> None:
    logs.configure()
    settings = configuration(config)
    customer_id, slash, request_id = offer.partition("/")
    if not slash:
        raise typer.BadParameter("an offer is CUSTOMER/REQUEST, as `offers list` shows it")
    asked = {
        "schema": command.SCHEMA,
        "id": str(uuid.uuid4()),
        "customer_id": known(settings, customer_id),
        "service_request_id": request_id,
        "command": word,
        "args": args,
        "actor": actor,
        "issued_at": rfc3339(time.time()),
        "not_after": rfc3339(time.time() + within),  # whoever gave up waiting must not be surprised later
    }
    body = orjson.dumps(asked)
    found = command.read(word, customer_id, body)
    if found is None or isinstance(found, Malformed):
        raise typer.BadParameter(found.sentence if found else "it can't be read")
    row = asyncio.run(
        _asked(settings, customer_id, found.command_id, Message(f"{word}.{customer_id}", {}, body), within)
    )
    if row is None:
        sys.stderr.write(f"No result within {within:g} s: does a worker with the role commands run?\n")
        raise typer.Exit(1)
    code = row.code if row.vectorcare_code is None else f"{row.code}, {row.vectorcare_code}"
    sys.stdout.write(f"{offer}: {word} {row.state} ({code}): {row.sentence}\n")
    raise typer.Exit(0 if row.state == "done" else 1)


async def _asked(
    settings: Settings, customer_id: str, command_id: str, message: Message, within: float
) -> Row[Any] | None:
    async with open_house(settings, with_store=True) as house:
        await house.broker.publish(topics.COMMANDS, message, mandatory=True, timeout=_PUBLISH_SECONDS)
        return await _result(house, customer_id, command_id, within)


async def _result(house: House, customer_id: str, command_id: str, within: float) -> Row[Any] | None:
    assert house.store is not None
    this = select(commands).where(
        commands.c.customer_id == customer_id, commands.c.id == command_id, commands.c.state != PENDING
    )
    deadline = time.monotonic() + within
    while (row := await house.store.read(lambda connection: connection.execute(this).first())) is None:
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(_LOOK_SECONDS)
    return row
