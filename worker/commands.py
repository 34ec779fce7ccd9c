"""The commands that come in on `dispatch.commands`: each is carried out once, and has exactly one result.

The row of a command is written before anything is done and is the lease on doing it; its result is committed together
with the message that tells it. A command that comes twice finds the first one's row.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Row, select, update

from shared.broker import Delivery, Message
from shared.database import insert_if_absent
from worker import acknowledging, calls, command, pausing, person, progress
from worker.admission import Refusal
from worker.assignment import ACK, Answered, Call, Result, Settle, Wish
from worker.command import FOR_A_CUSTOMER, PERSONAL, Command, Malformed
from worker.consume import Handled
from worker.desk import Desk
from worker.results import PENDING, THIS, finish, locked, tell
from worker.tables import assignments, capacities, commands

_UNREADABLE: Final = "unreadable_command"
_BUSY: Final = 2.0  # how soon a second delivery of a command asks after the first one
_LEASE: Final = 3  # times the hard limit of a call
_MOST_ATTEMPTS: Final = 12
_LONGEST_WAIT: Final = 120.0
_SOON: Final = 300.0  # seconds by which a crew's clock may be ahead

DONE: Final = Result("done", "done", "it was done")


@dataclass(frozen=True, slots=True)
class Mine:
    """This delivery carries the command out."""

    row: Row[Any]


@dataclass(frozen=True, slots=True)
class ToConfirm:
    """It was done; what it did is looked after until VectorCare's webhook has confirmed it."""

    row: Row[Any]


Taken = Mine | ToConfirm | Settle


def customer_of(message: Message) -> str:
    """The customer of a command: its key's second word, whatever headers and body say."""
    return message.routing_key.partition(".")[2]


async def handle(desk: Desk, delivery: Delivery) -> Handled:
    """See the module."""
    word, _, customer_id = delivery.message.routing_key.partition(".")
    if customer_id not in desk.customers:
        refusal = Refusal.CUSTOMER_DISABLED if customer_id in desk.disabled else Refusal.UNKNOWN_CUSTOMER
        return Handled(Settle(reason=refusal.value), refusal.value, {})
    found = command.read(word, customer_id, delivery.message.body)
    if found is None:
        return Handled(Settle(reason=_UNREADABLE), _UNREADABLE, {})
    taken = await desk.ledger.transact(lambda connection, now: _take(connection, now, desk, found, delivery.attempts))
    desk.outbox.publish_soon()
    if isinstance(taken, Mine):
        settle = await _carry_out(desk, delivery, taken.row)
    else:
        settle = taken if isinstance(taken, Settle) else await _look_after(desk, taken.row)
    ids = {"command": found.command, "id": found.command_id, "request": found.service_request_id}
    return Handled(settle, "come_again" if settle.after is not None else "has_a_result", ids)


async def note(desk: Desk, delivery: Delivery) -> None:
    """Write down a report that can't be worked on yet, so that no later one of its trip goes out before it."""
    word, _, customer_id = delivery.message.routing_key.partition(".")
    if customer_id not in desk.customers or word not in progress.KINDS:
        return
    found = command.read(word, customer_id, delivery.message.body)
    if isinstance(found, Command):
        await desk.ledger.transact(lambda connection, now: _take(connection, now, desk, found, delivery.attempts))
        desk.outbox.publish_soon()


def _take(connection: Connection, now: float, desk: Desk, found: Command | Malformed, attempts: int) -> Taken:
    """The command's row, and what follows from it: it has a result, somebody else works on it, or it is ours to do."""
    insert_if_absent(connection, commands, _row(desk, found, now))
    row = locked(connection, found.customer_id, found.command_id)
    assert row is not None
    if row.state != PENDING:
        if attempts == 0:  # sent again by its sender, who may have missed the result; else it was we who delayed it
            tell(connection, desk.ledger, row)
        confirms = row.command == Call.ACCEPT and row.state == "done" and row.args is not None
        return ToConfirm(row) if confirms else ACK
    if row.claimed_until > now:
        return Mine(row) if row.command in progress.KINDS else Settle(min(row.claimed_until - now, _BUSY))
    result = _malformed(found) if row.args is None else _at_once(connection, now, desk, row)
    if result is not None:
        finish(connection, now, desk.ledger, row, result)
        return ACK
    if row.called_at is not None and row.command == "request_change":
        # Its process died in the middle of the call: asking twice is worse than not knowing.
        finish(connection, now, desk.ledger, row, _unknown())
        return ACK
    # A report is claimed when its turn comes, not now: another delivery may send it.
    until = 0.0 if row.command in progress.KINDS else now + desk.call_seconds * _LEASE
    claim = {"claimed_until": until, "called_at": now}
    connection.execute(update(commands).where(THIS).values(**claim), {"of_customer": row.customer_id, "of_id": row.id})
    return Mine(row)


def _row(desk: Desk, found: Command | Malformed, now: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "customer_id": found.customer_id,
        "id": found.command_id,
        "command": found.command,
        "service_request_id": found.service_request_id,
        "actor": found.actor,
        "args": None,
        "size": 0,
        "received_at": now,
        "sort_at": now,
        "state": PENDING,
        "claimed_until": 0.0,
    }
    if isinstance(found, Command):
        row["args"] = desk.ledger.seal(orjson.dumps(found.args))
        row["not_after"] = found.not_after
        row["expected_revision"] = found.expected_revision
        row["size"] = len(found.args.get("points", ()))
        row["sort_at"] = found.args["at"] if found.command == "state" else now
    return row


def _malformed(found: Command | Malformed) -> Result:
    if isinstance(found, Malformed):
        return Result("refused", found.code, found.sentence)
    return Result("refused", "malformed", "it came before under the same id, and was malformed")


def _at_once(connection: Connection, now: float, desk: Desk, row: Row[Any]) -> Result | None:
    """The result of what can be said or done without a call; None where it takes one."""
    begun = row.command in PERSONAL and row.called_at is not None  # whether it is too late, the assignment knows
    if row.not_after is not None and row.not_after < now and not begun:
        return Result("refused", "expired", "it came after its not_after")
    if row.command not in FOR_A_CUSTOMER:
        refused = _refused(connection, row) if row.called_at is None else None
        if refused is not None:
            return refused
    if row.command == "state" and row.sort_at > now + _SOON:
        return Result("refused", "in_the_future", "args.timestamp is in the future")
    args = orjson.loads(desk.ledger.open(row.args))
    match row.command:
        case "acknowledge":
            acknowledging.acknowledge(
                connection, now, row.customer_id, row.service_request_id, args["trip_id"], row.actor
            )
        case "capacity":
            _keep_capacity(connection, now, row, args)
        case "pause":
            pausing.pause(connection, now, row.customer_id, row.actor or "unnamed")
        case "resume":
            pausing.resume(connection, row.customer_id)
        case _:
            return None
    return DONE


_KNOWN: Final = select(assignments.c.revision, assignments.c.ours)


def _refused(connection: Connection, row: Row[Any]) -> Result | None:
    """What the store alone says against it."""
    known = connection.execute(
        _KNOWN.where(
            assignments.c.customer_id == row.customer_id, assignments.c.service_request_id == row.service_request_id
        )
    ).first()
    if known is None:
        return Result("refused", "unknown_request", "this customer was never offered or given such a request")
    if row.expected_revision is not None and row.expected_revision != known.revision:
        return Result("refused", "stale_revision", "the assignment has another revision than expected_revision")
    if row.command in {*progress.KINDS, "request_change"} and not known.ours:
        return Result("refused", "not_ours", "the trip is not ours, or no longer")
    return None


def _keep_capacity(connection: Connection, now: float, row: Row[Any], args: dict[str, Any]) -> None:
    insert_if_absent(
        connection,
        capacities,
        {"customer_id": row.customer_id, "level": args["level"], "units": args["units"], "said_at": now},
    )
    connection.execute(
        update(capacities)
        .where(capacities.c.customer_id == row.customer_id, capacities.c.level == args["level"])
        .values(units=args["units"], until=args["until"], said_at=now, actor=row.actor)
    )


async def _carry_out(desk: Desk, delivery: Delivery, row: Row[Any]) -> Settle:
    if row.command in progress.KINDS:
        return await progress.report(desk, row, delivery.attempts)
    args = orjson.loads(desk.ledger.open(row.args))
    if row.command in PERSONAL:
        return await _decide(desk, delivery, row, args)
    return await _request_change(desk, delivery, row, args)


async def _decide(desk: Desk, delivery: Delivery, row: Row[Any], args: dict[str, Any]) -> Settle:
    customer = desk.customers[row.customer_id]
    step = await person.decide(desk, delivery, customer, row.service_request_id, _wish(row, args))
    if step.result is None:
        await _release(desk, row)
    else:
        await _finish(desk, row, step.result)
    return step.settle


async def _look_after(desk: Desk, row: Row[Any]) -> Settle:
    customer = desk.customers[row.customer_id]
    wish = _wish(row, orjson.loads(desk.ledger.open(row.args)))
    return (await person.look_after(desk, customer, row.service_request_id, wish)).settle


def _wish(row: Row[Any], args: dict[str, Any]) -> Wish:
    at = args.get("at")
    return Wish(
        row.id,
        Call(row.command),
        row.actor or "unnamed",
        args["notes"],
        datetime.fromisoformat(at) if at else None,
        row.expected_revision,
        row.not_after,
    )


async def _request_change(desk: Desk, delivery: Delivery, row: Row[Any], args: dict[str, Any]) -> Settle:
    customer = desk.customers[row.customer_id]
    call = calls.request_change(args["at"], args["reason"])
    answer = await desk.vectorcare.send(customer, row.service_request_id, call)
    if answer.kind in {Answered.NO_TOKEN, Answered.NOT_SENT, Answered.THROTTLED}:
        if delivery.attempts < _MOST_ATTEMPTS:
            await _release(desk, row, called_at=None)
            return Settle(max(answer.retry_after, min(2.0**delivery.attempts, _LONGEST_WAIT)))
        await _finish(desk, row, Result("failed", "unreachable", "VectorCare could not be reached"))
    elif answer.kind is Answered.TAKEN:
        await _finish(
            desk, row, Result("done", "done", "VectorCare took it; its answer comes as change_accepted or _declined")
        )
    elif answer.kind is Answered.UNKNOWN:
        await _finish(desk, row, _unknown())
    else:
        await _finish(desk, row, progress.refused_by_vectorcare(answer))
    return ACK


def _unknown() -> Result:
    return Result("failed", "unknown", "it was sent, and whether VectorCare took it is not known; its webhook tells")


async def _release(desk: Desk, row: Row[Any], **values: None) -> None:
    """Let the next delivery work on it."""
    free = update(commands).where(THIS, commands.c.state == PENDING).values(claimed_until=0.0, **values)
    mine = {"of_customer": row.customer_id, "of_id": row.id}
    await desk.ledger.transact(lambda connection, _: connection.execute(free, mine))


async def _finish(desk: Desk, row: Row[Any], result: Result) -> None:
    await desk.ledger.transact(lambda connection, now: finish(connection, now, desk.ledger, row, result))
    desk.outbox.publish_soon()
