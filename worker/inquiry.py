"""What a decision may ask of the store, within the transaction that writes its intent.

The first question locks the customer's row, so that of two offers at the same moment only one can be given the last
unit or the last place under a limit, whichever worker decides them.
"""

import functools
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, case, func, or_, select, update

from shared.database import insert_if_absent
from shared.event import Status
from worker.assignment import Assignment, Call, State
from worker.facts import Facts, Load
from worker.policy import Policy
from worker.tables import assignments, capacities, customers

EVERYBODY: Final = "*"  # the row that pauses all customers
_HOUR: Final = 3600.0
_DAY: Final = 86400.0
UNSEEN: Final = "unseen"
OFFERED: Final = "offered"


def is_paused(connection: Connection, customer_id: str) -> bool:
    """Whether nothing may be accepted for this customer: it is paused, or everybody is."""
    both = customers.c.customer_id.in_((customer_id, EVERYBODY))
    return (
        connection.execute(select(customers.c.customer_id).where(both, customers.c.paused_at.is_not(None))).first()
        is not None
    )


@dataclass(frozen=True)
class Inquiry:
    """Questions about one customer at `now` (Unix seconds)."""

    connection: Connection
    customer_id: str
    now: float

    def paused(self) -> bool:
        """Whether nothing may be accepted for this customer."""
        _ = self._row  # locked first: whoever pauses waits for this accept, or this accept sees the pause
        return is_paused(self.connection, self.customer_id)

    def facts(self, known: Assignment, policy: Policy) -> Facts:
        """What `policy` asks of the store about the offer of `known`; what it does not ask is left out."""
        asks = policy.asks
        load, in_use, units = Load(), None, None
        if asks & {"load", "capacity"}:
            load, in_use = self._load(known, policy)
        if "capacity" in asks and known.level is not None:
            units = self._units(known.level)
        other_leg = self.other_leg(known) if "other_leg" in asks and known.other_leg else None
        held, seen = self._collection(known) if "collection" in asks and known.collection else (None, None)
        return Facts(
            load,
            in_use,
            units,
            other_leg,
            held,
            seen,
            known.first_offered_at,
            known.times_seen,
            known.proposals,
        )

    def open_and_last_hour(self, known: Assignment) -> tuple[int, int]:
        """Trips that are ours or may be, and accepts of the last hour that were not lost, but for this one."""
        table = assignments.c
        row = self.connection.execute(
            select(func.count().filter(_is_open(self.now)), func.count().filter(_not_lost(self.now - _HOUR)))
            .where(*self._others(known))
            .where(or_(_is_open(self.now), table.last_accept_at > self.now - _HOUR))
        ).one()
        return row[0], row[1]

    def other_leg(self, known: Assignment) -> str:
        """The published state of the round trip's other leg, `offered` where it has none yet, or `unseen`."""
        table = assignments.c
        row = self.connection.execute(
            select(table.state, table.newest_status).where(
                table.customer_id == self.customer_id, table.service_request_id == known.other_leg
            )
        ).first()
        if row is None or row.newest_status is None:
            return UNSEEN
        return OFFERED if row.state is None and row.newest_status == Status.AVAILABLE else row.state or UNSEEN

    def count_refusal(self) -> int:
        """One more refusal for lack of permission; how many there are in a row."""
        count: int = self._row.refused_in_a_row + 1
        self._set(refused_in_a_row=count)
        return count

    def forget_refusals(self) -> None:
        """We are permitted: an accept was taken, or a refusal was a lost race."""
        if self._row.refused_in_a_row:
            self._set(refused_in_a_row=0)

    @functools.cached_property
    def _row(self) -> Row[Any]:
        mine = select(customers).where(customers.c.customer_id == self.customer_id).with_for_update()
        row = self.connection.execute(mine).first()
        if row is None:
            insert_if_absent(self.connection, customers, {"customer_id": self.customer_id, "refused_in_a_row": 0})
            row = self.connection.execute(mine).one()
        return row

    def _set(self, **values: Any) -> None:
        mine = customers.c.customer_id == self.customer_id
        self.connection.execute(update(customers).where(mine).values(**values))

    def _others(self, known: Assignment) -> tuple[Any, ...]:
        _ = self._row  # locked before anything is counted
        table = assignments.c
        return table.customer_id == self.customer_id, table.service_request_id != known.service_request_id

    def _load(self, known: Assignment, policy: Policy) -> tuple[Load, int | None]:
        table = assignments.c
        is_open = _is_open(self.now)
        midnight = _midnight(policy, self.now)
        minutes = policy.trip_minutes * 60
        pickup = known.pickup_at
        near = and_(is_open, table.pickup_at > pickup - minutes, table.pickup_at < pickup + minutes) if pickup else None
        counts = [is_open, _not_lost(midnight), _not_lost(self.now - _HOUR)]
        if near is not None:
            counts += [near, and_(near, table.level == known.level)]
        row = self.connection.execute(
            select(*(func.count().filter(count) for count in counts))
            .where(*self._others(known))
            .where(or_(is_open, table.last_accept_at > min(midnight, self.now - _HOUR)))
        ).one()
        overlapping = row[3] if near is not None else None
        in_use = row[4] if near is not None and known.level is not None else None
        return Load(open=row[0], overlapping=overlapping, today=row[1], last_hour=row[2]), in_use

    def _units(self, level: str) -> int | None:
        said = (capacities.c.customer_id == self.customer_id, capacities.c.level == level)
        lasts = or_(capacities.c.until.is_(None), capacities.c.until > self.now)
        units: int | None = self.connection.execute(select(capacities.c.units).where(*said, lasts)).scalar()
        return units

    def _collection(self, known: Assignment) -> tuple[int, int]:
        row = self.connection.execute(
            select(func.count().filter(_is_open(self.now)), func.count())
            .where(*self._others(known))
            .where(assignments.c.collection == known.collection)
        ).one()
        return row[0], row[1]


def _is_open(now: float) -> Any:
    """Ours, or it may be: an accept under way, or one of which nothing is known. A trip whose end was never told stops
    counting a day after its pickup."""
    table = assignments.c
    may_be = or_(table.ours.is_(True), table.intent_call == Call.ACCEPT.value, table.uncertain_since.is_not(None))
    return and_(may_be, func.coalesce(table.pickup_at, table.updated_at) > now - _DAY)


def _not_lost(since: float) -> Any:
    """Accepts sent since then that were not lost."""
    table = assignments.c
    lost = case((table.intent_call.is_(None), table.state.is_not_distinct_from(State.LOST.value)), else_=False)
    return and_(table.last_accept_at > since, ~lost)


def _midnight(policy: Policy, now: float) -> float:
    """When the policy's day began."""
    local = datetime.fromtimestamp(now, policy.timezone)
    return local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
