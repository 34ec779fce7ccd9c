"""The store on PostgreSQL, used by several processes that all start at once on an empty database."""

import asyncio
import contextlib
from pathlib import Path

from sandbox.server import Options, Sandbox
from tests.acceptance.test_rides import assert_each_became_one_trip, broadcast, subscribed_by_amqp
from tests.brokers import emptied, until
from tests.postgres_server import PASSWORD, Server
from tests.processes import Home, Process, command, free_port

REQUESTS = 100


async def test_broadcasts_become_trips_although_every_role_runs_twice_and_postgresql_is_restarted(
    tmp_path: Path, amqp_url: str, mortal_postgres: Server
) -> None:
    await emptied(amqp_url)
    async with Sandbox(Options(seed=7)) as sandbox, contextlib.AsyncExitStack() as stack:
        home = Home(tmp_path, sandbox, broker=amqp_url, store=mortal_postgres.url)
        home.customer("acme")
        ingress = await stack.enter_async_context(Process(home, "ingress"))
        roles = ("broadcast-received", "broadcast-accepted", "lifecycle", "broadcast-received")
        workers = [await stack.enter_async_context(Process(home, "worker", role)) for role in roles]
        await ingress.ready()
        await until(lambda: all(process.log.read_text().count('"event":"started"') for process in workers), 20)
        await until(lambda: workers[0].log.read_text().count('"event":"started"') == 2, 20)
        async with subscribed_by_amqp(amqp_url) as subscriber:
            requests = await broadcast(sandbox, REQUESTS // 2, "acme")
            mortal_postgres.kill()
            await asyncio.to_thread(mortal_postgres.start)
            requests += await broadcast(sandbox, REQUESTS // 2, "acme")
            await until(lambda: subscriber.assigned() == REQUESTS, 60)
        assert_each_became_one_trip(sandbox, subscriber, requests)
        assert [await process.terminate() for process in (ingress, *workers)] == [0] * 5
        assert all(PASSWORD not in process.log.read_text() for process in (ingress, *workers))
        assert '"event":"unexpected' not in "".join(process.log.read_text() for process in workers)


async def test_check_and_migrate_say_what_is_wrong_with_the_store_and_show_no_password(
    tmp_path: Path, postgres: Server, postgres_url: str
) -> None:
    (tmp_path / "url").write_text(postgres_url)
    (tmp_path / "url").chmod(0o600)
    status, printed = await command("migrate", folder=tmp_path, variables={"RECEIVER_STORE__URL_FILE": "url"})
    assert status == 0, printed
    assert printed.startswith("0001 ")
    status, printed = await command("migrate", folder=tmp_path, variables={"RECEIVER_STORE__URL": postgres_url})
    assert (status, printed) == (0, "The store is up to date.\n")
    for url, says in (
        (postgres.url_of("postgres", "wrong-canary"), "PostgreSQL refused the user or the password"),
        (postgres.url_of("nowhere"), "PostgreSQL has no such database"),
        (postgres_url.replace(str(postgres.port), str(free_port())), "PostgreSQL can't be reached"),
    ):
        for name in ("migrate", "check"):
            status, printed = await command(name, folder=tmp_path, variables={"RECEIVER_STORE__URL": url})
            assert says in printed
            assert status == (2 if name == "check" else 1)  # check: there are no customers either
            assert PASSWORD not in printed
            assert "canary" not in printed
