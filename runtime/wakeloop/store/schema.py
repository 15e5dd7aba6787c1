"""The tables. Every index answers a query of this package, and every unique key is a promise not to do something twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An aware datetime to the microsecond: `timestamptz` on PostgreSQL, microseconds since 1970 on SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(
            TIMESTAMP(timezone=True) if dialect.name == "postgresql" else BigInteger()
        )

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if dialect.name == "postgresql":
            instant: datetime = value.astimezone(UTC)
            return instant
        microseconds: int = value
        return _EPOCH + microseconds * _MICROSECOND


Serial = BigInteger().with_variant(Integer(), "sqlite")
Id = Uuid(as_uuid=True)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("agent", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("state", Text),
    Column("created_at", Instant, nullable=False),
    # The lease. `token` fences: it grows with every claim, and a commit with an older one is refused. `version` grows
    # with every commit, so that a commit whose acknowledgement was lost is recognised when it is tried again.
    Column("owner", Text),
    Column("token", BigInteger, nullable=False, server_default="0"),
    Column("version", BigInteger, nullable=False, server_default="0"),
    # When a worker must look at this session: what is due next, the lease's end while it is held, or the time of the
    # next dispatch after one. `dispatches` counts those since the last claim; `takeovers` the leases that ran out.
    Column("due_at", Instant),
    Column("dispatches", Integer, nullable=False, server_default="0"),
    Column("takeovers", Integer, nullable=False, server_default="0"),
    Column("arrivals", BigInteger, nullable=False, server_default="0"),
    # Up to which position its conversation was deleted: no position is given twice.
    Column("pruned_to", Integer),
    UniqueConstraint("agent", "key"),
    Index(
        "ix_sessions_due_at",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL"),
        sqlite_where=text("due_at IS NOT NULL"),
    ),
)

# A run has `ended_at` as long as it is not open, and `failure` while it is parked. Indexes and their conditions name
# these and never `status`: what changes while a run is open is then in no index, and PostgreSQL can write it without
# touching one.
OPEN_RUNS = text("ended_at IS NULL")
ENDED_RUNS = text("ended_at IS NOT NULL")
FAILED_RUNS = text("failure IS NOT NULL")
PARKED_RUNS = text("failure IS NOT NULL AND status IN ('failed', 'stuck')")
OVER_RUNS = text("ended_at IS NOT NULL AND status IN ('completed', 'cancelled')")
OCCURRENCE = text("schedule_id IS NOT NULL")

runs = Table(
    "runs",
    metadata,
    Column("id", Id, primary_key=True),
    Column("session_id", Serial, ForeignKey("sessions.id"), nullable=False),
    Column("status", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("schedule_id", Serial),
    Column("nominal", Instant),
    Column("skipped", Text),
    Column("skip_count", Integer),
    Column("parent_id", Id),
    Column("parent_session_id", Serial),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("ended_at", Instant),
    Column("applied", Integer, nullable=False, server_default="-1"),
    Column("waits", Text),
    Column("wake_at", Instant),
    Column("cancelling", Boolean, nullable=False, server_default=text("false")),
    Column("result", Text),
    Column("failure", Text),
    # The traces in which it began and goes on: see `wakeloop.run_traces`.
    Column("trace", Text),
    Index(
        "ix_runs_occurrence",
        "schedule_id",
        "nominal",
        unique=True,
        postgresql_where=OCCURRENCE,
        sqlite_where=OCCURRENCE,
    ),
    Index("ix_runs_session_id", "session_id", "ended_at"),
    Index("ix_runs_ended_at", "ended_at", "id", postgresql_where=ENDED_RUNS, sqlite_where=ENDED_RUNS),
    Index("ix_runs_failed", "session_id", postgresql_where=FAILED_RUNS, sqlite_where=FAILED_RUNS),
)

journal = Table(
    "journal",
    metadata,
    Column("run_id", Id, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("op", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("ok", Boolean, nullable=False),
    Column("value", Text),
    Column("at", Instant, nullable=False),
)

conversation = Table(
    "conversation",
    metadata,
    # What a session said and heard, and what it and its models noted, in that order. Of a message of `messages` only its
    # id stands here, as `source`; of a question or an answer the words too, and `source` is the request.
    Column("session_id", Serial, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("role", Text, nullable=False),
    Column("contact", Text),
    Column("content", Text),
    Column("source", Id),
)

PENDING_EVENTS = text("consumed_at IS NULL")

inbox = Table(
    "inbox",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("session_id", Serial, ForeignKey("sessions.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("target", Id),
    Column("dedupe", Text, nullable=False),
    Column("body", Text),
    Column("arrived_at", Instant, nullable=False),
    Column("consumed_at", Instant),
    # Here and below: the trace in which it was recorded, as `wakeloop.tracing` carries it.
    Column("trace", Text),
    UniqueConstraint("session_id", "dedupe"),
    Index(
        "ix_inbox_pending", "session_id", "id", postgresql_where=PENDING_EVENTS, sqlite_where=PENDING_EVENTS
    ),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("session_id", Serial, ForeignKey("sessions.id"), nullable=False),
    Column("agent", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("own", Boolean, nullable=False),
    Column("spec", Text, nullable=False),
    Column("anchor", Instant, nullable=False),
    Column("nominal", Instant),
    Column("due_at", Instant),
    UniqueConstraint("session_id", "ref"),
    Index(
        "ix_schedules_due_at",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL"),
        sqlite_where=text("due_at IS NOT NULL"),
    ),
)

INBOUND_MESSAGE = text("inbound")
MESSAGE_OF_RUN = text("run_id IS NOT NULL")
MESSAGE_OF_REQUEST = text("request_id IS NOT NULL")

messages = Table(
    "messages",
    metadata,
    Column("id", Id, primary_key=True),
    Column("session_id", Serial),
    Column("run_id", Id),
    Column("request_id", Id),
    Column("inbound", Boolean, nullable=False),
    Column("contact", Text),
    Column("channel", Text, nullable=False),
    Column("via", Text),
    Column("subject", Text),
    Column("text", Text, nullable=False),
    Column("attachments", Text),
    Column("at", Instant, nullable=False),
    # An urgent message goes in quiet hours too; an interactive one answers what a person wrote, so it goes at once.
    Column("urgent", Boolean, nullable=False, server_default=text("false")),
    Column("interactive", Boolean, nullable=False, server_default=text("false")),
    Index("ix_messages_session_id", "session_id", "id"),
    Index("ix_messages_contact", "contact", "id"),
    Index("ix_messages_run_id", "run_id", postgresql_where=MESSAGE_OF_RUN, sqlite_where=MESSAGE_OF_RUN),
    Index(
        "ix_messages_request_id",
        "request_id",
        postgresql_where=MESSAGE_OF_REQUEST,
        sqlite_where=MESSAGE_OF_REQUEST,
    ),
    Index(
        "ix_messages_inbound", "contact", "at", postgresql_where=INBOUND_MESSAGE, sqlite_where=INBOUND_MESSAGE
    ),
)

FAILED_DELIVERY = text("deliveries.status IN ('failed', 'unknown')")
_FAILED = text("status IN ('failed', 'unknown')")
BUNDLED_DELIVERY = text("bundle IS NOT NULL")
WAITING_DELIVERY = text("due_at IS NOT NULL")

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("message_id", Id, ForeignKey("messages.id"), nullable=False),
    Column("contact", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("tries", SmallInteger, nullable=False, server_default="0"),
    Column("dispatches", SmallInteger, nullable=False, server_default="0"),
    Column("due_at", Instant),
    Column("claimed_at", Instant),
    Column("owner", Text),
    Column("provider_id", Text),
    Column("error", Text),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    # Several deliveries that go as one message of the provider's: the id of the first, which alone is claimed, sent
    # and reported on; what becomes of it becomes of all.
    Column("bundle", Id),
    # Why one that nobody has tried yet is put off until `due_at`: `quiet`, `cap` or `burst`.
    Column("held", Text),
    Column("trace", Text),
    UniqueConstraint("message_id", "channel"),
    UniqueConstraint("channel", "provider_id"),
    Index("ix_deliveries_bundle", "bundle", postgresql_where=BUNDLED_DELIVERY, sqlite_where=BUNDLED_DELIVERY),
    Index(
        "ix_deliveries_waiting", "contact", postgresql_where=WAITING_DELIVERY, sqlite_where=WAITING_DELIVERY
    ),
    Index("ix_deliveries_claimed_at", "contact", "claimed_at"),
    Index("ix_deliveries_failed", "message_id", postgresql_where=_FAILED, sqlite_where=_FAILED),
    Index(
        "ix_deliveries_due_at",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL"),
        sqlite_where=text("due_at IS NOT NULL"),
    ),
)

KEPT_RAW = text("raw <> ''")

received = Table(
    "received",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("channel", Text, nullable=False),
    Column("provider_id", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("contact", Text),
    Column("message_id", Id),
    Column("outcome", Text, nullable=False),
    Column("raw", Text, nullable=False),
    Column("at", Instant, nullable=False),
    # In the provider's ids: the thread that it stands in, and the message that it answers.
    Column("thread", Text),
    Column("reply_to", Text),
    UniqueConstraint("channel", "provider_id"),
    Index("ix_received_message_id", "message_id"),
    Index("ix_received_address", "channel", "address", "at"),
    Index("ix_received_raw", "at", "id", postgresql_where=KEPT_RAW, sqlite_where=KEPT_RAW),
)

OPEN_REQUEST = text("status = 'open'")
DUE_REQUEST = text("due_at IS NOT NULL")
OVER_REQUEST = text("run_id IS NULL AND settled_at IS NOT NULL")

requests = Table(
    "requests",
    metadata,
    Column("id", Id, primary_key=True),
    # Of a run, or of a program outside (both None).
    Column("session_id", Serial),
    Column("run_id", Id),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    # What is asked of whom, and on what timetable: a RequestSpec as JSON. `args`: an approval's arguments as they are
    # now, after edits; `digest` names the call that an approval would cover.
    Column("spec", Text, nullable=False),
    Column("action", Text),
    Column("args", Text),
    Column("digest", Text),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    # When the desk must look at it: to ask, remind, escalate, let it expire, or tell of its end. `asked_at` is when
    # it was first asked, which the timetable counts from; `reminders` and `escalations` are how many went out.
    Column("due_at", Instant),
    Column("asked_at", Instant),
    Column("reminders", Integer, nullable=False, server_default="0"),
    Column("escalations", Integer, nullable=False, server_default="0"),
    Column("settled_at", Instant),
    Column("outcome", Text),
    # Of a program's request: who made it, what is given back to it as it was, and where its end is told.
    Column("maker", Text),
    Column("state", Text),
    Column("callback", Text),
    Column("trace", Text),
    Index("ix_requests_open", "id", postgresql_where=OPEN_REQUEST, sqlite_where=OPEN_REQUEST),
    Index("ix_requests_due_at", "due_at", postgresql_where=DUE_REQUEST, sqlite_where=DUE_REQUEST),
    Index("ix_requests_run_id", "run_id"),
    Index("ix_requests_over", "settled_at", "id", postgresql_where=OVER_REQUEST, sqlite_where=OVER_REQUEST),
)

OPEN_RECIPIENT = text("recipients.open")
_OPEN = text("open")

recipients = Table(
    "recipients",
    metadata,
    Column("request_id", Id, ForeignKey("requests.id"), primary_key=True),
    Column("contact", Text, primary_key=True),
    Column("code", Text, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("via", Text),
    Column("added_at", Instant, nullable=False),
    # Whether they were told the code; what they answered so far in a dialogue (JSON); the digest that they approved.
    Column("code_told", Boolean, nullable=False),
    Column("draft", Text),
    Column("vote", Text),
    Column("unreachable", Boolean, nullable=False, server_default=text("false")),
    # Two open requests of a person never have one code; where this is their only one, the code need not be said.
    Index("ix_recipients_open", "contact", "code", unique=True, postgresql_where=_OPEN, sqlite_where=_OPEN),
    Index("ix_recipients_contact", "contact", "request_id"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("request_id", Id, nullable=False),
    Column("at", Instant, nullable=False),
    Column("contact", Text),
    Column("act", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("channel", Text),
    Column("auth", Text),
    Column("digest", Text),
    Column("comment", Text),
    Index("ix_audit_request_id", "request_id", "id"),
)

ACTIVE_GRANT = text("revoked_at IS NULL")

grants = Table(
    "grants",
    metadata,
    Column("id", Id, primary_key=True),
    Column("action", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("contact", Text, nullable=False),
    Column("limits", Text, nullable=False),
    Column("request_id", Id, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("revoked_at", Instant),
    Column("revoked_by", Text),
    Index("ix_grants_active", "action", "origin", postgresql_where=ACTIVE_GRANT, sqlite_where=ACTIVE_GRANT),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("revoked_at", Instant),
    UniqueConstraint("name"),
    UniqueConstraint("hash"),
)

keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
)

receivers = Table(
    "receivers",
    metadata,
    Column("run_id", Id, primary_key=True),
    Column("op", Integer, primary_key=True, autoincrement=False),
    Column("session_id", Serial, nullable=False),
    Column("contact", Text),
    Column("signal", Text),
    Index("ix_receivers_contact", "contact"),
    Index(
        "ix_receivers_signal",
        "signal",
        postgresql_where=text("signal IS NOT NULL"),
        sqlite_where=text("signal IS NOT NULL"),
    ),
)

opt_outs = Table(
    "opt_outs",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("at", Instant, nullable=False),
)

verifications = Table(
    "verifications",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    # The code that was sent last, salted and hashed; none once it was returned, or is void.
    Column("salt", Text, nullable=False),
    Column("code", Text),
    Column("sent_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("wrong_tries", SmallInteger, nullable=False, server_default="0"),
    Column("verified_at", Instant),
)

listeners = Table(
    "listeners",
    metadata,
    Column("channel", Text, primary_key=True),
    # Which process fetches this channel's messages, until when, and how far it has come, in the channel's own words.
    Column("owner", Text),
    Column("until", Instant),
    Column("cursor", Text),
)

files = Table(
    "files",
    metadata,
    Column("id", Id, primary_key=True),
    Column("message_id", Id, nullable=False),
    Column("name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Index("ix_files_message_id", "message_id"),
)

amendments = Table(
    "amendments",
    metadata,
    # What stands in place of a message about a request that has ended, where the channel can change what it has sent.
    # It is done again until it has worked, or was given up: `due_at` is then empty.
    Column("delivery_id", Id, ForeignKey("deliveries.id"), primary_key=True),
    Column("text", Text, nullable=False),
    Column("due_at", Instant),
    Column("tries", SmallInteger, nullable=False, server_default="0"),
    Index(
        "ix_amendments_due_at",
        "due_at",
        postgresql_where=text("due_at IS NOT NULL"),
        sqlite_where=text("due_at IS NOT NULL"),
    ),
)

chores = Table(
    "chores",
    metadata,
    # Work beside the turns that one process does for all, now and then: who does it, and before when nobody else begins.
    Column("name", Text, primary_key=True),
    Column("owner", Text),
    Column("until", Instant),
)

UNFINISHED_ERASURE = text("done_at IS NULL")

erasures = Table(
    "erasures",
    metadata,
    # The contacts that are to be forgotten, as far as they were known at `asked_at`; done once nothing open is left.
    Column("contact", Text, primary_key=True),
    Column("asked_at", Instant, nullable=False),
    Column("done_at", Instant),
    Index(
        "ix_erasures_unfinished",
        "asked_at",
        postgresql_where=UNFINISHED_ERASURE,
        sqlite_where=UNFINISHED_ERASURE,
    ),
)
