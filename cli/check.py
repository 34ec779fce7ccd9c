"""`check`: everything that can be found out before the first webhook, in one table."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import aiohttp
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.house import open_house, open_store
from ingress import app as ingress_app
from ingress.customers import senders
from shared import traces
from shared.errors import ConfigurationError, Problem, ReceiverError
from shared.keys import read_sealer
from shared.settings import Settings
from worker import app as workers
from worker.customers import Customer, customers
from worker.token import Token, TokenRefused

_BROKER_SECONDS = 5.0


class Weight(StrEnum):
    """What a finding means for the exit status, and its colour."""

    OK = "green"
    WARNING = "yellow"
    TROUBLE = "red"  # 1: something does not answer as it should
    CONFIGURATION = "bold red"  # 2: a person must mend the configuration


@dataclass(frozen=True, slots=True)
class Finding:
    """One row: what was looked at, and what was found."""

    what: str
    result: str = "ok"
    weight: Weight = Weight.OK


def check(configuration: Callable[[], Settings], *, offline: bool) -> int:
    """Print the table; the exit status."""
    findings = asyncio.run(_findings(configuration, offline=offline))
    table = Table("what", "result", title="vectorcare-receiver check", title_justify="left")
    for finding in findings:
        table.add_row(escape(finding.what), Text(finding.result, finding.weight.value))
    Console().print(table)
    weights = {finding.weight for finding in findings}
    if Weight.CONFIGURATION in weights:
        return 2
    return 1 if Weight.TROUBLE in weights else 0


async def _findings(configuration: Callable[[], Settings], *, offline: bool) -> list[Finding]:
    try:
        settings = configuration()
    except ConfigurationError as error:
        return _configuration(error.problems)
    unusable = []
    for look in (read_sealer, lambda settings: settings.store_file, ingress_app.tls, traces.check):
        try:
            look(settings)
        except ConfigurationError as error:
            unusable += _configuration(error.problems)
    served, problems = customers(settings)
    _, receiving = senders(settings)
    findings = unusable or [Finding("configuration")]
    if not settings.declared:
        findings.append(Finding("customers", "there are none: add [customers.ID]", Weight.CONFIGURATION))
    findings += [
        Finding(problem.place, f"{problem.message} (this customer is disabled)", Weight.CONFIGURATION)
        for problem in dict.fromkeys([*problems, *receiving])
    ]
    findings += [_warning(problem) for problem in settings.warnings]
    findings += [Finding(f"customers.{customer_id}: keys, policy") for customer_id in served]
    if not offline and not unusable:
        findings += [await _store(settings), await _broker(settings)]
        findings += await asyncio.gather(*(_credentials(customer) for customer in served.values()))
    return findings


def _configuration(problems: Iterable[Problem]) -> list[Finding]:
    return [Finding(problem.place, problem.message, Weight.CONFIGURATION) for problem in problems]


def _warning(problem: Problem) -> Finding:
    return Finding(problem.place, problem.message, Weight.WARNING)


def _trouble(what: str, problem: str | None) -> Finding:
    return Finding(what, problem, Weight.TROUBLE) if problem else Finding(what)


async def _store(settings: Settings) -> Finding:
    try:
        async with open_store(settings) as store:
            await workers.migrate(store)
    except ReceiverError as error:
        return _trouble("store", str(error))
    return Finding("store")


async def _broker(settings: Settings) -> Finding:
    try:
        async with open_house(settings, with_store=False) as house:
            deadline = asyncio.get_running_loop().time() + _BROKER_SECONDS
            while house.broker.problem and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - a deadline
                await asyncio.sleep(0.05)
            return _trouble("broker", house.broker.problem)
    except ReceiverError as error:
        return _trouble("broker", str(error))


async def _credentials(customer: Customer) -> Finding:
    what = f"customers.{customer.customer_id}: credentials"
    async with aiohttp.ClientSession() as session:
        token = Token(customer.customer_id, customer.token_url, customer.client_id, customer.client_secret, session)
        try:
            await token.get()
        except TokenRefused as refused:
            return _trouble(what, str(refused))
    return Finding(what)
