"""How large a run is, and the table of its times. CROWD=full makes the long form, which `make crowd` runs."""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import pytest

from sandbox.load import distribution
from sandbox.options import Status
from sandbox.record import Entry, Record

FULL: Final = os.environ.get("CROWD") == "full"


def quantile(values: Sequence[float], of: int = 99) -> float:
    """The nearest rank, of 100."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * of // 100)]


def times_to_accept(record: Record, receiver: str, requests: Sequence[str]) -> list[float]:
    """Seconds from the start of the first POST of each offer to the arrival of the first accept call about it."""
    wanted = set(requests)
    began: dict[str, float] = {}
    called: dict[str, float] = {}
    for webhook in record.webhooks():
        if webhook.receiver == receiver and webhook.status == Status.AVAILABLE and webhook.request_id in wanted:
            began[webhook.request_id] = min(webhook.at, began.get(webhook.request_id, webhook.at))
    for call in record.calls("accept"):
        if call.receiver == receiver and call.request_id in wanted:
            called[call.request_id] = min(call.at, called.get(call.request_id, call.at))
    return [called[request] - began[request] for request in called]


def api_rows(record: Sequence[Entry]) -> dict[str, list[float]]:
    """Seconds of each kind of call as VectorCare saw it, by what was done to it; and of the webhooks' answers."""
    rows: dict[str, list[float]] = defaultdict(list)
    for entry in record:
        if entry.kind == "call":
            rows[f"API {entry.call}, {entry.trouble or 'untroubled'}"].append(entry.seconds)  # type: ignore[union-attr]
        elif entry.kind == "webhook" and entry.taken:  # type: ignore[union-attr]
            rows["webhook answered"].append(entry.seconds)  # type: ignore[union-attr]
    return dict(sorted(rows.items()))


def show(capsys: pytest.CaptureFixture[str], title: str, rows: dict[str, list[float]]) -> None:
    """Print number, p50, p99 and most of each row, in milliseconds."""
    lines = [f"\n{title}", f"{'':44}{'number':>8}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}"]
    for name, values in rows.items():
        found = distribution(values)
        p50, _, p99, most = (1000 * each for each in found.quantiles)
        lines.append(f"{name:44}{found.number:8}{p50:10.1f}{p99:10.1f}{most:10.1f}")
    with capsys.disabled():
        print("\n".join(lines))  # noqa: T201 - what `make crowd` is run for


def say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Print a line."""
    with capsys.disabled():
        print(line)  # noqa: T201
