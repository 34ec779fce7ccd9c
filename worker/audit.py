"""Who did what when: rows that are only ever added. No PHI among them; `subject` is an id, `result` a code or a
person's own words for why."""

from sqlalchemy import Connection, insert

from worker.tables import audit


def note(
    connection: Connection, now: float, *, actor: str, deed: str, customer_id: str | None, subject: str, result: str
) -> None:
    """Write down a deed, in the transaction that does it."""
    row = {"actor": actor, "deed": deed, "customer_id": customer_id, "subject": subject, "result": result}
    connection.execute(insert(audit).values(at=now, **row))
