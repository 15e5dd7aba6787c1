"""Lists as parameters: what is written as an array or as JSON is read back by the database as it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers import Postgres

from wakeloop.store.batches import Listed, among
from wakeloop.store.database import Database
from wakeloop.store.schema import Instant, keys

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
ODD = [
    "NULL",
    "null",
    "",
    '"',
    "\\",
    '\\"',
    "{a,b}",
    "{}",
    ",",
    " a ",
    "\n",
    "\t",
    "é",
    "😀",
    "';--",
    "\\x00",
    "%s %(a)s",
]
INSTANTS = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.just(UTC))  # noqa: DTZ001
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": (sa.Text(), TEXTS | st.sampled_from(ODD)),
    "number": (sa.BigInteger(), st.integers(-(2**63), 2**63 - 1)),
    "small number": (sa.SmallInteger(), st.integers(-(2**15), 2**15 - 1)),
    "truth": (sa.Boolean(), st.booleans()),
    "id": (sa.Uuid(as_uuid=True), st.uuids()),
    "instant": (Instant(), INSTANTS),
    "bytes": (sa.LargeBinary(), st.binary()),
}


@pytest.fixture(scope="module")
def postgres(postgres_server: Postgres) -> Iterator[Database]:
    database = Database(postgres_server.new_database())
    yield database
    database.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_is_what_was_written(postgres: Database, kind: str) -> None:
    """PostgreSQL reads each element as the value that it was, whatever stands in it, and None as NULL."""
    item, values = KINDS[kind]
    echo = sa.func.unnest(sa.bindparam("values", type_=Listed(item)), type_=item)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(values | st.none(), max_size=6))
    def check(written: list[Any]) -> None:
        with postgres.read() as connection:
            read = list(connection.execute(sa.select(echo), {"values": written}).scalars())
        assert read == written

    check()


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_a_row_is_found_by_any_text(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A name with quotes, braces or backslashes in it is found in a list, and only that."""
    database: Database = (
        request.getfixturevalue("postgres") if kind == "postgres" else Database(f"sqlite:///{tmp_path}/s.db")
    )
    database.upgrade()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    query = sa.select(keys.c.name).where(among(keys.c.name, "names"))
    with database.begin() as connection:
        rows = [
            {"name": name, "value": "1", "created_at": now}
            for text in ODD
            for name in (text, f"other {text}")
        ]
        connection.execute(sa.insert(keys), rows)
        found = {text: list(connection.execute(query, {"names": [text, "nobody"]}).scalars()) for text in ODD}
    database.close()

    assert found == {text: [text] for text in ODD}


def test_an_id_is_found_in_a_list(postgres: Database) -> None:
    """A parameter that is a list of ids keeps its type: no id is compared as a text."""
    ids = [UUID(int=1), UUID(int=2**127 + 5)]
    query = sa.select(
        sa.literal(ids[1], type_=sa.Uuid()) == sa.any_(sa.bindparam("ids", type_=Listed(sa.Uuid())))
    )
    with postgres.read() as connection:
        assert connection.execute(query, {"ids": ids}).scalar_one() is True
