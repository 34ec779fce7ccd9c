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
    Column("other_leg", Text),
    Column("other_leg_lost", Boolean),
    Column("collection", Text),
    Column("first_offered_at", Float),
    Column("times_seen", Integer),
    Column("proposals", Integer),
    Column("hold_until", Float),
    Column("asked_by", Text),
    Column("actor", Text),
    Column("tags", JSON(none_as_null=True)),
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
