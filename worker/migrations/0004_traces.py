"""Where an accept was decided, as a W3C traceparent, for the trace of the webhook that confirms it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("assignments", sa.Column("accept_traceparent", sa.Text))
