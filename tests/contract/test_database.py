"""What `shared.database.Database` promises, on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Float, LargeBinary, MetaData, Table, Text, func, insert, select, text, update

from shared.database import Database, insert_if_absent, one_at_a_time
from shared.engine import Engine
from shared.errors import Unavailable
from shared.postgresql import PostgreSQL
from worker import app as workers
from worker.outbox import _claim as claim_outcomes
from worker.tables import outbox

OpenDatabase = Callable[[], Database]

_notes = Table(
    "notes", MetaData(), Column("name", Text, primary_key=True), Column("n", Float), Column("body", LargeBinary)
)


@pytest.fixture(params=["sqlite", "postgresql"])
def open_database(request: pytest.FixtureRequest, tmp_path: Path) -> OpenDatabase:
    """Opens one and the same database, again and again."""
    if request.param == "sqlite":
        return lambda: Engine(tmp_path / "store.db")
    url = request.getfixturevalue("postgres_url")
    return lambda: PostgreSQL(url, 4)


@contextlib.asynccontextmanager
async def opened(open_database: OpenDatabase) -> AsyncIterator[Database]:
    each = open_database()
    try:
        yield each
    finally:
        await each.close()


@pytest.fixture
async def database(open_database: OpenDatabase) -> AsyncIterator[Database]:
    async with opened(open_database) as each:
        await each.transact(lambda connection, _: _notes.create(connection))
        yield each


def put(name: str, n: float = 0.0) -> Callable[[Connection, float], None]:
    def work(connection: Connection, _: float) -> None:
        connection.execute(insert(_notes).values(name=name, n=n))

    return work


def names(connection: Connection) -> list[str]:
    return sorted(connection.scalars(select(_notes.c.name)))


async def test_what_a_transaction_returned_is_there_for_another_process(
    database: Database, open_database: OpenDatabase
) -> None:
    await database.transact(put("a"))
    async with opened(open_database) as other:
        assert await other.read(names) == ["a"]


async def test_an_exception_comes_out_as_it_is_and_takes_its_changes_back(database: Database) -> None:
    def fails(connection: Connection, now: float) -> None:
        put("a")(connection, now)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await database.transact(fails)
    await database.transact(put("b"))
    assert await database.read(names) == ["b"]


async def test_the_clock_is_unix_time_and_never_goes_back(database: Database) -> None:
    before = time.time()
    told = [await database.transact(lambda _, now: now) for _ in range(3)]
    assert before - 1 < told[0] <= told[1] <= told[2] < time.time() + 1
    assert all(isinstance(now, float) for now in told)


async def test_a_hundred_transactions_at_once_that_count_lose_no_count(
    database: Database, open_database: OpenDatabase
) -> None:
    await database.transact(put("counter"))

    def count(connection: Connection, _: float) -> None:
        n = connection.scalar(select(_notes.c.n).with_for_update())
        assert n is not None
        connection.execute(update(_notes).values(n=n + 1))

    async with opened(open_database) as other:
        await asyncio.gather(*(each.transact(count) for each in (database, other) * 50))
    assert await database.read(lambda connection: connection.scalar(select(_notes.c.n))) == 100


async def test_a_key_that_is_there_already_is_left_as_it_is(database: Database) -> None:
    for n in (1.0, 2.0):
        row = {"name": "a", "n": n, "body": b"\x00\xff"}
        await database.transact(lambda connection, _, row=row: insert_if_absent(connection, _notes, row))  # type: ignore[misc]
    assert await database.read(lambda connection: tuple(connection.execute(select(_notes)).one())) == (
        "a",
        1.0,
        b"\x00\xff",
    )


async def test_those_that_go_one_at_a_time_see_what_the_one_before_them_did(
    database: Database, open_database: OpenDatabase
) -> None:
    def number(connection: Connection, _: float) -> None:
        one_at_a_time(connection, "numbers")
        count = connection.scalar(select(func.count()).select_from(_notes))
        connection.execute(insert(_notes).values(name=str(count)))

    async with opened(open_database) as other:
        await asyncio.gather(*(each.transact(number) for each in (database, other) * 20))
    assert set(await database.read(names)) == {str(number) for number in range(40)}


async def test_transactions_that_lock_each_other_out_both_get_through(
    database: Database, open_database: OpenDatabase
) -> None:
    for name in ("a", "b"):
        await database.transact(put(name))

    def in_order(*order: str) -> Callable[[Connection, float], None]:
        def work(connection: Connection, _: float) -> None:
            for name in order:
                connection.execute(update(_notes).where(_notes.c.name == name).values(n=_notes.c.n + 1))

        return work

    async with opened(open_database) as other:
        for _ in range(4):
            await asyncio.gather(database.transact(in_order("a", "b")), other.transact(in_order("b", "a")))
    assert await database.read(lambda connection: list(connection.scalars(select(_notes.c.n)))) == [8.0, 8.0]


async def test_many_that_start_at_once_on_an_empty_database_all_come_up_and_one_made_the_tables(
    open_database: OpenDatabase,
) -> None:
    databases = [open_database() for _ in range(4)]
    try:
        taken = await asyncio.gather(*(each.migrate("worker.migrations", "store_version") for each in databases))
        assert await databases[0].migrate("worker.migrations", "store_version") == ()
    finally:
        for each in databases:
            await each.close()
    assert sorted(map(bool, taken)) == [False, False, False, True]
    assert max(taken)[0].startswith("0001 ")


async def test_an_error_of_the_database_holds_no_value(database: Database) -> None:
    await database.transact(put("MRS-CANARY"))
    wrong = (
        put("MRS-CANARY"),
        lambda connection, _: connection.execute(text("INSERT INTO nowhere VALUES ('MRS-CANARY')")),
        lambda connection, _: connection.execute(text("SELECT CAST(name AS FLOAT) / 0 FROM nothing, notes")),
    )
    for work in wrong:
        with pytest.raises(Unavailable) as refused:
            await database.transact(work)
        assert "MRS-CANARY" not in str(refused.value) + repr(refused.value) + repr(refused.value.__context__)
    assert await database.read(names) == ["MRS-CANARY"]


async def test_a_caller_that_waits_no_longer_leaves_nothing_half_done(database: Database) -> None:
    def slow(connection: Connection, now: float) -> None:
        for number in range(50):
            put(str(number))(connection, now)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.005):
            await database.transact(slow)
    await database.transact(put("after"))
    assert len(await database.read(names)) in (1, 51)


async def test_publishers_in_two_processes_never_hold_the_same_outcome_nor_two_of_one_request(
    open_database: OpenDatabase,
) -> None:
    def tell(connection: Connection, _: float) -> None:
        row = {"customer_id": "acme", "routing_key": "k", "headers": {}, "body": b"", "claimed_until": 0.0}
        connection.execute(insert(outbox), [row | {"service_request_id": f"VC-{n % 3}"} for n in range(12)])

    async def claim(publisher: Database) -> list[tuple[str, int]]:
        held: list[tuple[str, int]] = []
        for _ in range(20):
            rows = await publisher.transact(claim_outcomes)
            held += [(row.service_request_id, row.id) for row in rows]
        return held

    async with opened(open_database) as writer, opened(open_database) as first, opened(open_database) as second:
        await workers.migrate(writer)
        await writer.transact(tell)
        telling = [writer.transact(tell) for _ in range(9)]
        written = asyncio.gather(*telling)
        one, other = await asyncio.gather(claim(first), claim(second))
        await written
    assert {request for request, _ in one} | {request for request, _ in other} == {"VC-0", "VC-1", "VC-2"}
    assert not {request for request, _ in one} & {request for request, _ in other}
    for held in (one, other):
        for request in ("VC-0", "VC-1", "VC-2"):
            ids = [row for each, row in held if each == request]
            assert ids == sorted(set(ids))


async def test_once_closed_it_says_so(open_database: OpenDatabase) -> None:
    database = open_database()
    await database.close()
    with pytest.raises(Unavailable):
        await database.transact(lambda _, now: now)
