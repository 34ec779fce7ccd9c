"""What is decided about: an offer as a policy sees it, and the part of its request that rules read, completed."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from worker.expression import Path

LOCATION: Final = ("address", "city", "country", "lat", "lng", "name", "state", "street", "zip")
LOCATIONS: Final = ("pickup_location", "destination_location")


class Offer(Protocol):
    """The part of a webhook that a policy reads; a verified `shared.event.Event` is one."""

    @property
    def event_id(self) -> str: ...
    @property
    def event_timestamp(self) -> str: ...
    @property
    def service_request_id(self) -> str: ...
    @property
    def request_status(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def data(self) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """An offer that nobody has verified: fit to ask what a policy would do, and for nothing else."""

    data: dict[str, Any] | None = field(repr=False)
    event_id: str = "sample"
    event_timestamp: str = "1970-01-01T00:00:00.000Z"
    service_request_id: str = "sample"
    request_status: str = "AVAILABLE"
    action: str = "BROADCAST_RECEIVED"


def pickup_time(data: Mapping[str, Any] | None) -> datetime | None:
    """`pickup_date_time` of a request; None where it is missing or is not a time."""
    text = (data or {}).get("pickup_date_time")
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        return None


def request(data: Mapping[str, Any], paths: Collection[Path]) -> dict[str, Any]:
    """The part of the request that the rules read, completed: what it does not say is null, a missing place empty."""
    found: dict[str, Any] = {}
    for path in sorted(paths):
        if path[0] not in found:
            found[path[0]] = _field(path[0], data.get(path[0]), is_place=len(path) > 1)
        _complete(found[path[0]], path[1:])
    return found


def _field(name: str, value: Any, *, is_place: bool) -> Any:
    if name in LOCATIONS and (value is None or isinstance(value, dict)):
        return dict.fromkeys(LOCATION) | copy.deepcopy(value or {})
    return {} if is_place and value is None else copy.deepcopy(value)


def _complete(node: Any, path: Path) -> None:
    """Put a null where a rule reads a field that is not there."""
    if path and isinstance(node, dict):
        if node.get(path[0]) is None:
            node[path[0]] = {} if len(path) > 1 else None
        _complete(node[path[0]], path[1:])
