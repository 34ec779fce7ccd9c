"""What must be done to a store that came out of a backup before anybody works on it.

It has forgotten what happened since: offers that were accepted look open, and outcomes that were told look untold. So
nothing is accepted until a person says so, and what is told from now on is told under revisions that nobody has seen.
"""

from typing import Final

from sqlalchemy import Connection, update

from shared.database import insert_if_absent
from worker.inquiry import EVERYBODY
from worker.tables import assignments, customers, told_head

PAUSED_BY: Final = "restore"
REVISIONS_AHEAD: Final = 1000  # more than were told of one request between a backup and its restore
POSITIONS_AHEAD: Final = 10_000_000  # likewise of all requests: a reader's cursor may be that far already


def mark_restored(connection: Connection, now: float) -> None:
    """Pause all customers, and leave room for the revisions and positions that were told after the backup."""
    insert_if_absent(connection, customers, {"customer_id": EVERYBODY, "refused_in_a_row": 0})
    pause = update(customers).where(customers.c.customer_id == EVERYBODY)
    connection.execute(pause.values(paused_at=now, paused_by=PAUSED_BY))
    connection.execute(update(assignments).values(revision=assignments.c.revision + REVISIONS_AHEAD))
    connection.execute(update(told_head).values(position=told_head.c.position + POSITIONS_AHEAD))
