"""What a policy may ask of the store, who is paused, what was offered, what must have been lost, who did what."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts by itself in INTEGER alone


def upgrade() -> None:
    for column in (
        sa.Column("pickup_at", sa.Float),
        sa.Column("level", sa.Text),
        sa.Column("other_leg_lost", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("collection", sa.Text),
        sa.Column("first_offered_at", sa.Float),
        sa.Column("times_seen", sa.Integer, nullable=False, server_default="0"),
        sa.Column("proposals", sa.Integer, nullable=False, server_default="0"),
        sa.Column("hold_until", sa.Float),
        sa.Column("asked_by", sa.Text),
        sa.Column("actor", sa.Text),
        sa.Column("tags", sa.JSON(none_as_null=True)),
    ):
        op.add_column("assignments", column)
    op.create_index("assignments_by_pickup", "assignments", ["customer_id", "pickup_at"])
    op.create_index("assignments_by_collection", "assignments", ["customer_id", "collection"])
    op.create_index("assignments_by_change", "assignments", ["updated_at"])
    op.create_table(
        "customers",
        sa.Column("customer_id", sa.Text, primary_key=True),
        sa.Column("paused_at", sa.Float),
        sa.Column("paused_by", sa.Text),
        sa.Column("refused_in_a_row", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_table(
        "offers",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("service_request_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("received_at", sa.Float),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("rule", sa.Text),
        sa.Column("reason_code", sa.Text, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("event", sa.LargeBinary),
        sqlite_autoincrement=True,
    )
    op.create_index("offers_by_time", "offers", ["customer_id", "seen_at"])
    op.create_index("offers_by_request", "offers", ["customer_id", "service_request_id"])
    op.create_table(
        "gaps",
        sa.Column("customer_id", sa.Text, primary_key=True),
        sa.Column("service_request_id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("closed_at", sa.Float),
    )
    op.create_table(
        "audit",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("deed", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("result", sa.Text),
        sqlite_autoincrement=True,
    )
