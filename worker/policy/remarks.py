"""What is allowed in a policy and yet is likely a mistake: sentences for its author. Pure."""

from collections.abc import Iterator

from worker.policy.rules import Policy


def remarks(policy: Policy) -> Iterator[str]:
    """Variables that some rule reads and for which the policy has no table, so that they are never known."""
    travel = policy.tables.travel
    reads = {".".join(path) for path in policy.reads}
    if "trip.level" in reads and not policy.tables.levels.fields:
        yield "trip.level is never known: there is no [levels]"
    if "capacity.free" in reads and not policy.tables.capacity:
        yield "capacity.free is never known: there is no [[capacity]]"
    if "trip.minutes" in reads and travel.mph is None and not travel.speeds and travel.minutes_field is None:
        yield "trip.minutes is never known: [travel] names no mph"
