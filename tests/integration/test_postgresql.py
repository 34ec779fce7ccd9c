"""The store on PostgreSQL when PostgreSQL hangs, dies, refuses, or is somewhere else."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from sqlalchemy import Connection, text

from shared.errors import Unavailable
from shared.postgresql import PostgreSQL
from tests.postgres_server import PASSWORD, Server
from tests.processes import free_port


@pytest.fixture
async def database(mortal_postgres: Server) -> AsyncIterator[PostgreSQL]:
    each = PostgreSQL(mortal_postgres.url, 4)
    await each.transact(lambda connection, _: connection.execute(text("CREATE TABLE t (n INTEGER)")).close())
    yield each
    await each.close()


def put(n: int) -> Callable[[Connection, float], None]:
    return lambda connection, _: connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n}).close()


def numbers(connection: Connection) -> list[int]:
    return sorted(connection.scalars(text("SELECT n FROM t")))


async def refused(database: PostgreSQL) -> str:
    """What it says of a transaction that it can't do, in good time."""
    began = time.monotonic()
    with pytest.raises(Unavailable) as error:
        await database.transact(put(99))
    assert time.monotonic() - began < 7
    assert PASSWORD not in str(error.value) + repr(error.value) + repr(database)
    return str(error.value)


async def test_a_server_that_hangs_is_unavailable_in_time_and_used_again_when_it_goes_on(
    mortal_postgres: Server, database: PostgreSQL
) -> None:
    mortal_postgres.pause()
    assert "did not answer" in await refused(database)  # on a connection that was open
    assert "did not answer" in await refused(database)  # on a new one
    mortal_postgres.resume()
    await database.transact(put(1))
    assert 1 in await database.read(numbers)


async def test_a_server_that_was_killed_is_used_again_by_itself_with_all_that_it_had_confirmed(
    mortal_postgres: Server, database: PostgreSQL
) -> None:
    await asyncio.gather(*(database.transact(put(n)) for n in range(8)))
    mortal_postgres.kill()
    await refused(database)
    assert "can't be reached" in await refused(database)
    mortal_postgres.start()
    await asyncio.gather(*(database.transact(put(n)) for n in range(8, 16)))
    assert await database.read(numbers) == list(range(16))


async def test_a_restart_between_two_transactions_is_not_noticed(mortal_postgres: Server, database: PostgreSQL) -> None:
    await asyncio.gather(*(database.transact(put(n)) for n in range(8)))
    mortal_postgres.kill()
    mortal_postgres.start()
    assert len(await database.read(numbers)) == 8
    mortal_postgres.kill()
    mortal_postgres.start()
    await asyncio.gather(*(database.transact(put(n)) for n in range(8)))


async def test_a_connection_that_is_killed_in_the_middle_loses_its_transaction_and_not_the_work(
    mortal_postgres: Server, database: PostgreSQL
) -> None:
    runs = []

    def work(connection: Connection, now: float) -> None:
        put(1)(connection, now)
        runs.append(connection.scalar(text("SELECT pg_backend_pid()")))
        if len(runs) == 1:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    await database.transact(work)
    assert len(set(runs)) == 2
    assert await database.read(numbers) == [1]


async def test_a_row_that_another_holds_too_long_is_unavailable_and_its_connection_is_free_again(
    mortal_postgres: Server, database: PostgreSQL
) -> None:
    await database.transact(put(1))
    update = text("UPDATE t SET n = 2")
    holder = await asyncpg.connect(mortal_postgres.url)
    try:
        async with holder.transaction():
            await holder.execute("SELECT * FROM t FOR UPDATE")
            waiting = [database.transact(lambda connection, _: connection.execute(update).close()) for _ in range(6)]
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(result) for result in results} == {Unavailable}
    finally:
        await holder.close()
    await database.transact(lambda connection, _: connection.execute(update).close())
    assert await database.read(numbers) == [2]


async def test_a_plan_made_stale_by_a_migration_of_another_process_is_made_anew(
    postgres: Server, postgres_url: str
) -> None:
    old, new = PostgreSQL(postgres_url, 4), PostgreSQL(postgres_url, 1)
    try:
        await new.transact(lambda connection, _: connection.execute(text("CREATE TABLE t (n INTEGER)")).close())
        await asyncio.gather(
            *(old.read(lambda connection: connection.execute(text("TABLE t")).all()) for _ in range(8))
        )
        await new.transact(lambda connection, _: connection.execute(text("ALTER TABLE t ADD m TEXT")).close())
        for _ in range(8):
            await old.transact(lambda connection, _: connection.execute(text("TABLE t")).all())
    finally:
        await old.close()
        await new.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        pytest.param(lambda server: server.url_of("postgres", "wrong-canary"), "user or the password", id="password"),
        pytest.param(lambda server: server.url_of("nowhere"), "no such database", id="database"),
        pytest.param(lambda _: f"postgresql://u:wrong-canary@127.0.0.1:{free_port()}/x", "can't be reached", id="port"),
        pytest.param(lambda _: "postgresql://u:wrong-canary@no-such-host.invalid/x", "can't be reached", id="host"),
    ],
)
async def test_what_is_wrong_is_said_without_the_address(
    postgres: Server, url: Callable[[Server], str], says: str
) -> None:
    database = PostgreSQL(url(postgres), 1)
    for call in (database.read(numbers), database.migrate("worker.migrations", "store_version")):
        with pytest.raises(Unavailable, match=says) as error:
            await call
        assert "canary" not in str(error.value) + repr(error.value)
    await database.close()
