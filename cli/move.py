"""`move`: what is queued to RabbitMQ, or the store to PostgreSQL, when one machine is outgrown."""

import asyncio
from pathlib import Path
from typing import Final

import aio_pika
import typer
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from rich.console import Console
from rich.progress import Progress

from cli.house import wanted_topology
from shared import files, moving
from shared.broker import Topology
from shared.engine import Engine
from shared.errors import Unavailable
from shared.keys import read_sealer
from shared.postgresql import PostgreSQL
from shared.rabbitmq import RabbitBroker
from shared.settings import Settings, is_postgresql, sqlite_path
from worker import app as workers
from worker import moving as store_moving

_CONNECT_SECONDS: Final = 5.0
_COPY_SECONDS: Final = 3600.0


def run(settings: Settings, source: str, target: str) -> int:
    """Move from a file to where `target` says; the exit status."""
    path = sqlite_path(source)
    if path is None:
        raise typer.BadParameter("--from must be sqlite:PATH")
    if not path.exists():
        raise Unavailable(f"there is no {path}")
    target = _named(settings, target)
    if target.startswith(("amqp://", "amqps://")):
        return asyncio.run(_queues(settings, path, target))
    if is_postgresql(target):
        return asyncio.run(_store(path, target))
    raise typer.BadParameter("--to must be amqp://, amqps:// or postgresql:// with a host, or broker, or store")


def _named(settings: Settings, target: str) -> str:
    """`broker` and `store` stand for the configuration's, so that no password need be on a command line."""
    if target == "broker":
        return settings.broker.url[0].get_secret_value()
    if target == "store":
        return settings.store.url.get_secret_value() if settings.store.url else ""
    return target


async def _queues(settings: Settings, path: Path, url: str) -> int:
    console = Console()
    wanted = wanted_topology(settings)
    doors = moving.doors(wanted.queues)
    engine = Engine(path)
    broker = RabbitBroker([url], Topology((*wanted.exchanges, *doors.exchanges), doors.queues))
    try:
        await engine.migrate("shared.migrations.versions", "broker_version")
        waiting = await engine.read(moving.waiting)
        names = {queue.name for queue in wanted.queues}
        await _connected(broker)
        with Progress(console=console) as progress:
            task = progress.add_task("moving", total=sum(waiting[name] for name in names & waiting.keys()))
            unopened = await moving.move(
                engine, read_sealer(settings), broker, names, lambda done: progress.advance(task, done)
            )
        left = await engine.read(moving.waiting)
    finally:
        await broker.close()
        await engine.close()
    await _forget(url, doors)
    for name in sorted(waiting):
        console.print(f"{name}: {waiting[name] - left.get(name, 0)} moved, {left.get(name, 0)} left")
    if unopened:
        console.print(f"{unopened} could not be opened: their key is not among store.encryption_key_files.")
    for name in sorted(left.keys() - names):
        console.print(f"{name} is no queue of this configuration: add it to [[subscriptions]] and move again.")
    return 1 if left else 0


async def _connected(broker: RabbitBroker) -> None:
    deadline = asyncio.get_running_loop().time() + _CONNECT_SECONDS
    while broker.problem:
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(f"RabbitMQ: {broker.problem}")
        await asyncio.sleep(0.05)


async def _forget(url: str, doors: Topology) -> None:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS), await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            for name in doors.exchanges:
                await channel.exchange_delete(name)
    except (TimeoutError, *CONNECTION_EXCEPTIONS):
        raise Unavailable(
            "all is moved, but the exchanges receiver.move.* could not be deleted; do it by hand"
        ) from None


async def _store(path: Path, url: str) -> int:
    console = Console()
    engine = Engine(path)
    try:
        await workers.migrate(engine)
    finally:
        await engine.close()
    target = PostgreSQL(url, 1, seconds=_COPY_SECONDS)
    try:
        with files.held_alone(path) as source:  # nobody writes meanwhile, nor unseen before
            await workers.migrate(target)
            with Progress(console=console) as progress:
                task = progress.add_task("copying", total=store_moving.rows_in(source))
                copied = await store_moving.move(source, target, lambda done: progress.advance(task, done))
    finally:
        await target.close()
    for name, count in copied.items():
        console.print(f"{name}: {count}")
    console.print(f"All of it is on PostgreSQL. Name it in store.url before you start; {path} was left as it is.")
    return 0
