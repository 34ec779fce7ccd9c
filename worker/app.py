"""The workers of one process: which role consumes which queue, how they start, and how they drain."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

from shared import topics
from shared.broker import Broker, Delivery
from shared.database import Database
from shared.sealing import Sealer
from shared.settings import Settings
from worker import broadcast_accepted, broadcast_received, dead_letters, lifecycle
from worker.assignment import Rules
from worker.consume import Handled, Intake
from worker.customers import Customer
from worker.desk import Desk
from worker.ledger import Ledger
from worker.outbox import Outbox
from worker.vectorcare import VectorCare

Handle = Callable[[Desk, Delivery], Awaitable[Handled]]

ROLES: Final[Mapping[str, Mapping[str, Handle]]] = {
    "broadcast-received": {topics.BROADCAST_RECEIVED: broadcast_received.handle},
    "broadcast-accepted": {topics.BROADCAST_ACCEPTED: broadcast_accepted.handle},
    "lifecycle": {topics.LIFECYCLE: lifecycle.handle, topics.DEAD_LETTERS: dead_letters.handle},
}
_LAST_OUTCOMES_SECONDS: Final = 5.0  # after the drain; what is left waits in the store
_LEASE: Final = 3  # times the hard limit of a call: how long an intent binds


class Workers:
    """The started workers of this process."""

    def __init__(self, intakes: list[Intake], outbox: Outbox, vectorcare: VectorCare, drain_seconds: float) -> None:
        self._intakes = intakes
        self._outbox = outbox
        self._vectorcare = vectorcare
        self._drain_seconds = drain_seconds

    def readiness(self) -> Mapping[str, str | None]:
        """Each consumer, and what is wrong with it."""
        consumers = {f"consumer {intake.queue}": intake.problem for intake in self._intakes}
        return {**consumers, "outbox": self._outbox.problem}

    async def stop(self) -> None:
        """Take no more, finish what is in hand, publish what was committed. The broker must still be open."""
        await asyncio.gather(*(intake.stop(self._drain_seconds) for intake in self._intakes))
        await self._outbox.stop(_LAST_OUTCOMES_SECONDS)
        await self._vectorcare.__aexit__(None, None, None)


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
) -> Workers:
    """Start the roles. The store must have been migrated."""
    part = settings.worker
    outbox = Outbox(store, broker, sealer)
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
            await intake.start(broker, part.prefetch)
            intakes.append(intake)
    return Workers(intakes, outbox, vectorcare, part.drain_seconds)
