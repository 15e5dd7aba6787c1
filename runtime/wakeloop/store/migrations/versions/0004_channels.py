"""What channels that fetch, that bring files, that thread and that change what they sent need."""

import sqlalchemy as sa
from alembic import op

from wakeloop.store.schema import Instant

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "listeners",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("until", Instant(), nullable=True),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("channel", name=op.f("pk_listeners")),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_table(
        "amendments",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("due_at", Instant(), nullable=True),
        sa.Column("tries", sa.SmallInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], name=op.f("fk_amendments_delivery_id")),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_amendments")),
    )
    for name in ("thread", "reply_to"):
        op.add_column("received", sa.Column(name, sa.Text(), nullable=True))
    op.create_index("ix_received_message_id", "received", ["message_id"], unique=False)
    op.create_index("ix_received_address", "received", ["channel", "address", "at"], unique=False)
    for name in ("run_id", "request_id"):
        present = sa.text(f"{name} IS NOT NULL")
        op.create_index(
            f"ix_messages_{name}",
            "messages",
            [name],
            unique=False,
            postgresql_where=present,
            sqlite_where=present,
        )
    where = sa.text("due_at IS NOT NULL")
    op.create_index(
        "ix_amendments_due_at",
        "amendments",
        ["due_at"],
        unique=False,
        postgresql_where=where,
        sqlite_where=where,
    )
