"""The present state of live assignments, from the store."""

from collections.abc import Collection
from typing import Any

import orjson

from cli.house import House
from worker import told
from worker.told import Log


async def present(house: House, customers: Collection[str], since: float | None = None) -> list[dict[str, Any]]:
    """The last outcome of each live assignment of these customers, as it was told; with the patient's data."""
    assert house.store is not None
    log = Log(house.store, house.sealer)
    found: list[dict[str, Any]] = []
    for customer in sorted(customers):
        rows = await house.store.read(lambda connection, of=customer: told.present(connection, of, since))  # type: ignore[misc]
        found += [orjson.loads(log.opened(row).body) for row in rows]
    return found
