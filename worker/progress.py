"""What crews report, passed on to VectorCare: states in order with their own times, locations gathered.

A report waits in the table of commands until VectorCare has taken or refused it, however long its API is away, up to
the 7 days that VectorCare takes. The deliveries of the commands come again and again and drive it; whichever comes
first sends all that waits for the trip.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Row, and_, bindparam, select, update

from shared.topics import rfc3339
from worker import calls
from worker.assignment import ACK, Answer, Answered, Result, Settle
from worker.calls import MOST_LOCATIONS
from worker.desk import Desk
from worker.results import PENDING, finish, locked
from worker.tables import commands

KINDS: Final = frozenset({"state", "locations"})
_OLDEST: Final = 7 * 86400.0  # what VectorCare takes
_STATE_SETTLES: Final = 1.0  # seconds in which an earlier state may yet come in by another worker
_GATHER: Final = 5.0  # seconds for which locations are gathered, unless a call is full
_MOST_POINTS: Final = 1000  # of a trip in one go, the newest: older ones are history
_LONGEST_WAIT: Final = 120.0
_BUSY: Final = 2.0
_LEASE: Final = 3  # times the hard limit of a call

_MINE: Final = and_(
    commands.c.customer_id == bindparam("of_customer"),
    commands.c.service_request_id == bindparam("of_request"),
    commands.c.command == bindparam("of_command"),
    commands.c.state == PENDING,
)
_ALL: Final = select(commands).where(_MINE).limit(_MOST_POINTS).with_for_update()
_STATES: Final = _ALL.order_by(commands.c.sort_at, commands.c.received_at, commands.c.id)
_LOCATIONS: Final = _ALL.order_by(commands.c.received_at.desc())
_CLAIM: Final = update(commands).where(_MINE, commands.c.id.in_(bindparam("ids", expanding=True)))


@dataclass(frozen=True, slots=True)
class _Wait:
    seconds: float


async def report(desk: Desk, row: Row[Any], attempts: int) -> Settle:
    """Send what waits for the trip of this row; done with the delivery once the row has its result."""
    if row.command == "state":
        wait = await _send_states(desk, row, attempts)
    else:
        wait = await _send_locations(desk, row, attempts)
    desk.outbox.publish_soon()
    now_is = await desk.ledger.transact(lambda connection, _: locked(connection, row.customer_id, row.id))
    if now_is is None or now_is.state != PENDING:
        return ACK
    # Whoever holds the trip's turn is mostly done long before its lease ends; in an outage it is asked more seldom.
    patience = max(_BUSY, min(2.0 ** min(attempts, 10), _LONGEST_WAIT))
    return Settle(min(wait.seconds, patience) if wait is not None else _BUSY)


def refused_by_vectorcare(answer: Answer) -> Result:
    """VectorCare's no, with its own code."""
    sentence = f"VectorCare refused it with status {answer.status}"
    return Result("refused", "refused_by_vectorcare", sentence, answer.code)


def _result(answer: Answer, done: str) -> Result | None:
    """What an answer makes of a report; None where it must be sent again, which does no harm."""
    if answer.kind is Answered.TAKEN:
        return Result("done", "done", done)
    if answer.kind in {Answered.INVALID, Answered.GONE, Answered.NOT_PERMITTED}:
        return refused_by_vectorcare(answer)
    return None


async def _send_states(desk: Desk, mine: Row[Any], attempts: int) -> _Wait | None:
    """One after the other, each when the one before has its result. None: nothing waits any more."""
    while True:
        taken = await desk.ledger.transact(lambda connection, now: _next_state(connection, now, desk, mine))
        if taken is None or isinstance(taken, _Wait):
            return taken
        row = taken
        args = orjson.loads(desk.ledger.open(row.args))
        call = calls.report_state(args["name"], rfc3339(args["at"]))
        answer = await desk.vectorcare.send(desk.customers[mine.customer_id], mine.service_request_id, call)
        wait = _Wait(max(answer.retry_after, min(2.0 ** min(attempts, 10), _LONGEST_WAIT)))
        result = _result(answer, "VectorCare has it")
        await _end(desk, [row], result or wait)
        if result is None:
            return wait


def _next_state(connection: Connection, now: float, desk: Desk, mine: Row[Any]) -> Row[Any] | _Wait | None:
    for row in _waiting(connection, now, desk, mine):
        if row.claimed_until > now:
            return _Wait(row.claimed_until - now)
        wait = max(row.sort_at, row.received_at + _STATE_SETTLES) - now
        if wait > 0:
            return _Wait(wait)
        _claim(connection, now + desk.call_seconds * _LEASE, [row])
        return row
    return None


async def _send_locations(desk: Desk, mine: Row[Any], attempts: int) -> _Wait | None:
    rows = await desk.ledger.transact(lambda connection, now: _gathered(connection, now, desk, mine))
    if isinstance(rows, _Wait):
        return rows
    points = [point for row in rows for point in orjson.loads(desk.ledger.open(row.args))["points"]]
    newest = sorted(points, key=lambda point: point["timestamp"])[-_MOST_POINTS:]
    answer = Answer(Answered.TAKEN)
    for batch in _batches(newest):
        call = calls.report_locations(batch)
        answer = await desk.vectorcare.send(desk.customers[mine.customer_id], mine.service_request_id, call)
        if answer.kind is not Answered.TAKEN:
            break
    left_out = f"; of {len(points)} positions the newest {len(newest)}" if len(points) > len(newest) else ""
    wait = _Wait(max(answer.retry_after, min(2.0 ** min(attempts, 10), _LONGEST_WAIT)))
    result = _result(answer, f"VectorCare has it{left_out}")
    await _end(desk, rows, result or wait)
    return wait if result is None else None


def _batches(points: list[dict[str, float]]) -> list[list[dict[str, float]]]:
    return [points[start : start + MOST_LOCATIONS] for start in range(0, len(points), MOST_LOCATIONS)]


def _gathered(connection: Connection, now: float, desk: Desk, mine: Row[Any]) -> list[Row[Any]] | _Wait:
    rows = _waiting(connection, now, desk, mine)
    if not rows:
        return rows
    if (busy := max(row.claimed_until for row in rows)) > now:
        return _Wait(busy - now)
    wait = min(row.received_at for row in rows) + _GATHER - now
    if wait > 0 and sum(row.size for row in rows) < MOST_LOCATIONS:
        return _Wait(wait)
    batches = _MOST_POINTS // MOST_LOCATIONS
    _claim(connection, now + desk.call_seconds * (batches + 1), rows)
    return rows


def _waiting(connection: Connection, now: float, desk: Desk, mine: Row[Any]) -> list[Row[Any]]:
    """What waits for a trip: states in their order, the newest locations first. What has waited too long gets its
    result now."""
    waiting = []
    these = {"of_customer": mine.customer_id, "of_request": mine.service_request_id, "of_command": mine.command}
    for row in connection.execute(_STATES if mine.command == "state" else _LOCATIONS, these).all():
        if row.claimed_until <= now and row.not_after is not None and row.not_after < now:
            sentence = "its not_after passed before VectorCare had it"
            finish(connection, now, desk.ledger, row, Result("refused", "expired", sentence))
        elif row.claimed_until <= now and row.sort_at < now - _OLDEST:
            sentence = "VectorCare takes nothing that is older than 7 days"
            finish(connection, now, desk.ledger, row, Result("refused", "too_old", sentence))
        else:
            waiting.append(row)
    return waiting


def _claim(connection: Connection, until: float, rows: list[Row[Any]]) -> None:
    first = rows[0]
    mine = {"of_customer": first.customer_id, "of_request": first.service_request_id, "of_command": first.command}
    connection.execute(_CLAIM.values(claimed_until=until), mine | {"ids": [row.id for row in rows]})


async def _end(desk: Desk, rows: list[Row[Any]], end: Result | _Wait) -> None:
    """Write the result of the rows, or let nobody try them for a while."""

    def work(connection: Connection, now: float) -> None:
        if isinstance(end, _Wait):
            _claim(connection, now + end.seconds, rows)
            return
        for row in rows:
            finish(connection, now, desk.ledger, row, end)

    await desk.ledger.transact(work)
