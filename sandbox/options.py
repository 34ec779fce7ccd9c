"""What the played VectorCare does where the real one lets a choice, or where its behaviour is not known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class Status(StrEnum):
    """`request_status`: the four values of the guide."""

    AVAILABLE = "AVAILABLE"
    ASSIGNED = "ASSIGNED"
    COMPLETED = "COMPLETED"
    UNAVAILABLE = "UNAVAILABLE"


UNDOCUMENTED_ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "taken_by_other": "BROADCAST_CANCELED",
        "assigned_directly": "REQUEST_ASSIGNED",
        "updated": "REQUEST_UPDATED",
        "completed": "REQUEST_COMPLETED",
        "countered": "PROPOSAL_COUNTERED",
    }
)
"""The guide documents no `action` for these moments. All but the first are invented here, and each can be set
with `Options.actions`: a Receiver has to take an action that it has never heard of."""


@dataclass(frozen=True)
class Options:
    """How one sandbox behaves. Times are seconds.

    `attempt_delays`: the pause before each attempt of a webhook, counted from the failure of the one before;
    their number is the number of attempts (VectorCare: 0, ~8, ~64). `expire_after`: an offer that nobody
    answered expires that long after its broadcast; None is never. `keep`: how many records are held in
    memory, the oldest go first; None holds all of them. `keep_requests`: likewise for service requests.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 0
    attempt_delays: tuple[float, ...] = (0.0, 8.0, 64.0)
    webhook_deadline: float = 10.0
    token_seconds: float = 3600.0
    expire_after: float | None = None
    one_key: bool = False
    """One RSA key for all organizations. The guide does not say whether they share one."""
    sortable_event_ids: bool = True
    """False: random ids, as in the guide's samples from before 2026-02-20."""
    shared_event_id: bool = False
    """Two webhooks of one organization get the same event under one id."""
    restamp: bool = False
    """`event_timestamp` is set again, and the body signed again, on each attempt."""
    whole_seconds: bool = False
    """`event_timestamp` has no milliseconds but .000."""
    idempotent_accept: bool = False
    """A second accept by the Receiver that holds the request answers 201 instead of 403."""
    strict_states: bool = True
    """A state that goes back in the documented order is refused with 400."""
    tell_states: bool = False
    """Each state that a Receiver reports comes back as a data update: many webhooks for one trip, as in the guide."""
    organization_id_names: str = "receiver"
    """Whose id `data.organization_id` is: `receiver` or `requester`. Unknown in the guide."""
    service_level_field: str | None = "service_level_type"
    """The name under which `data` tells the level of service: v1's name, unknown in v2. None: nowhere."""
    proposal_declined: Status = Status.AVAILABLE
    """The status that comes with PROPOSAL_DECLINED, which the guide leaves open."""
    webhook_ca: str | None = None
    """A file of certificates to trust beside the system's, for https webhooks with a certificate of one's own."""
    environment: str = "development"
    namespace: str = "vectorcare"
    request_prefix: str = "VC"
    actions: Mapping[str, str] = field(default_factory=dict)
    keep: int | None = None
    keep_requests: int | None = None
    record_path: str | None = None
    """A file that every record is appended to, as JSON lines."""
    state: str | None = None
    """A directory to keep everything in, and to go on from if something is there already."""

    def action(self, moment: str) -> str:
        """The action name for a moment of `UNDOCUMENTED_ACTIONS`."""
        return self.actions.get(moment, UNDOCUMENTED_ACTIONS[moment])
