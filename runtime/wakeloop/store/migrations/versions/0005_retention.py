"""What deletes by age and forgets people: who does it, who is to be forgotten, and indexes that lead to what is old."""

import sqlalchemy as sa
from alembic import op

from wakeloop.store.schema import Instant

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chores",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("until", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_chores")),
    )
    op.create_table(
        "erasures",
        sa.Column("contact", sa.Text(), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("done_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("contact", name=op.f("pk_erasures")),
    )
    _index("erasures", "ix_erasures_unfinished", ["asked_at"], "done_at IS NULL")
    _index("runs", "ix_runs_parked", ["session_id"], "status IN ('failed', 'stuck')")
    _index("runs", "ix_runs_over", ["ended_at", "id"], "status IN ('completed', 'cancelled')")
    _index("requests", "ix_requests_over", ["settled_at", "id"], "run_id IS NULL AND settled_at IS NOT NULL")
    _index("received", "ix_received_raw", ["at", "id"], "raw <> ''")
    op.create_index("ix_files_message_id", "files", ["message_id"], unique=False)


def _index(table: str, name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=False, postgresql_where=where, sqlite_where=where)
