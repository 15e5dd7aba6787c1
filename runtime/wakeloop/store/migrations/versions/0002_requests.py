"""Requests to several people, approvals, their audit, grants, and the keys and tokens of programs outside."""

import json

import sqlalchemy as sa
from alembic import op

from wakeloop.store.schema import Instant

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    old = _open_questions()
    op.drop_table("requests")
    op.create_table(
        "requests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("session_id", _SERIAL, nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=True),
        sa.Column("args", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("due_at", Instant(), nullable=True),
        sa.Column("asked_at", Instant(), nullable=True),
        sa.Column("reminders", sa.Integer(), server_default="0", nullable=False),
        sa.Column("escalations", sa.Integer(), server_default="0", nullable=False),
        sa.Column("settled_at", Instant(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("maker", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("callback", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    _index("requests", "ix_requests_open", ["id"], "status = 'open'")
    _index("requests", "ix_requests_due_at", ["due_at"], "due_at IS NOT NULL")
    op.create_index("ix_requests_run_id", "requests", ["run_id"], unique=False)
    op.create_table(
        "recipients",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("contact", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("via", sa.Text(), nullable=True),
        sa.Column("added_at", Instant(), nullable=False),
        sa.Column("code_told", sa.Boolean(), nullable=False),
        sa.Column("draft", sa.Text(), nullable=True),
        sa.Column("vote", sa.Text(), nullable=True),
        sa.Column("unreachable", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name=op.f("fk_recipients_request_id")),
        sa.PrimaryKeyConstraint("request_id", "contact", name=op.f("pk_recipients")),
    )
    _index("recipients", "ix_recipients_open", ["contact", "code"], "open", unique=True)
    op.create_index("ix_recipients_contact", "recipients", ["contact", "request_id"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("contact", sa.Text(), nullable=True),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=True),
        sa.Column("auth", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_request_id", "audit", ["request_id", "id"], unique=False)
    _append_only("audit")
    op.create_table(
        "grants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("contact", sa.Text(), nullable=False),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=False),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
    )
    _index("grants", "ix_grants_active", ["action", "origin"], "revoked_at IS NULL")
    op.create_table(
        "tokens",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("name", name=op.f("uq_tokens_name")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )
    op.create_table(
        "keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_keys")),
    )
    _restore(old)


def _index(table: str, name: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, postgresql_where=where, sqlite_where=where)


def _append_only(table: str) -> None:
    """Have the database itself refuse to change or remove a line of the record."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION wakeloop_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the table % is append-only', TG_TABLE_NAME; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION wakeloop_append_only()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION wakeloop_append_only()"
        )
        return
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) "
        f"BEGIN SELECT RAISE(ABORT, 'the table {table} is append-only'); END"
    )
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'the table {table} is append-only'); END"
        )


# ---------------------------------------------------------------------- what was there


def _open_questions() -> list[dict[str, object]]:
    was = sa.table(
        "requests",
        *(
            sa.column(name, kind)  # type: ignore[arg-type]
            for name, kind in {
                "id": sa.Uuid(), "session_id": sa.BigInteger(), "run_id": sa.Uuid(), "contact": sa.Text(),
                "code": sa.Text(), "text": sa.Text(), "options": sa.Text(), "status": sa.Text(), "created_at": Instant(),
                "expires_at": Instant(), "settled_at": Instant(), "answer": sa.Text(), "by": sa.Text(),
            }.items()
        ),
    )  # fmt: skip
    return [dict(row._mapping) for row in op.get_bind().execute(sa.select(was))]


def _restore(old: list[dict[str, object]]) -> None:
    """Questions as they were, each of its one person; those that are open can be answered, and expire."""
    if not old:
        return
    metadata = sa.MetaData()
    connection = op.get_bind()
    requests = sa.Table(
        "requests", metadata, sa.Column("id", sa.Uuid()), sa.Column("session_id", sa.BigInteger()),
        sa.Column("run_id", sa.Uuid()), sa.Column("kind", sa.Text()), sa.Column("status", sa.Text()),
        sa.Column("spec", sa.Text()), sa.Column("created_at", Instant()), sa.Column("expires_at", Instant()),
        sa.Column("due_at", Instant()), sa.Column("asked_at", Instant()), sa.Column("settled_at", Instant()),
        sa.Column("outcome", sa.Text()),
    )  # fmt: skip
    recipients = sa.Table(
        "recipients", metadata, sa.Column("request_id", sa.Uuid()), sa.Column("contact", sa.Text()),
        sa.Column("code", sa.Text()), sa.Column("open", sa.Boolean()), sa.Column("added_at", Instant()),
        sa.Column("code_told", sa.Boolean()),
    )  # fmt: skip
    for row in old:
        is_open = row["status"] == "open"
        options = json.loads(str(row["options"])) if row["options"] else []
        spec = {"kind": "question", "to": [row["contact"]], "text": row["text"], "options": options}
        if options:
            spec["form"] = json.dumps({"schema": None, "options": options})
        at = row["settled_at"]
        outcome = {
            "status": row["status"], "text": row["answer"] or "", "value": row["answer"], "by": row["by"],
            "at": at.isoformat() if at is not None else None,  # type: ignore[attr-defined]
        }  # fmt: skip
        connection.execute(
            requests.insert().values(
                id=row["id"], session_id=row["session_id"], run_id=row["run_id"], kind="question",
                status=row["status"], spec=json.dumps(spec), created_at=row["created_at"],
                expires_at=row["expires_at"], due_at=row["expires_at"] if is_open else None,
                asked_at=row["created_at"], settled_at=at,
                outcome=None if is_open or at is None else json.dumps(outcome),
            )
        )  # fmt: skip
        connection.execute(
            recipients.insert().values(
                request_id=row["id"], contact=row["contact"], code=row["code"], open=is_open,
                added_at=row["created_at"], code_told=True,
            )
        )  # fmt: skip
