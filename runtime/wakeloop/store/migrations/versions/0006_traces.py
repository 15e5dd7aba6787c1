"""Where rows that lead to more work carry the trace that they belong to."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("runs", "inbox", "deliveries", "requests"):
        op.add_column(table, sa.Column("trace", sa.Text(), nullable=True))
