"""`assignments`: what we know of each live assignment."""

import asyncio
import sys
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from cli.configured import Config, configuration, known
from cli.house import open_house
from cli.present import present
from shared import logs
from shared.settings import Settings

app = typer.Typer(help="The live assignments: offers that wait, and trips that are ours.", no_args_is_help=True)

Customer = Annotated[str | None, typer.Option("--customer", help="Of this customer alone.")]
_SHOWN = ("customer_id", "service_request_id", "state", "revision", "confirmed", "reason_code", "occurred_at")


@app.command("list")
def list_(
    customer: Customer = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    config: Config = None,
) -> None:
    """Show each live assignment, without patient data."""
    found = _found(customer, config)
    if as_json:
        for each in found:
            sys.stdout.write(orjson.dumps({name: each[name] for name in _SHOWN}).decode() + "\n")
        return
    table = Table("customer", "request", "state", "revision", "confirmed", "reason", "since")
    for each in found:
        table.add_row(
            *(
                "" if each[name] is None else str(each[name]).lower() if name == "confirmed" else str(each[name])
                for name in _SHOWN
            )
        )
    Console().print(table)


@app.command("export")
def export(customer: Customer = None, config: Config = None) -> None:
    """Print the last outcome of each live assignment, patient data included, as a JSON object a line."""
    for each in _found(customer, config):
        sys.stdout.write(orjson.dumps(each).decode() + "\n")


def _found(customer: str | None, config: "Config") -> list[dict[str, Any]]:
    logs.configure()
    settings = configuration(config)
    customers = settings.declared if customer is None else {known(settings, customer)}
    return asyncio.run(_read(settings, customers))


async def _read(settings: Settings, customers: "frozenset[str] | set[str]") -> list[dict[str, Any]]:
    async with open_house(settings, with_store=True) as house:
        return await present(house, customers)
