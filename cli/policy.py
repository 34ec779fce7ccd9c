"""Policies, before they decide anything, and afterwards: what would have been."""

import asyncio
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cli import ages, policy_compare, policy_facts, policy_try
from cli.configured import Config, configuration
from shared import logs
from worker import policy as policies
from worker.policy import Policy, PolicyError, Rule, Verdict
from worker.policy.remarks import remarks
from worker.policy.variables import ALWAYS_KNOWN

app = typer.Typer(help="Policies: what to do with an offer.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Policies: what to do with an offer."""


@app.command("check")
def check(file: Annotated[Path, typer.Argument(help="A policy file (TOML).")]) -> None:
    """Validate a policy, and list the fields that each rule reads without asking whether they are known."""
    policy = _policy(file)
    for number, rule in enumerate(policy.rules, 1):
        sys.stdout.write(f"{number}. {rule.name}: {_does(rule)}\n")
        for line in _reads(rule):
            sys.stdout.write(f"     {line}\n")
    after = f", after {policy.deadline.seconds / 60:g} minutes {policy.deadline.then_after}" if policy.deadline else ""
    sys.stdout.write(f"otherwise: {policy.default}{after}\n")
    for remark in remarks(policy):
        sys.stdout.write(f"note: {remark}\n")


@app.command("try")
def try_(  # noqa: PLR0917 - they are options of a command, not arguments of a call
    file: Annotated[Path, typer.Argument(help="A policy file (TOML).")],
    payload: Annotated[
        Path | None, typer.Argument(help="A webhook's body, or its `data` alone (JSON); - is standard input.")
    ] = None,
    request: Annotated[
        str | None,
        typer.Option("--request", metavar="CUSTOMER/REQUEST", help="A request that was offered, from the store."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When, 2026-11-26T08:30; now without it, or when the request was offered."),
    ] = None,
    facts: Annotated[Path | None, typer.Option(help="What the store knows (JSON), as in docs/policy.md.")] = None,
    fact: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="One of the facts, such as load.open=5; repeatable.")
    ] = None,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show what the request says: patient data.")] = False,
    config: Config = None,
) -> None:
    """Say what a policy would do with one offer, and by which rule; nothing is done."""
    policy = _policy(file)
    if (payload is None) == (request is None):
        raise typer.BadParameter("name a payload or --request CUSTOMER/REQUEST, one of them")
    logs.configure()
    if request is not None:
        seen = asyncio.run(policy_try.kept(configuration(config), request))
    else:
        assert payload is not None
        seen = policy_try.given(payload)
    known = policy_facts.changed(seen.facts, facts, fact or [])
    now = seen.at if at is None else _time(at, policy)
    policy_try.show(policy, policy_try.Case(seen.offer, now, known), reveal=reveal)


@app.command("compare")
def compare(
    old: Annotated[Path, typer.Argument(help="The policy as it is (TOML).")],
    new: Annotated[Path, typer.Argument(help="The policy as it might be (TOML).")],
    since: Annotated[str, typer.Option(help="How far back: 90m, 12h, 7d.")] = "7d",
    customer: Annotated[str | None, typer.Option(help="The offers of one customer only.")] = None,
    most: Annotated[int, typer.Option("--most", min=0, max=10_000, help="How many changed requests to list.")] = 50,
    config: Config = None,
) -> None:
    """Decide all offers that were really seen by two policies, and show where they differ; nothing is done."""
    before, after = _policy(old), _policy(new)
    seconds = ages.seconds("--since", since)
    logs.configure()
    comparison = asyncio.run(
        policy_compare.compared(configuration(config), before, after, seconds=seconds, customer=customer, most=most)
    )
    policy_compare.show(comparison, before, after)


def _policy(file: Path) -> Policy:
    try:
        return policies.load(file)
    except PolicyError as error:
        for place, message in error.problems:
            sys.stderr.write(f"{file}: {place}: {message}\n")
        raise typer.Exit(2) from None


def _time(text: str, policy: Policy) -> float:
    try:
        moment = datetime.fromisoformat(text.upper())
        return (moment if moment.tzinfo else moment.replace(tzinfo=policy.timezone)).timestamp()
    except (ValueError, OverflowError):
        raise typer.BadParameter("--at is a time such as 2026-11-26T08:30 or 2026-11-26T16:30Z") from None


def _does(rule: Rule) -> str:
    if rule.deadline is not None:
        return f"{rule.then}, after {rule.deadline.seconds / 60:g} minutes {rule.deadline.then_after}"
    if rule.proposal is not None:
        minutes = rule.proposal.minutes
        direction = (
            "from now" if rule.proposal.from_now else "after the pickup" if minutes >= 0 else "before the pickup"
        )
        return f"{rule.then} a time {abs(minutes):g} minutes {direction}"
    return f"{rule.then} (let it expire)" if rule.then is Verdict.IGNORE else rule.then


def _reads(rule: Rule) -> list[str]:
    reads = sorted(".".join(path) for path in rule.when.mentions - ALWAYS_KNOWN if path[0] not in {"lists", "event"})
    undecided = "the next rule is asked" if rule.skips_unknown else "the offer is held"
    lines = [f"where {name} is not known, {undecided}" for name in reads]
    if rule.proposal is not None and not rule.proposal.from_now:
        lines.append("where the pickup is not known or the proposed time is past, the offer is held")
    return lines
