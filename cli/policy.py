"""Policies, before they decide anything."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from worker import policy as policies
from worker.policy import PolicyError, Rule

app = typer.Typer(help="Policies: what to do with an offer.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Policies: what to do with an offer."""


@app.command("check")
def check(file: Annotated[Path, typer.Argument(help="A policy file (TOML).")]) -> None:
    """Validate a policy, and list the fields that each rule reads without asking whether they are known."""
    try:
        policy = policies.load(file)
    except PolicyError as error:
        for place, message in error.problems:
            sys.stderr.write(f"{file}: {place}: {message}\n")
        raise typer.Exit(2) from None
    for number, rule in enumerate(policy.rules, 1):
        sys.stdout.write(f"{number}. {rule.name}: {rule.then}\n")
        for line in _reads(rule):
            sys.stdout.write(f"     {line}\n")
    sys.stdout.write(f"otherwise: {policy.default}\n")


def _reads(rule: Rule) -> list[str]:
    reads = sorted(".".join(path) for path in rule.when.mentions if path[0] not in {"lists", "event"})
    if not reads:
        return []
    undecided = "the next rule is asked" if rule.skips_unknown else "the offer is held"
    return [f"where {name} is not known, {undecided}" for name in reads]
