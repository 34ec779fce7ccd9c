"""The parked table under a person's hands while the workers go on writing to it."""

from pathlib import Path

from sqlalchemy import insert, update

from shared.engine import Engine
from worker import app as workers
from worker import parked
from worker.parked import Wanted
from worker.tables import parked as table

ROW = {
    "fingerprint": "f",
    "customer_id": "acme",
    "reason": "why",
    "attempts": 3,
    "origin_queue": "q",
    "routing_key": "k",
    "headers": {},
    "body": b"\x00{}",
    "first_parked_at": 1.0,
    "last_parked_at": 1.0,
}


async def test_an_event_that_was_parked_again_since_it_was_read_is_not_taken_away(tmp_path: Path) -> None:
    store = Engine(tmp_path / "store.db")
    await workers.migrate(store)
    await store.transact(lambda connection, _: connection.execute(insert(table).values(**ROW)).rowcount)
    (seen,) = await store.read(lambda connection: parked.found(connection, Wanted()))
    await store.transact(lambda connection, now: connection.execute(update(table).values(last_parked_at=now)).rowcount)
    assert not await store.transact(lambda connection, _: parked.remove(connection, seen))
    (again,) = await store.read(lambda connection: parked.found(connection, Wanted("acme", "why", before=2.0)))
    assert await store.transact(lambda connection, _: parked.remove(connection, again))
    assert await store.read(lambda connection: parked.found(connection, Wanted())) == []
    await store.close()
