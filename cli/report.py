"""`report`: what the policy said of the offers of some days, and who had the trips, before one lets it act."""

import asyncio
import sys
import time
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from cli.ages import seconds
from cli.configured import Config, configuration, known
from cli.house import open_store
from shared import logs
from shared.settings import Settings
from worker import app as workers
from worker.policy import Verdict
from worker.reporting import Report, reports

_ROWS = {
    "offers": "requests offered and decided",
    **{f"would_{verdict}": f"the policy: {verdict}" for verdict in Verdict},
    "by_policy": "ours by the policy",
    "by_hand": "ours by a person's word",
    "given": "given to us by the requester",
    "lost": "lost: another was faster",
    "missed": "the policy would have accepted, and it went away",
    "median_seconds": "webhook to decision, median seconds",
    "p99_seconds": "webhook to decision, 99th percentile",
}


def report(
    since: Annotated[str, typer.Option("--since", help="How far back: 90m, 12h, 7d.")] = "7d",
    customer: Annotated[str | None, typer.Option("--customer", help="Of this customer alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object for each customer.")] = False,
    config: Config = None,
) -> None:
    """Show what the policy said of the offers seen, what persons did, and how fast; for observe and suggest."""
    logs.configure()
    settings = configuration(config)
    wanted = sorted(settings.declared) if customer is None else [known(settings, customer)]
    began = time.time() - seconds("--since", since)
    found = asyncio.run(_found(settings, began, wanted))
    columns = {name: _figures(each) for name, each in found.items()}
    if as_json:
        for name, figures in columns.items():
            sys.stdout.write(orjson.dumps({"customer": name, **figures}).decode() + "\n")
        return
    table = Table("", *columns, title=f"Offers of the last {since}", title_justify="left")
    for key, text in _ROWS.items():
        table.add_row(text, *("" if figures[key] is None else str(figures[key]) for figures in columns.values()))
    Console().print(table)


async def _found(settings: Settings, since: float, customers: list[str]) -> dict[str, Report]:
    async with open_store(settings) as store:
        await workers.migrate(store)
        return await store.read(lambda connection: reports(connection, since, customers))


def _figures(each: Report) -> dict[str, Any]:
    pace = each.pace()
    return {
        "offers": each.requests,
        **{f"would_{verdict}": each.verdicts.get(verdict, 0) for verdict in Verdict},
        "by_policy": each.by_policy,
        "by_hand": each.by_hand,
        "given": each.given,
        "lost": each.lost,
        "missed": each.missed,
        "median_seconds": None if pace is None else round(pace[0], 3),
        "p99_seconds": None if pace is None else round(pace[1], 3),
    }
