"""Doors for dispatch systems: told events stay under a position, pushes, commands, acknowledgements, capacity."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts by itself in INTEGER alone


def upgrade() -> None:
    op.add_column("outbox", sa.Column("position", _ID))
    op.add_column("outbox", sa.Column("told_at", sa.Float))
    op.create_index("outbox_by_position", "outbox", ["position"], unique=True)
    untold = sa.text("position IS NULL")
    op.create_index("outbox_untold", "outbox", ["id"], sqlite_where=untold, postgresql_where=untold)
    head = op.create_table(
        "told_head",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("position", _ID, nullable=False),
        sa.Column("forgotten", _ID, nullable=False),
    )
    op.bulk_insert(head, [{"id": 1, "position": 0, "forgotten": 0}])
    op.create_table(
        "pushes",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("subscription", sa.Text, nullable=False),
        sa.Column("position", _ID, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("service_request_id", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("due_at", sa.Float, nullable=False),
        sa.Column("claimed_until", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("pushes_by_request", "pushes", ["subscription", "customer_id", "service_request_id", "id"])
    op.create_table(
        "commands",
        sa.Column("customer_id", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("service_request_id", sa.Text, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("args", sa.LargeBinary),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("not_after", sa.Float),
        sa.Column("expected_revision", sa.Integer),
        sa.Column("received_at", sa.Float, nullable=False),
        sa.Column("sort_at", sa.Float, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("code", sa.Text),
        sa.Column("vectorcare_code", sa.Text),
        sa.Column("sentence", sa.Text),
        sa.Column("decided_at", sa.Float),
        sa.Column("claimed_until", sa.Float, nullable=False),
        sa.Column("called_at", sa.Float),
    )
    pending = sa.text("state = 'pending'")
    op.create_index(
        "commands_pending",
        "commands",
        ["customer_id", "service_request_id", "command", "sort_at"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
    op.create_index("commands_by_end", "commands", ["decided_at"])
    op.create_table(
        "acknowledgements",
        sa.Column("customer_id", sa.Text, primary_key=True),
        sa.Column("service_request_id", sa.Text, primary_key=True),
        sa.Column("due_at", sa.Float),
        sa.Column("alarmed_at", sa.Float),
        sa.Column("trip_id", sa.Text),
        sa.Column("acknowledged_at", sa.Float),
        sa.Column("actor", sa.Text),
    )
    missing = sa.text("acknowledged_at IS NULL")
    op.create_index(
        "acknowledgements_missing",
        "acknowledgements",
        ["due_at"],
        sqlite_where=missing,
        postgresql_where=missing,
    )
    op.create_table(
        "capacities",
        sa.Column("customer_id", sa.Text, primary_key=True),
        sa.Column("level", sa.Text, primary_key=True),
        sa.Column("units", sa.Integer, nullable=False),
        sa.Column("until", sa.Float),
        sa.Column("said_at", sa.Float, nullable=False),
        sa.Column("actor", sa.Text),
    )
