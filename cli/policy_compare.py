"""Two policies over what was really seen. No patient data: requests are named by their ids."""

import sys
import time
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from cli.house import open_house
from cli.policy_try import COLOURS, console
from shared.settings import Settings
from worker import offers_seen
from worker.policy import Decision, Policy, Verdict
from worker.policy.compare import Comparison

_PAGE: Final = 200  # offers in memory at once


async def compared(
    settings: Settings, old: Policy, new: Policy, *, seconds: float, customer: str | None, most: int
) -> Comparison:
    """Decide each offer that was seen in the last `seconds` by both policies."""
    since, after = time.time() - seconds, 0
    comparison = Comparison(most)
    async with open_house(settings, with_store=True) as house:
        store = house.store
        assert store is not None
        total = await store.read(lambda connection: offers_seen.count(connection, since, customer))
        errors = Console(stderr=True)
        with Progress(console=errors, transient=True, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("offers", total=total)
            while True:
                begin = after
                rows = await store.read(
                    lambda connection: offers_seen.page(connection, since, customer, begin, _PAGE)  # noqa: B023 - awaited
                )
                if not rows:
                    return comparison
                opened = [offers_seen.opened(row, house.sealer) for row in rows]
                comparison.add(old, new, [seen for seen in opened if seen is not None])
                comparison.gone += opened.count(None)
                after = rows[-1].id
                progress.advance(bar, len(rows))


def show(comparison: Comparison, old: Policy, new: Policy) -> None:
    """Print how many are decided the same, from which verdict to which, and the requests that changed."""
    out = console()
    changed = comparison.seen - comparison.same
    out.print(f"{comparison.seen} offers: {comparison.same} decided the same, {changed} otherwise", highlight=False)
    if comparison.other_rules:
        out.print(f"  {comparison.other_rules} of the same by another rule", highlight=False)
    if comparison.gone:
        out.print(f"  {comparison.gone} more were seen, but their data is no longer kept", highlight=False)
    unasked = sorted(new.asks - old.asks)
    if unasked:
        names = ", ".join(unasked)
        out.print(
            f"  NEW reads {names}, OLD does not: what the store was not asked then counts as none, or is not known",
            style="yellow",
        )
    if not comparison.seen:
        return
    out.print(_matrix(comparison))
    if comparison.changes:
        out.print(_changes(comparison))
    left = changed - len(comparison.changes)
    if left:
        out.print(f"and {left} more", highlight=False)


def _matrix(comparison: Comparison) -> Table:
    after = [verdict for verdict in Verdict if any(pair[1] is verdict for pair in comparison.matrix)]
    table = Table("from \\ to", *after, title="how many went from which to which", title_justify="left")
    for before in Verdict:
        counts = [comparison.matrix[before, verdict] for verdict in after]
        if any(counts):
            cells = [
                Text(str(number) if number else "", "" if verdict is before else "bold", justify="right")
                for verdict, number in zip(after, counts, strict=True)
            ]
            table.add_row(before, *cells)
    return table


def _changes(comparison: Comparison) -> Table:
    table = Table("request", "was", "would be", title="decided otherwise", title_justify="left")
    for change in comparison.changes:
        request = f"{change.customer_id}/{change.service_request_id}"
        table.add_row(escape(request), _decision(change.old), _decision(change.new))
    return table


def _decision(decision: Decision) -> Text:
    by = f"  {decision.rule or 'default'}"
    why = "" if decision.reason_code in {"rule", "default"} else f" ({decision.reason_code})"
    return Text(decision.verdict, COLOURS[decision.verdict]) + Text(by + why)
