"""One offer and one policy: what it would do, rule by rule. What the request says is shown only if asked for."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli.house import open_house
from shared.errors import ReceiverError
from shared.settings import Settings
from worker import offers_seen
from worker.facts import Facts, Load
from worker.policy import Decision, Offer, Policy, Sample, Verdict, Went, pickup_time
from worker.policy.compare import Seen
from worker.policy.variables import VARIABLES

WIDTH: Final = 160  # columns where the output is no terminal, so that a rule's name stays on one line
COLOURS: Final = {
    Verdict.ACCEPT: "green",
    Verdict.DECLINE: "red",
    Verdict.PROPOSE: "cyan",
    Verdict.HOLD: "yellow",
    Verdict.IGNORE: "dim",
}
_WENT: Final = {Went.MATCHED: "green", Went.UNDECIDED: "yellow", Went.FAILED: "red"}


@dataclass(frozen=True, slots=True)
class Case:
    """What is tried: an offer, when, and what the store knows."""

    offer: Offer
    now: float
    facts: Facts


def console() -> Console:
    """Standard output; colours on a terminal only."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def given(file: Path) -> Seen:
    """The offer in a file, a whole webhook or its `data`, as it would look to somebody who holds nothing yet."""
    try:
        body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        payload = orjson.loads(body)
    except OSError as error:
        raise typer.BadParameter(f"{file} can't be read: {error.strerror}") from None
    except orjson.JSONDecodeError:
        raise typer.BadParameter(f"{file} is not JSON") from None
    if not isinstance(payload, dict):
        raise typer.BadParameter(f"{file} is not a JSON object")
    is_whole = bool({"data", "request_status", "event_id"} & payload.keys())
    offer = offers_seen.sample(payload) if is_whole else Sample(payload)
    if offer.data is not None and not isinstance(offer.data, dict):
        raise typer.BadParameter(f"{file}: data is not a JSON object")
    overlapping = 0 if pickup_time(offer.data) is not None else None
    return Seen("", offer, time.time(), Facts(Load(overlapping=overlapping), in_use=0))


async def kept(settings: Settings, name: str) -> Seen:
    """The newest offer of CUSTOMER/REQUEST that a policy decided, with what the store knew then."""
    customer_id, slash, request_id = name.partition("/")
    if not (customer_id and slash and request_id):
        raise typer.BadParameter("--request is CUSTOMER/REQUEST, such as acme/VC-BSBBCY5Q")
    async with open_house(settings, with_store=True) as house:
        assert house.store is not None
        row = await house.store.read(lambda connection: offers_seen.newest(connection, customer_id, request_id))
        found = offers_seen.opened(row, house.sealer) if row is not None else None
    if found is None:
        raise ReceiverError(f"the store keeps no offer of {name}")
    return found


def show(policy: Policy, case: Case, *, reveal: bool) -> None:
    """Print the rules with what came of each, the variables, and the decision."""
    explained = policy.explain(case.offer, case.now, case.facts)
    out = console()
    rules = Table("", "rule", "", "why", title="rules", title_justify="left")
    for number, rule in enumerate(policy.rules, 1):
        tried = explained.tried[number - 1] if number <= len(explained.tried) else None
        went = Text(tried.went, _WENT.get(tried.went, "")) if tried else Text("not asked", "dim")
        unknown = tried is not None and tried.went in {Went.SKIPPED, Went.UNDECIDED}
        why = (f"{tried.why} is not known" if unknown else tried.why or "") if tried else ""
        rules.add_row(str(number), escape(rule.name), went, escape(why))
    out.print(rules)
    values = policy.variables(case.offer, case.now, case.facts)
    found = Table("variable", "value", title="variables", title_justify="left")
    for name, value in _shown(values, policy, reveal=reveal):
        found.add_row(escape(name), Text(value, "dim" if value == "null" else ""))
    out.print(found)
    for line in said(explained.decision):
        out.print(line)


def said(decision: Decision) -> Iterator[Text]:
    """A decision in a few lines."""
    verdict = Text(decision.verdict, f"bold {COLOURS[decision.verdict]}")
    yield verdict + Text(f"  {decision.reason_code}: {decision.reason}")
    if decision.propose_at is not None:
        yield Text(f"  proposes {decision.propose_at.isoformat(timespec='seconds')}")
    if decision.answer_within is not None:
        yield Text(f"  nobody answers within {decision.answer_within / 60:g} minutes: {decision.then_after}")
    if decision.notes:
        yield Text(f"  notes: {decision.notes}")
    if decision.tags:
        yield Text(f"  tags: {', '.join(decision.tags)}")


def _shown(values: dict[str, Any], policy: Policy, *, reveal: bool) -> Iterator[tuple[str, str]]:
    """Name and value of each variable; of the request, which fields the rules read, and whether they are known."""
    for path in sorted(path for path in policy.reads if path[0] == "request"):
        value: Any = values
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        yield ".".join(path), _text(value) if reveal or value is None else "known"
    for name in VARIABLES:
        if name in {"request", "lists"}:
            continue
        value = values[name]
        if isinstance(value, dict):
            yield from ((f"{name}.{field}", _text(inner)) for field, inner in value.items())
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return value if isinstance(value, str) else orjson.dumps(value).decode()
