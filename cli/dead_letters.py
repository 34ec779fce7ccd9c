"""The parked events: listed, shown, sent back to where they came from, or given up."""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection

from cli.ages import seconds
from cli.configured import Actor, Config, acting, configuration
from cli.house import House, open_house
from shared import logs, topics
from shared.broker import Message
from shared.database import Database
from shared.errors import ReceiverError
from shared.parking import FIRST_FAILED_AT, without_story
from shared.settings import Settings
from shared.topics import rfc3339
from worker import audit, parked, push
from worker.parked import Parked, Wanted

_WORKED: Final = (topics.BROADCAST_RECEIVED, topics.BROADCAST_ACCEPTED, topics.LIFECYCLE, topics.COMMANDS_QUEUE)
_PUT_SECONDS: Final = 10.0
_NOT_SHOWN: Final = frozenset({"ce-signature"})  # long, and of no use to a reader

T = TypeVar("T")

app = typer.Typer(help="The parked events: what no worker could act on.", no_args_is_help=True)

ParkedId = Annotated[int, typer.Argument(metavar="ID", help="As `dead-letters list` shows it.")]
Customer = Annotated[str | None, typer.Option("--customer", help="Those of this customer.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Those parked for this reason.")]
OlderThan = Annotated[
    str | None, typer.Option("--older-than", metavar="AGE", help="Those parked longer ago: 90s, 30m, 12h, 7d.")
]
AsJson = Annotated[bool, typer.Option("--json", help="A JSON object a line, for scripts.")]


class NotParked(ReceiverError):
    """There is no such parked event."""

    def __init__(self, parked_id: int) -> None:
        super().__init__(f"no event {parked_id} is parked; see vectorcare-receiver dead-letters list")


class NotToRedrive(ReceiverError):
    """It would be parked again at once; the text says why and what to do."""


@app.command("list")
def list_parked(
    customer: Customer = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """List the parked events, those first that were parked first; no patient data."""
    wanted = _wanted(customer, reason, older_than)
    events = _in_house(
        _settings(config), lambda house: _store(house).read(lambda connection: parked.found(connection, wanted))
    )
    if as_json:
        for event in events:
            _write(_facts(event))
    elif not events:
        sys.stdout.write("Nothing is parked.\n" if wanted == Wanted() else "Nothing like that is parked.\n")
    else:
        _table(events)


@app.command("show")
def show(
    parked_id: ParkedId,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the body too: patient data. Audited.")] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why you need to see it; asked for if missing.")
    ] = None,
    as_json: AsJson = False,
    actor: Actor = None,
    config: Config = None,
) -> None:
    """Show one parked event; without --reveal no patient data."""
    why = ""
    if reveal:
        why = (reason or typer.prompt("Why do you need to see patient data?", err=True)).strip()
        if not why:
            raise typer.BadParameter("a reason is needed to see patient data", param_hint="--reason")
    who = acting(actor) if reveal else None
    event, body = _in_house(_settings(config), lambda house: _shown(house, parked_id, who, why))
    headers = {name: event.headers[name] for name in sorted(event.headers.keys() - _NOT_SHOWN)}
    facts = _facts(event) | {"headers": headers}
    if as_json:
        _write(facts | ({"body": body.decode("utf-8", "replace")} if body is not None else {}))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            sys.stdout.writelines(_plain(f"  {header}: {text}\n") for header, text in value.items())
        elif value is not None:
            sys.stdout.write(_plain(f"{name}: {value}\n"))
    if body is not None:
        sys.stdout.write("\n" + _plain(body.decode("utf-8", "replace")) + "\n")


@app.command("redrive")
def redrive(
    parked_id: Annotated[int | None, typer.Argument(metavar="[ID]", help="As `dead-letters list` shows it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, or all that the filters leave.")] = False,
    customer: Customer = None,
    reason: Reason = None,
    older_than: OlderThan = None,
    actor: Actor = None,
    config: Config = None,
) -> None:
    """Send parked events back to the queue that they came from, as if they were new: their attempts begin again.

    An event is handled as what it is by now: an offer that is gone is not accepted."""
    wanted = _wanted(customer, reason, older_than)
    if (parked_id is None) != everything:
        raise typer.BadParameter("name one ID, or say --all")
    if parked_id is not None and wanted != Wanted():
        raise typer.BadParameter("filters go with --all")
    settings = _settings(config)
    refused = _in_house(settings, lambda house: _redrive(house, settings, parked_id, wanted, acting(actor)))
    if refused:
        raise typer.Exit(1)


@app.command("discard")
def discard(
    parked_id: ParkedId,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    actor: Actor = None,
    config: Config = None,
) -> None:
    """Delete one parked event for good; it is written down who did."""
    settings = _settings(config)
    event = _in_house(settings, lambda house: _one(house, parked_id))
    if not yes:
        named = f"event {event.id} ({event.routing_key}, {event.reason})"
        typer.confirm(f"Delete {named} for good?", abort=True, err=True)
    _in_house(settings, lambda house: _discard(house, event, acting(actor)))
    sys.stdout.write(f"{event.id} is discarded.\n")


async def _shown(house: House, parked_id: int, actor: str | None, why: str) -> tuple[Parked, bytes | None]:
    event = await _one(house, parked_id)
    if actor is None:
        return event, None

    def reveal(connection: Connection, now: float) -> bytes | None:
        _note(connection, now, event, actor, "reveal", why)
        return parked.sealed_body(connection, parked_id)

    body = await _store(house).transact(reveal)
    if body is None:
        raise NotParked(parked_id)
    return event, house.sealer.open(body)


async def _redrive(house: House, settings: Settings, parked_id: int | None, wanted: Wanted, actor: str) -> int:
    """Redrive each and say so; how many could not be."""
    if parked_id is not None:
        events = [await _one(house, parked_id)]
    else:
        events = await _store(house).read(lambda connection: parked.found(connection, wanted))
    refused = 0
    for event in events:
        try:
            await _redrive_one(house, settings, event, actor)
        except NotToRedrive as error:
            refused += 1
            sys.stderr.write(f"{event.id} stays parked: {error}\n")
        else:
            sys.stdout.write(f"{event.id} went back to {event.origin_queue}.\n")
    if not events:
        sys.stdout.write("Nothing like that is parked.\n")
    return refused


async def _redrive_one(house: House, settings: Settings, event: Parked, actor: str) -> None:
    if event.origin_queue.startswith(push.ORIGIN):
        await _push_again(house, settings, event, actor)
        return
    _check_redrivable(settings, event)
    sealed = await _store(house).read(lambda connection: parked.sealed_body(connection, event.id))
    if sealed is None:
        raise NotParked(event.id)
    message = Message(event.routing_key, without_story(event.headers), house.sealer.open(sealed))
    await house.broker.put(event.origin_queue, message, timeout=_PUT_SECONDS)

    def finish(connection: Connection, now: float) -> None:
        # Where a worker was quicker and has parked it again, the row is that newer parking's, and stays.
        again = not parked.remove(connection, event)
        _note(connection, now, event, actor, "redrive", "parked_again" if again else "redriven")

    await _store(house).transact(finish)


async def _push_again(house: House, settings: Settings, event: Parked, actor: str) -> None:
    """A push that was not taken goes back to its subscription, not to a queue."""
    name = event.origin_queue.removeprefix(push.ORIGIN)
    if not any(subscription.name == name and subscription.url for subscription in settings.subscriptions):
        raise NotToRedrive(f"no subscription {name} is pushed to (any more); configure it, or discard it")

    def again(connection: Connection, now: float) -> bool:
        if not push.push_again(connection, now, event):
            return False
        parked.remove(connection, event)
        _note(connection, now, event, actor, "redrive", "redriven")
        return True

    if not await _store(house).transact(again):
        raise NotToRedrive("the event is kept no more; replay the present state instead: events replay")


def _check_redrivable(settings: Settings, event: Parked) -> None:
    if event.origin_queue not in _WORKED:
        raise NotToRedrive("it never was in a worker's queue, because its body can't be read; show it, or discard it")
    if not event.customer_id:
        raise NotToRedrive("it names no customer, so no worker can act on it; discard it")
    if event.customer_id not in settings.declared:
        raise NotToRedrive(f"customer {event.customer_id} is not configured (any more); configure it, or discard it")
    if event.customer_id not in settings.customers:
        raise NotToRedrive(
            f"customer {event.customer_id} is disabled by its configuration; see vectorcare-receiver check"
        )


async def _discard(house: House, event: Parked, actor: str) -> None:
    def work(connection: Connection, now: float) -> bool:
        if not parked.remove(connection, event):
            return False
        _note(connection, now, event, actor, "discard", "discarded")
        return True

    if not await _store(house).transact(work):
        raise ReceiverError(f"event {event.id} was redriven, discarded or parked again meanwhile; look again")


async def _one(house: House, parked_id: int) -> Parked:
    event = await _store(house).read(lambda connection: parked.one(connection, parked_id))
    if event is None:
        raise NotParked(parked_id)
    return event


def _note(connection: Connection, now: float, event: Parked, actor: str, deed: str, result: str) -> None:
    subject = event.headers.get("ce-id", f"parked {event.id}")
    audit.note(
        connection,
        now,
        actor=actor,
        deed=f"dead_letters_{deed}",
        customer_id=event.customer_id,
        subject=subject,
        result=result,
    )


def _wanted(customer: str | None, reason: str | None, older_than: str | None) -> Wanted:
    if older_than is None:
        return Wanted(customer, reason)
    return Wanted(customer, reason, time.time() - seconds("--older-than", older_than))


def _facts(event: Parked) -> dict[str, Any]:
    """What may be shown to anybody: no headers of unknown content, no body."""
    facts = asdict(event)
    del facts["headers"]
    return {
        **facts,
        "event_id": event.headers.get("ce-id"),
        "why_unreadable": event.headers.get("ce-reason"),
        "first_failed_at": event.headers.get(FIRST_FAILED_AT),
        "first_parked_at": rfc3339(event.first_parked_at),
        "last_parked_at": rfc3339(event.last_parked_at),
    }


def _table(events: Sequence[Parked]) -> None:
    table = Table("id", "customer", "reason", "attempts", "parked", "key", "request")
    for event in events:
        cells = (
            str(event.id),
            event.customer_id or "",
            event.reason,
            str(event.attempts),
            rfc3339(event.first_parked_at),
            event.routing_key,
            event.service_request_id or "",
        )
        table.add_row(*(escape(_plain(cell)) for cell in cells))
    Console().print(table)


def _write(facts: Mapping[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(facts).decode() + "\n")


def _plain(text: str) -> str:
    """Without what would move a terminal's cursor: what lies in a queue may be anybody's."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def _store(house: House) -> Database:
    assert house.store is not None
    return house.store


def _settings(config: Path | None) -> Settings:
    logs.configure(level=logging.WARNING)
    return configuration(config)


def _in_house(settings: Settings, work: Callable[[House], Awaitable[T]]) -> T:
    async def opened() -> T:
        async with open_house(settings, with_store=True) as house:
            return await work(house)

    return asyncio.run(opened())
