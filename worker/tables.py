"""The store's tables, as `worker/migrations` makes them; portable between SQLite and PostgreSQL."""

from typing import Final

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Integer, LargeBinary, MetaData, Table, Text

_metadata: Final = MetaData()
_ID: Final = BigInteger().with_variant(Integer, "sqlite")  # 200 outcomes a second fill 32 bits in four months

assignments: Final = Table(
    "assignments",
    _metadata,
    Column("customer_id", Text, primary_key=True),
    Column("service_request_id", Text, primary_key=True),
    Column("state", Text),
    Column("revision", Integer),
    Column("newest", JSON(none_as_null=True)),
    Column("newest_status", Text),
    Column("settled", JSON(none_as_null=True)),
    Column("ours", Boolean),
    Column("confirmed", Boolean),
    Column("intent_id", Text),
    Column("intent_call", Text),
    Column("intent_deadline", Float),
    Column("not_before", Float),
    Column("uncertain_since", Float),
    Column("accepted_at", Float),
    Column("accepted_event_id", Text),
    Column("last_accept_at", Float),
    Column("accept_before", Float),
    Column("decided_by", Text),
    Column("request", LargeBinary),
    Column("request_event_id", Text),
    Column("updated_at", Float),
    Column("pickup_at", Float),
    Column("level", Text),
    Column("other_leg_lost", Boolean),
    Column("collection", Text),
    Column("first_offered_at", Float),
    Column("times_seen", Integer),
    Column("proposals", Integer),
    Column("hold_until", Float),
    Column("asked_by", Text),
    Column("actor", Text),
    Column("tags", JSON(none_as_null=True)),
    Column("accept_traceparent", Text),
)

# One row for each customer: its lock, whether it is paused (`*` pauses all), and how often in a row it was refused.
customers: Final = Table(
    "customers",
    _metadata,
    Column("customer_id", Text, primary_key=True),
    Column("paused_at", Float),
    Column("paused_by", Text),
    Column("refused_in_a_row", Integer),
)

# Each offer that a policy decided, as it was: `event` is the signed body, sealed (PHI), `facts` is worker.facts.Facts.
offers: Final = Table(
    "offers",
    _metadata,
    Column("id", _ID, primary_key=True),
    Column("customer_id", Text),
    Column("service_request_id", Text),
    Column("event_id", Text),
    Column("seen_at", Float),
    Column("received_at", Float),
    Column("mode", Text),
    Column("verdict", Text),
    Column("rule", Text),
    Column("reason_code", Text),
    Column("facts", JSON),
    Column("event", LargeBinary),
)

# What proves that a webhook was lost, or never came; closed when it came after all.
gaps: Final = Table(
    "gaps",
    _metadata,
    Column("customer_id", Text, primary_key=True),
    Column("service_request_id", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("since", Float),
    Column("closed_at", Float),
)

# Who did what when; only ever added to. No PHI: `subject` is an id, `result` a code.
audit: Final = Table(
    "audit",
    _metadata,
    Column("id", _ID, primary_key=True),
    Column("at", Float),
    Column("actor", Text),
    Column("deed", Text),
    Column("customer_id", Text),
    Column("subject", Text),
    Column("result", Text),
)

# What was committed and is to be told, and then what was told: `position` is given once the broker has confirmed it.
outbox: Final = Table(
    "outbox",
    _metadata,
    Column("id", _ID, primary_key=True),
    Column("customer_id", Text),
    Column("service_request_id", Text),
    Column("routing_key", Text),
    Column("headers", JSON),
    Column("body", LargeBinary),
    Column("claimed_until", Float),
    Column("position", _ID),
    Column("told_at", Float),
)

parked: Final = Table(
    "parked",
    _metadata,
    Column("id", _ID, primary_key=True),
    Column("fingerprint", Text),
    Column("customer_id", Text),
    Column("service_request_id", Text),
    Column("reason", Text),
    Column("attempts", Integer),
    Column("origin_queue", Text),
    Column("routing_key", Text),
    Column("headers", JSON),
    Column("body", LargeBinary),
    Column("first_parked_at", Float),
    Column("last_parked_at", Float),
)

# Each command of a dispatch system or a person, and its one result. `args` is sealed (notes and places may be PHI);
# `sort_at` orders the states of a trip, `claimed_until` is the lease on making the call, `called_at` when it was begun.
commands: Final = Table(
    "commands",
    _metadata,
    Column("customer_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("command", Text),
    Column("service_request_id", Text),
    Column("actor", Text),
    Column("args", LargeBinary),
    Column("size", Integer),
    Column("not_after", Float),
    Column("expected_revision", Integer),
    Column("received_at", Float),
    Column("sort_at", Float),
    Column("state", Text),
    Column("code", Text),
    Column("vectorcare_code", Text),
    Column("sentence", Text),
    Column("decided_at", Float),
    Column("claimed_until", Float),
    Column("called_at", Float),
)

# One row: the last position that was given to a told event, and the last that was forgotten. Its lock is held until the
# commit, so that positions become visible in their order and a reader's cursor never skips one.
told_head: Final = Table(
    "told_head",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("position", _ID),
    Column("forgotten", _ID),
)

# What is still to be posted to subscriptions with a url; `position` is the told event's in the outbox.
pushes: Final = Table(
    "pushes",
    _metadata,
    Column("id", _ID, primary_key=True),
    Column("subscription", Text),
    Column("position", _ID),
    Column("customer_id", Text),
    Column("service_request_id", Text),
    Column("attempts", Integer),
    Column("since", Float),
    Column("due_at", Float),
    Column("claimed_until", Float),
)

# The trip that a dispatch system has made of an assignment; `due_at` is set where one must be made.
acknowledgements: Final = Table(
    "acknowledgements",
    _metadata,
    Column("customer_id", Text, primary_key=True),
    Column("service_request_id", Text, primary_key=True),
    Column("due_at", Float),
    Column("alarmed_at", Float),
    Column("trip_id", Text),
    Column("acknowledged_at", Float),
    Column("actor", Text),
)

# Units that a dispatch system says are free, by level of service, until `until`.
capacities: Final = Table(
    "capacities",
    _metadata,
    Column("customer_id", Text, primary_key=True),
    Column("level", Text, primary_key=True),
    Column("units", Integer),
    Column("until", Float),
    Column("said_at", Float),
    Column("actor", Text),
)
