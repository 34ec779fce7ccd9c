"""What the store proves to have been lost, or never confirmed: one row for each webhook that is to be sent again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from worker.assignment import Gap
from worker.tables import assignments, gaps

PRESS: Final[Mapping[Gap, str]] = {
    Gap.OFFER: "its AVAILABLE never came: Redeliver BROADCAST_RECEIVED; if it is over, it was missed for good",
    Gap.ASSIGNMENT: "completed, and its ASSIGNED never came: Redeliver what made it ours",
    Gap.CONFIRMATION: "our accept was taken, and its ASSIGNED has not come: Redeliver BROADCAST_ACCEPTED",
    Gap.ANSWER: "an accept was sent and nothing has come back: look it up in VectorCare, Redeliver its last webhook",
}


@dataclass(frozen=True, slots=True)
class Missed:
    """A webhook that is missing. `since` is Unix seconds, `state` what was told of the request last."""

    customer_id: str
    service_request_id: str
    kind: Gap
    since: float
    state: str | None


def missing(connection: Connection, customer_id: str | None) -> list[Missed]:
    """All that is missing now, the oldest first; of one customer or of all."""
    same = (gaps.c.customer_id == assignments.c.customer_id) & (
        gaps.c.service_request_id == assignments.c.service_request_id
    )
    wanted = (
        select(gaps, assignments.c.state)
        .outerjoin(assignments, same)
        .where(gaps.c.closed_at.is_(None))
        .order_by(gaps.c.since)
    )
    if customer_id is not None:
        wanted = wanted.where(gaps.c.customer_id == customer_id)
    return [
        Missed(row.customer_id, row.service_request_id, Gap(row.kind), row.since, row.state)
        for row in connection.execute(wanted)
    ]


def unconfirmed(connection: Connection) -> dict[str, int]:
    """How many trips of each customer may be ours by an accept of ours that no webhook has confirmed in time."""
    counted = (
        select(gaps.c.customer_id, func.count().label("trips"))
        .where(gaps.c.closed_at.is_(None), gaps.c.kind.in_([Gap.CONFIRMATION, Gap.ANSWER]))
        .group_by(gaps.c.customer_id)
    )
    return {row.customer_id: row.trips for row in connection.execute(counted)}
