"""What became of the offers of some time: what the policy said, and who had the trip in the end. Counts, no PHI."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median, quantiles

from sqlalchemy import Connection, select

from worker.assignment import State
from worker.policy import Verdict
from worker.tables import assignments, offers

_OURS = frozenset({State.ACCEPTING, State.ASSIGNED, State.UPDATED, State.COMPLETED})
_GONE = frozenset({State.LOST, State.CLOSED})


@dataclass(slots=True)
class Report:
    """One customer's offers. `verdicts` counts what the policy said last of each request; `by_hand` are ours by a
    person's word, `by_policy` by a rule or the default; `missed` are those that the policy would have accepted and
    that went away; `lost` those where our accept was refused; `seconds` is from the webhook to the decision."""

    requests: int = 0
    verdicts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_policy: int = 0
    by_hand: int = 0
    given: int = 0
    lost: int = 0
    missed: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, verdict: str, state: str | None, decided_by: str | None, seconds: float | None) -> None:
        """One request more."""
        self.requests += 1
        self.verdicts[verdict] += 1
        if state in _OURS:
            self.by_hand += decided_by == "person"
            self.given += decided_by == "requester"
            self.by_policy += decided_by not in {"person", "requester"}
        self.lost += state == State.LOST
        self.missed += verdict == Verdict.ACCEPT and state in _GONE
        if seconds is not None and seconds >= 0:
            self.seconds.append(seconds)

    def pace(self) -> tuple[float, float] | None:
        """Median and 99th percentile of the seconds from webhook to decision; None where none is known."""
        if len(self.seconds) < 2:
            return (self.seconds[0], self.seconds[0]) if self.seconds else None
        return median(self.seconds), quantiles(self.seconds, n=100, method="inclusive")[98]


def reports(connection: Connection, since: float, customers: Iterable[str]) -> dict[str, Report]:
    """Each customer's report over the offers decided since then (Unix seconds)."""
    same = (offers.c.customer_id == assignments.c.customer_id) & (
        offers.c.service_request_id == assignments.c.service_request_id
    )
    found: dict[str, Report] = {}
    for customer_id in customers:
        report = found[customer_id] = Report()
        rows = connection.execute(
            select(offers, assignments.c.state, assignments.c.decided_by)
            .join(assignments, same)
            .where(offers.c.customer_id == customer_id, offers.c.seen_at >= since)
            .order_by(offers.c.id)
        )
        last = {row.service_request_id: row for row in rows}
        for row in last.values():
            seconds = None if row.received_at is None else row.seen_at - row.received_at
            report.add(row.verdict, row.state, row.decided_by, seconds)
    return found
