"""What sessions said and heard, in order."""

import sqlalchemy as sa
from alembic import op

from wakeloop.store.schema import Id, Instant, Serial

revision = "0008"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "conversation",
        sa.Column("session_id", Serial, autoincrement=False, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("contact", sa.Text(), nullable=True),
        sa.Column("content", sa.Text(), nullable=True),
        sa.Column("source", Id, nullable=True),
        sa.PrimaryKeyConstraint("session_id", "seq", name=op.f("pk_conversation")),
    )
    op.add_column("sessions", sa.Column("pruned_to", sa.Integer(), nullable=True))
