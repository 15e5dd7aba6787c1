"""What pages read from the store, on both databases: the same facts, found by an index however much there is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from tests.servers import Postgres

from wakeloop.asking import RequestSpec
from wakeloop.clock import SystemClock
from wakeloop.store import received, requests, timeline
from wakeloop.store.database import Database

NOW = datetime(2026, 11, 2, 14, 0, tzinfo=UTC)
IDS = SystemClock()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Database]:
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        url = server.new_database()
    else:
        url = f"sqlite:///{tmp_path / 'store.db'}"
    made = Database(url)
    made.upgrade()
    yield made
    made.close()


def ask(connection: sa.Connection, *people: str) -> Any:
    """An approval that these people were asked."""
    spec = RequestSpec(kind="approval", to=people, text="Pay?", action="pay", args={"amount": 1})
    id = IDS.new_id()
    requests.open_requests(
        connection, [(None, requests.new_request(spec, id=id, now=NOW, maker="tests"))], now=NOW
    )
    requests.add_recipients(connection, id, dict.fromkeys(people), now=NOW)
    return id


def say(connection: sa.Connection, contact: str, text: str) -> Any:
    """A message of a person."""
    id = IDS.new_id()
    received.add_message(
        connection, id=id, session_id=None, request_id=None, contact=contact, channel="web", text=text, attachments=None,
        now=NOW,
    )  # fmt: skip
    return id


def test_standing_changes_with_whatever_is_to_be_seen_and_with_nothing_else(database: Database) -> None:
    """Messages, requests, edits, votes of others and ends; each only for those whom it concerns."""
    people = ["alice", "bob", "nobody"]
    with database.begin() as connection:
        request = ask(connection, "alice", "bob")
    changes: list[tuple[Any, set[str]]] = [
        (lambda c: say(c, "alice", "hi"), {"alice"}),
        (lambda c: ask(c, "bob"), {"bob"}),
        (lambda c: requests.set_vote(c, request, "bob", "d1"), {"alice", "bob"}),
        (lambda c: requests.set_args(c, request, "{}", "{}", "d2"), {"alice", "bob"}),
        (lambda c: requests.note_told(c, [(request, "bob")]), set()),
        (lambda c: say(c, "carol", "hi"), set()),
        (lambda c: requests.settle_told(c, request, "denied", "{}", now=NOW), {"alice", "bob"}),
    ]
    for change, concerned in changes:
        with database.read() as connection:
            before = timeline.standing(connection, people)
        with database.begin() as connection:
            change(connection)
        with database.read() as connection:
            after = timeline.standing(connection, people)
        assert {contact for contact in people if before[contact] != after[contact]} == concerned
        assert after["nobody"] == ""


def test_a_message_that_is_seen_late_is_news_all_the_same(database: Database) -> None:
    """Ids of several processes may come out of order: one that is older than the newest is new, too."""
    early = IDS.new_id()
    with database.begin() as connection:
        say(connection, "alice", "later")
        before = timeline.standing(connection, ["alice"])
        received.add_message(
            connection, id=early, session_id=None, request_id=None, contact="alice", channel="web", text="early",
            attachments=None, now=NOW,
        )  # fmt: skip
        assert timeline.standing(connection, ["alice"]) != before


def test_messages_and_requests_come_newest_first_and_in_parts(database: Database) -> None:
    """Each message once; open requests apart from those that ended."""
    with database.begin() as connection:
        said = [say(connection, "alice", str(number)) for number in range(7)]
        open_one, ended = ask(connection, "alice"), ask(connection, "alice")
        requests.settle_told(connection, ended, "denied", "{}", now=NOW)

        first = timeline.messages_of(connection, "alice", limit=4)
        rest = timeline.messages_of(connection, "alice", before=first[-1].id, limit=4)

        assert [row.id for row in [*first, *rest]] == said[::-1]
        assert [row.id for row in timeline.open_asked(connection, "alice")] == [open_one]
        assert [row.id for row in timeline.ended_asked(connection, "alice", limit=5)] == [ended]
        assert timeline.one_asked(connection, "bob", open_one) is None
        assert set(timeline.requests_by_id(connection, [open_one, ended])) == {open_one, ended}


def test_a_thousand_open_pages_are_asked_about_in_few_statements(database: Database) -> None:
    """On PostgreSQL in three, each by an index; a page among many others costs what it costs alone."""
    people = [f"c{number}" for number in range(1000)]
    with database.begin() as connection:
        ask(connection, "c1", "c2")
        for contact in people[:200]:
            say(connection, contact, "hi")
    seen: list[str] = []
    with database.read() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *event: seen.append(event[2]))
        since = datetime.now(UTC)
        found = timeline.standing(connection, people)

    assert len(found) == 1000
    assert sum(map(bool, found.values())) == 200
    assert datetime.now(UTC) - since < timedelta(seconds=2)
    if database.is_postgres:
        assert len(seen) == 3
