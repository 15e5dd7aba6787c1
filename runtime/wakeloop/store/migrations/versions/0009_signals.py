"""Which signals runs wait for."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("receivers", sa.Column("signal", sa.Text(), nullable=True))
    op.create_index(
        "ix_receivers_signal", "receivers", ["signal"],
        postgresql_where=sa.text("signal IS NOT NULL"), sqlite_where=sa.text("signal IS NOT NULL"),
    )  # fmt: skip
