"""Opens what the configuration names, and closes it again: broker, store, the ring that seals bodies."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from shared.broker import Broker
from shared.embedded import EmbeddedBroker
from shared.engine import Engine
from shared.keys import read_sealer
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
    store: Engine | None


@contextlib.asynccontextmanager
async def open_house(settings: Settings, *, with_store: bool) -> AsyncIterator[House]:
    """One engine for each file: the embedded broker and the store may be the same, and then commit together."""
    sealer = read_sealer(settings)
    store_file = settings.store_file if with_store else None
    engines: dict[Path, Engine] = {}

    def engine(path: Path) -> Engine:
        key = path.resolve()
        if key not in engines:
            engines[key] = Engine(key)
        return engines[key]

    try:
        store = engine(store_file) if store_file else None
        if store is not None:
            await workers.migrate(store)
        broker = await _broker(settings, sealer, engine)
        try:
            yield House(broker, sealer, store)
        finally:
            await broker.close()
    finally:
        for each in engines.values():
            await each.close()


async def _broker(settings: Settings, sealer: Sealer, engine: Callable[[Path], Engine]) -> Broker:
    queued = [subscription for subscription in settings.subscriptions if subscription.is_queued]
    wanted = topology((each.name, pattern) for each in queued for pattern in each.patterns)
    if settings.broker_file is not None:
        return await EmbeddedBroker.open(engine(settings.broker_file), sealer, wanted)
    return RabbitBroker([url.get_secret_value() for url in settings.broker.url], wanted)
