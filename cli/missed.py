"""`missed`: which webhooks must have been lost, and what to press in VectorCare for each."""

import asyncio
import sys
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from cli.configured import Config, configuration, known
from cli.house import open_store
from shared import logs
from shared.settings import Settings
from shared.topics import rfc3339
from worker import app as workers
from worker.missing import PRESS, Missed, missing


def missed(
    customer: Annotated[str | None, typer.Option("--customer", help="Of this customer alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line, for scripts.")] = False,
    config: Config = None,
) -> None:
    """Show which webhooks must have been lost or never came: press Redeliver for exactly these."""
    logs.configure()
    settings = configuration(config)
    found = asyncio.run(_found(settings, None if customer is None else known(settings, customer)))
    if as_json:
        for each in found:
            sys.stdout.write(orjson.dumps(_facts(each)).decode() + "\n")
    elif not found:
        sys.stdout.write("Nothing is missing.\n")
    else:
        table = Table("customer", "request", "since", "state", "what is missing, and what to do")
        for each in found:
            facts = _facts(each)
            table.add_row(*(str(facts[name] or "") for name in ("customer", "request", "since", "state", "press")))
        Console().print(table)


async def _found(settings: Settings, customer: str | None) -> list[Missed]:
    async with open_store(settings) as store:
        await workers.migrate(store)
        return await store.read(lambda connection: missing(connection, customer))


def _facts(each: Missed) -> dict[str, str | None]:
    return {
        "customer": each.customer_id,
        "request": each.service_request_id,
        "kind": each.kind.value,
        "since": rfc3339(each.since),
        "state": each.state,
        "press": PRESS[each.kind],
    }
