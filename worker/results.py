"""The one result of each command: its row, and the message on `dispatch.events` (docs/events.md, command-result/1)."""

from typing import Any, Final

import orjson
from sqlalchemy import Connection, Row, and_, bindparam, insert, select, update

from shared.broker import Message
from shared.topics import rfc3339
from worker import audit
from worker.assignment import Result
from worker.ledger import Ledger
from worker.tables import commands, outbox

PENDING: Final = "pending"
RESULT_TYPE: Final = "com.vectorcare.receiver.command."
_NOT_AUDITED: Final = frozenset({"state", "locations"})

THIS: Final = and_(commands.c.customer_id == bindparam("of_customer"), commands.c.id == bindparam("of_id"))
_LOCKED: Final = select(commands).where(THIS).with_for_update()
_FINISH: Final = update(commands).where(THIS, commands.c.state == PENDING)


def locked(connection: Connection, customer_id: str, command_id: str) -> Row[Any] | None:
    """The command's row, held until the transaction ends."""
    return connection.execute(_LOCKED, {"of_customer": customer_id, "of_id": command_id}).first()


def finish(connection: Connection, now: float, ledger: Ledger, row: Row[Any], result: Result) -> None:
    """Write the result of a pending command and what is to be told of it; nothing where it has one already."""
    values = {
        "state": result.ending,
        "code": result.code,
        "vectorcare_code": result.vectorcare_code,
        "sentence": result.sentence,
        "decided_at": now,
        "claimed_until": 0.0,
    }
    mine = {"of_customer": row.customer_id, "of_id": row.id}
    if not connection.execute(_FINISH, values | mine).rowcount:
        return
    if row.command not in _NOT_AUDITED:
        audit.note(
            connection,
            now,
            actor=row.actor or "unnamed",
            deed=row.command,
            customer_id=row.customer_id,
            subject=row.service_request_id,
            result=result.code,
        )
    told = locked(connection, row.customer_id, row.id)
    assert told is not None
    tell(connection, ledger, told)


def tell(connection: Connection, ledger: Ledger, row: Row[Any]) -> None:
    """Have a result published; the same message each time."""
    message = result_message(row)
    connection.execute(
        insert(outbox).values(
            customer_id=row.customer_id,
            service_request_id=row.service_request_id,
            routing_key=message.routing_key,
            headers=dict(message.headers),
            body=ledger.seal(message.body),
            claimed_until=0.0,
        )
    )


def result_message(row: Row[Any]) -> Message:
    """The message for the result in a row of `commands`. Pure."""
    occurred_at = rfc3339(row.decided_at)
    body = {
        "schema": "command-result/1",
        "id": row.id,
        "customer_id": row.customer_id,
        "service_request_id": row.service_request_id or None,
        "command": row.command,
        "result": row.state,
        "code": row.code,
        "sentence": row.sentence,
        "vectorcare_code": row.vectorcare_code,
        "actor": row.actor,
        "occurred_at": occurred_at,
    }
    headers = {
        "ce-specversion": "1.0",
        "ce-id": f"{row.customer_id}/command/{row.id}",
        "ce-type": f"{RESULT_TYPE}{row.state}",
        "ce-source": f"/customers/{row.customer_id}",
        "ce-time": occurred_at,
        "ce-customerid": row.customer_id,
    }
    if row.service_request_id:
        headers["ce-subject"] = row.service_request_id
    return Message(f"command.{row.state}.{row.customer_id}", headers, orjson.dumps(body))
