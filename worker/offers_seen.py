"""The offers that a policy has decided, as the store keeps them: read again to ask what another policy would do."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Row, and_, func, select

from shared.sealing import Sealer
from worker.facts import read_facts
from worker.policy import Sample
from worker.policy.compare import Seen
from worker.tables import offers


def newest(connection: Connection, customer_id: str, service_request_id: str) -> Row[Any] | None:
    """The last offer of a request that was decided; None where none is kept."""
    mine = and_(offers.c.customer_id == customer_id, offers.c.service_request_id == service_request_id)
    return connection.execute(select(offers).where(mine).order_by(offers.c.id.desc()).limit(1)).one_or_none()


def count(connection: Connection, since: float, customer_id: str | None) -> int:
    """How many were seen since (Unix seconds), by one customer or by all."""
    return connection.execute(select(func.count()).select_from(offers).where(_since(since, customer_id))).scalar_one()


def page(connection: Connection, since: float, customer_id: str | None, after: int, most: int) -> Sequence[Row[Any]]:
    """At most so many of them in order, those whose id is greater than `after`."""
    these = select(offers).where(_since(since, customer_id), offers.c.id > after).order_by(offers.c.id).limit(most)
    return connection.execute(these).all()


def opened(row: Row[Any], sealer: Sealer) -> Seen | None:
    """The offer with its request (PHI); None where its body is no longer kept. CannotOpen without its key."""
    if row.event is None:
        return None
    envelope = orjson.loads(sealer.open(row.event))
    return Seen(row.customer_id, sample(envelope), row.seen_at, read_facts(row.facts))


def sample(envelope: dict[str, Any]) -> Sample:
    """An offer from a whole webhook, whoever signed it; what it lacks is as in a sample."""
    names = ("event_id", "event_timestamp", "service_request_id", "request_status", "action")
    return Sample(envelope.get("data"), **{name: envelope[name] for name in names if name in envelope})


def _since(since: float, customer_id: str | None) -> Any:
    mine = offers.c.seen_at >= since
    return mine if customer_id is None else and_(mine, offers.c.customer_id == customer_id)
