"""Says what a Receiver did wrong, as a pure function of a record.

A Receiver is accused only of what it could have known and done better: what trouble did to it is not held
against it, and what the guide leaves open is allowed.
"""

from collections import defaultdict
from collections.abc import Iterable

from sandbox.evidence import Finding, Rules, sort_out
from sandbox.record import Entry
from sandbox.wrongs import EVERYWHERE, PER_CASE

__all__ = ["Finding", "Rules", "counted", "verify"]


def verify(entries: Iterable[Entry], rules: Rules | None = None) -> list[Finding]:
    """Everything wrong that the record shows, oldest first."""
    rules = rules or Rules()
    evidence = sort_out(entries)
    found: list[Finding] = []
    for check in EVERYWHERE:
        found += check(evidence, rules)
    for case in evidence.cases:
        for examine in PER_CASE:
            found += examine(case, rules, evidence.end)
    return sorted(found, key=lambda finding: finding.at)


def counted(findings: Iterable[Finding]) -> dict[str, dict[str, int]]:
    """How many findings of each kind, by Receiver."""
    table: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for finding in findings:
        table[finding.receiver][finding.wrong] += 1
    return {name: dict(kinds) for name, kinds in table.items()}
