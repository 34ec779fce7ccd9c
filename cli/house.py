"""Opens what the configuration names, and closes it again: broker, store, the ring that seals bodies."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from shared.broker import Broker, Topology
from shared.database import Database
from shared.embedded import EmbeddedBroker
from shared.engine import Engine
from shared.keys import read_sealer
from shared.postgresql import PostgreSQL
from shared.rabbitmq import RabbitBroker
from shared.sealing import Sealer
from shared.settings import Settings
from shared.topics import topology
from worker import app as workers


@dataclass(frozen=True, slots=True)
class House:
    """What is open. `store` is None where the command needs none."""

    broker: Broker
    sealer: Sealer
    store: Database | None


@contextlib.asynccontextmanager
async def open_house(settings: Settings, *, with_store: bool) -> AsyncIterator[House]:
    """One engine for each file: the embedded broker and the store may be the same, and then commit together."""
    sealer = read_sealer(settings)
    engines: dict[Path, Engine] = {}

    def engine(path: Path) -> Engine:
        key = path.resolve()
        if key not in engines:
            engines[key] = Engine(key)
        return engines[key]

    try:
        async with contextlib.AsyncExitStack() as stack:
            store = _store(settings, engine) if with_store else None
            if isinstance(store, PostgreSQL):
                stack.push_async_callback(store.close)
            if store is not None:
                await workers.migrate(store)
            broker = await _broker(settings, sealer, engine)
            stack.push_async_callback(broker.close)
            yield House(broker, sealer, store)
    finally:
        for each in engines.values():
            await each.close()


@contextlib.asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Database]:
    """The store alone, as it is found: not migrated."""
    store = _store(settings, Engine)
    try:
        yield store
    finally:
        await store.close()


def _store(settings: Settings, engine: Callable[[Path], Engine]) -> Database:
    file = settings.store_file
    if file is not None:
        return engine(file)
    assert settings.store.url is not None  # else there is a file, or ConfigurationError
    return PostgreSQL(settings.store.url.get_secret_value(), settings.store.connections)


def wanted_topology(settings: Settings) -> Topology:
    """All that must exist on the broker for this configuration."""
    queued = [subscription for subscription in settings.subscriptions if subscription.is_queued]
    return topology((each.name, pattern) for each in queued for pattern in each.patterns)


async def _broker(settings: Settings, sealer: Sealer, engine: Callable[[Path], Engine]) -> Broker:
    wanted = wanted_topology(settings)
    if settings.broker_file is not None:
        return await EmbeddedBroker.open(engine(settings.broker_file), sealer, wanted)
    return RabbitBroker([url.get_secret_value() for url in settings.broker.url], wanted)
