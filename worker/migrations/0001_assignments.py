"""What we know of each service request, the outbox, and the parked events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts by itself in INTEGER alone


def upgrade() -> None:
    op.create_table(
        "assignments",
        sa.Column("customer_id", sa.Text, primary_key=True),
        sa.Column("service_request_id", sa.Text, primary_key=True),
        sa.Column("state", sa.Text),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("newest", sa.JSON(none_as_null=True)),
        sa.Column("newest_status", sa.Text),
        sa.Column("settled", sa.JSON(none_as_null=True)),
        sa.Column("ours", sa.Boolean, nullable=False),
        sa.Column("confirmed", sa.Boolean, nullable=False),
        sa.Column("intent_id", sa.Text),
        sa.Column("intent_call", sa.Text),
        sa.Column("intent_deadline", sa.Float, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("uncertain_since", sa.Float),
        sa.Column("accepted_at", sa.Float),
        sa.Column("accepted_event_id", sa.Text),
        sa.Column("decided_by", sa.Text),
        sa.Column("request", sa.LargeBinary),
        sa.Column("request_event_id", sa.Text),
        sa.Column("last_accept_at", sa.Float),
        sa.Column("accept_before", sa.Float),
        sa.Column("updated_at", sa.Float, nullable=False),
    )
    op.create_index("assignments_by_customer", "assignments", ["customer_id", "ours"])
    op.create_table(
        "outbox",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("service_request_id", sa.Text, nullable=False),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("claimed_until", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_by_request", "outbox", ["customer_id", "service_request_id", "id"])
    op.create_table(
        "parked",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("fingerprint", sa.Text, nullable=False, unique=True),
        sa.Column("customer_id", sa.Text),
        sa.Column("service_request_id", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("origin_queue", sa.Text, nullable=False),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("first_parked_at", sa.Float, nullable=False),
        sa.Column("last_parked_at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
