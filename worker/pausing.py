"""Whether a customer, or everybody (`*`), is paused; the core reads it in the transaction of each accept."""

from typing import Final

from sqlalchemy import Connection, select, update

from shared.database import insert_if_absent
from worker.tables import customers

ALL: Final = "*"


def pause(connection: Connection, now: float, customer_id: str, actor: str) -> bool:
    """No accept of the customer is begun after the commit; whether it was not paused before."""
    return _set(connection, customer_id, now, actor)


def resume(connection: Connection, customer_id: str) -> bool:
    """The policy decides again; whether it was paused before."""
    return _set(connection, customer_id, None, None)


def paused(connection: Connection) -> list[str]:
    """Who is paused; `*` for everybody."""
    wanted = select(customers.c.customer_id).where(customers.c.paused_at.is_not(None))
    return list(connection.scalars(wanted.order_by(customers.c.customer_id)))


def _set(connection: Connection, customer_id: str, at: float | None, by: str | None) -> bool:
    insert_if_absent(connection, customers, {"customer_id": customer_id, "refused_in_a_row": 0})
    mine = customers.c.customer_id == customer_id
    before = connection.execute(select(customers.c.paused_at).where(mine).with_for_update()).scalar_one()
    if (before is None) != (at is None):
        connection.execute(update(customers).where(mine).values(paused_at=at, paused_by=by))
    return (before is None) != (at is None)
