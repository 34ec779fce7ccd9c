"""The workers of one process: which role consumes which queue, how they start, and how they drain."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from aiohttp import web

from shared import topics
from shared.broker import Broker, Delivery
from shared.database import Database
from shared.errors import ConfigurationError, Problem
from shared.sealing import Sealer
from shared.settings import Settings
from worker import broadcast_accepted, broadcast_received, client_api, commands, dead_letters, lifecycle
from worker.assignment import Rules
from worker.consume import Handled, Intake
from worker.customers import Customer
from worker.desk import Desk
from worker.ledger import Ledger
from worker.notify import Notifier
from worker.outbox import Outbox
from worker.push import Pusher
from worker.retention import Retention
from worker.told import Log
from worker.vectorcare import VectorCare
from worker.watch import Watch

Handle = Callable[[Desk, Delivery], Awaitable[Handled]]

ROLES: Final[Mapping[str, Mapping[str, Handle]]] = {
    "broadcast-received": {topics.BROADCAST_RECEIVED: broadcast_received.handle},
    "broadcast-accepted": {topics.BROADCAST_ACCEPTED: broadcast_accepted.handle},
    "lifecycle": {topics.LIFECYCLE: lifecycle.handle, topics.DEAD_LETTERS: dead_letters.handle},
    "commands": {topics.COMMANDS_QUEUE: commands.handle},
}
_LAST_OUTCOMES_SECONDS: Final = 5.0  # after the drain; what is left waits in the store
_LEASE: Final = 3  # times the hard limit of a call: how long an intent binds


class Workers:
    """The started workers of this process."""

    def __init__(
        self,
        intakes: list[Intake],
        outbox: Outbox,
        vectorcare: VectorCare,
        drain_seconds: float,
        doors: "Doors | None",
        retention: Retention | None,
    ) -> None:
        self._intakes = intakes
        self._outbox = outbox
        self._vectorcare = vectorcare
        self._drain_seconds = drain_seconds
        self._doors = doors
        self._retention = retention

    @property
    def client_port(self) -> int:
        """Where dispatch systems come in over HTTP; 0: nowhere."""
        return self._doors.port if self._doors else 0

    def readiness(self) -> Mapping[str, str | None]:
        """Each consumer, and what is wrong with it."""
        consumers = {f"consumer {intake.queue}": intake.problem for intake in self._intakes}
        pushers = self._doors.readiness() if self._doors else {}
        return {**consumers, "outbox": self._outbox.problem, **pushers}

    def notes(self) -> Mapping[str, str]:
        """What works, but wants a look."""
        return self._doors.watch.notes() if self._doors else {}

    async def stop(self) -> None:
        """Take no more, finish what is in hand, publish what was committed. The broker must still be open."""
        if self._doors is not None:
            await self._doors.close()
        await asyncio.gather(*(intake.stop(self._drain_seconds) for intake in self._intakes))
        if self._retention is not None:
            await self._retention.stop()
        await self._outbox.stop(_LAST_OUTCOMES_SECONDS)
        await self._vectorcare.__aexit__(None, None, None)


class Doors:
    """What the role `commands` opens for dispatch systems: pushes, the HTTP door, the look for missing trips."""

    def __init__(self, pushers: Mapping[str, Pusher], watch: Watch, runner: web.AppRunner | None) -> None:
        self._pushers = pushers
        self._runner = runner
        self.watch = watch
        self.port: int = runner.addresses[0][1] if runner else 0

    def readiness(self) -> Mapping[str, str | None]:
        """Each subscription that is pushed to, and what is wrong with it."""
        return {f"push {name}": pusher.problem for name, pusher in self._pushers.items()}

    async def close(self) -> None:
        """Let nobody in, finish the posts in hand."""
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.gather(*(pusher.stop() for pusher in self._pushers.values()))
        await self.watch.stop()


async def migrate(store: Database) -> tuple[str, ...]:
    """Bring the store's tables up to date; the steps that were taken."""
    return await store.migrate("worker.migrations", "store_version")


async def start(
    settings: Settings,
    broker: Broker,
    store: Database,
    sealer: Sealer,
    customers: Mapping[str, Customer],
    roles: Collection[str],
    notifier: Notifier,
) -> Workers:
    """Start the roles. The store must have been migrated."""
    part = settings.worker
    outbox = Outbox(store, broker, sealer, settings.subscriptions, notifier.outcome)
    vectorcare = await VectorCare(dict(customers), part.call_seconds).__aenter__()
    environments = {customer_id: customer.environment for customer_id, customer in customers.items()}
    desk = Desk(
        customers,
        settings.declared - customers.keys(),
        Ledger(store, sealer, environments),
        outbox,
        vectorcare,
        Rules(part.call_seconds * _LEASE, part.confirm_within, part.order_by),
        part.call_seconds,
    )
    intakes = []
    for role in roles:
        for queue, handle in ROLES[role].items():
            handler = functools.partial(handle, desk)
            intake = Intake(queue, handler, part.in_flight_per_customer, frozenset(customers))
            if queue == topics.COMMANDS_QUEUE:
                note = functools.partial(commands.note, desk)
                at_a_time = part.in_flight_per_customer
                intake = Intake(queue, handler, at_a_time, frozenset(customers), commands.customer_of, note)
            await intake.start(broker, part.prefetch)
            intakes.append(intake)
    doors = None
    if "commands" in roles:
        doors = await _open_doors(settings, broker, store, sealer, frozenset(customers), outbox, notifier)
    retention = Retention(store, settings.store.keep_days) if "lifecycle" in roles else None
    return Workers(intakes, outbox, vectorcare, part.drain_seconds, doors, retention)


async def _open_doors(
    settings: Settings,
    broker: Broker,
    store: Database,
    sealer: Sealer,
    customers: frozenset[str],
    outbox: Outbox,
    notifier: Notifier,
) -> Doors:
    log = Log(store, sealer)
    runner = None
    if any(subscription.token for subscription in settings.subscriptions):
        door = client_api.Door(settings.subscriptions, customers, broker, store, log, outbox.told)
        try:
            runner = await client_api.listen(door, settings.client.host, settings.client.port)
        except OSError as error:
            problem = Problem("client.port", f"can't listen there: {error.strerror}")
            raise ConfigurationError([problem]) from None
    pushers = {
        subscription.name: Pusher(subscription, store, log, outbox.told)
        for subscription in settings.subscriptions
        if subscription.url is not None
    }
    return Doors(pushers, Watch(store, settings.store.keep_days, notifier.unacknowledged), runner)
