"""The tables as the code knows them, and what the rules of the house say about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from wakeloop.store.schema import Instant, metadata

DIALECTS = (sqlite.dialect(), postgresql.dialect())


def test_every_instant_knows_its_zone() -> None:
    """Every column that holds a time is an Instant: no column holds one without a zone."""
    columns = [column for table in metadata.sorted_tables for column in table.columns]

    naive = [str(column) for column in columns if isinstance(column.type, sa.DateTime | sa.Date | sa.Time)]

    assert naive == []
    assert {column.name for column in columns if isinstance(column.type, Instant)} >= {
        "due_at",
        "at",
        "created_at",
    }


def test_every_index_and_key_has_a_name() -> None:
    """Every index and constraint has a name of its own, so that a migration can drop it."""
    names = [index.name for table in metadata.sorted_tables for index in table.indexes]
    names += [
        constraint.name
        for table in metadata.sorted_tables
        for constraint in table.constraints
        if not isinstance(constraint, sa.CheckConstraint)
    ]

    assert None not in names
    assert len(names) == len(set(names))


def test_an_index_is_not_the_beginning_of_another() -> None:
    """No index without a condition only repeats the beginning of another index or key."""
    for table in metadata.sorted_tables:
        plain = [
            tuple(column.name for column in index.columns)
            for index in table.indexes
            if index.dialect_options["postgresql"]["where"] is None
        ]
        keys = [
            tuple(column.name for column in one.columns)
            for one in table.constraints
            if isinstance(one, sa.UniqueConstraint | sa.PrimaryKeyConstraint)
        ]
        for index in plain:
            others = [*keys, *(other for other in plain if other != index)]
            assert not any(other[: len(index)] == index for other in others), (table.name, index)


@given(st.integers(-2_000_000_000_000_000, 7_000_000_000_000_000), st.timezones())
def test_an_instant_is_stored_to_the_microsecond(microseconds: int, zone: tzinfo) -> None:
    """Any instant of any zone comes back from SQLite as the same instant, in UTC."""
    instant = Instant()
    moment = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).astimezone(zone)

    stored = instant.process_bind_param(moment, DIALECTS[0])
    back = instant.process_result_value(stored, DIALECTS[0])

    assert stored == microseconds
    assert back == moment.astimezone(UTC)
    assert back.utcoffset() == timedelta(0)


def test_nothing_is_no_instant() -> None:
    """A column without a value has none, in either database."""
    for dialect in DIALECTS:
        assert Instant().process_bind_param(None, dialect) is None
        assert Instant().process_result_value(None, dialect) is None
