"""When people may be written to: urgent and interactive messages, what waits, what goes together, verified addresses."""

import sqlalchemy as sa
from alembic import op

from wakeloop.store.schema import Instant

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("urgent", "interactive"):
        op.add_column(
            "messages", sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False)
        )
    _index("ix_messages_inbound", "messages", ["contact", "at"], "inbound")
    op.add_column("deliveries", sa.Column("bundle", sa.Uuid(), nullable=True))
    op.add_column("deliveries", sa.Column("held", sa.Text(), nullable=True))
    _index("ix_deliveries_bundle", "deliveries", ["bundle"], "bundle IS NOT NULL")
    _index("ix_deliveries_waiting", "deliveries", ["contact"], "due_at IS NOT NULL")
    op.create_index("ix_deliveries_claimed_at", "deliveries", ["contact", "claimed_at"], unique=False)
    op.create_table(
        "verifications",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("sent_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.Column("wrong_tries", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("verified_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("channel", "address", name=op.f("pk_verifications")),
    )


def _index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=False, postgresql_where=where, sqlite_where=where)
