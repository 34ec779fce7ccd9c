"""Queues, bindings and messages of the embedded broker."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "queues",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("expires_at", sa.Float),
    )
    op.create_table(
        "bindings",
        sa.Column("exchange", sa.Text, primary_key=True),
        sa.Column("pattern", sa.Text, primary_key=True),
        sa.Column("queue", sa.Text, sa.ForeignKey("queues.name", ondelete="CASCADE"), primary_key=True),
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("queue", sa.Text, sa.ForeignKey("queues.name", ondelete="CASCADE"), nullable=False),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("visible_at", sa.Float, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("deliveries", sa.Integer, nullable=False),
        sa.Column("receipt", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("messages_by_turn", "messages", ["queue", "visible_at", "id"])
