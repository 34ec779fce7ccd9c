"""The store's tables, as `worker/migrations` makes them; portable between SQLite and PostgreSQL."""

from typing import Final

from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, MetaData, Table, Text

_metadata: Final = MetaData()

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
)

outbox: Final = Table(
    "outbox",
    _metadata,
    Column("id", Integer, primary_key=True),
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
    Column("id", Integer, primary_key=True),
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
