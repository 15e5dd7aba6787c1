"""Fewer and smaller indexes of runs, none of which names what changes while a run is open; what was consumed loses its body."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("ix_runs_open", "ix_runs_parked", "ix_runs_over", "ix_runs_session_id", "ix_runs_status"):
        op.drop_index(name, table_name="runs")
    with op.batch_alter_table("runs") as runs:
        runs.drop_constraint("uq_runs_schedule_id_nominal", type_="unique")
    _index("ix_runs_occurrence", ["schedule_id", "nominal"], "schedule_id IS NOT NULL", unique=True)
    op.create_index("ix_runs_session_id", "runs", ["session_id", "ended_at"], unique=False)
    _index("ix_runs_ended_at", ["ended_at", "id"], "ended_at IS NOT NULL")
    _index("ix_runs_failed", ["session_id"], "failure IS NOT NULL")
    op.execute("UPDATE inbox SET body = NULL WHERE consumed_at IS NOT NULL AND body IS NOT NULL")


def _index(name: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, "runs", columns, unique=unique, postgresql_where=where, sqlite_where=where)
