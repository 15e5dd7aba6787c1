"""The tables of docs/daylight-saving.md, executed: the page cannot promise what the runtime does not do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from wakeloop.calendar import next_after
from wakeloop.triggers import Schedule, cron, every

PAGE = Path(__file__).parents[2] / "docs" / "daylight-saving.md"
JUST_BEFORE = timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One instant of a table: how the page writes it in local time and in UTC, and which columns fire."""

    local: str
    instant: datetime
    fires: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table: windows of consecutive rows, with everything that fires within each."""

    title: str
    zone: str
    columns: tuple[str, ...]
    windows: tuple[tuple[Row, ...], ...]

    def schedule(self, column: str) -> Schedule:
        """The schedule that a column's heading names."""
        if hours := re.fullmatch(r"every (\d+)h", column):
            return every(timedelta(hours=int(hours[1])))
        heading = re.fullmatch(r"`(.+)`((?: \w+=\w+)*)", column)
        assert heading is not None
        options: dict[str, Any] = dict(option.split("=") for option in heading[2].split())
        return cron(heading[1], tz=self.zone, **options)


def tables() -> Iterator[Table]:
    """The page's tables of fire times, in its order."""
    for section in re.split(r"^#+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        title = section.splitlines()[0] if section else ""
        lines = [line[1:-1].split("|") for line in section.splitlines() if line.startswith("|")]
        if "●" not in section or not lines:
            continue
        cells = [[cell.strip() for cell in line] for line in lines]
        windows: list[list[Row]] = [[]]
        for local, *rest in cells[2:]:
            if local == "⋮":
                windows.append([])
            else:
                marks = tuple(cell == "●" for cell in rest[1:])
                windows[-1].append(Row(local=local, instant=datetime.fromisoformat(rest[0]), fires=marks))
        yield Table(
            title=title,
            zone=title.split(",")[0],
            columns=tuple(cells[0][2:]),
            windows=tuple(map(tuple, windows)),
        )


TABLES = list(tables())
COLUMNS = [
    pytest.param(table, index, id=f"{table.title}: {column}")
    for table in TABLES
    for index, column in enumerate(table.columns)
]


@pytest.mark.parametrize(("table", "index"), COLUMNS)
def test_a_schedule_fires_exactly_when_the_page_says(table: Table, index: int) -> None:
    """A schedule fires at each instant that the page marks, and at no other within the page's windows."""
    schedule = table.schedule(table.columns[index])
    anchor = table.windows[0][0].instant - timedelta(hours=24)

    fired = []
    for window in table.windows:
        after = window[0].instant - JUST_BEFORE
        while (found := next_after(schedule, after, anchor=anchor)) and found <= window[-1].instant:
            fired.append(found)
            after = found

    assert [row.instant for window in table.windows for row in window if row.fires[index]] == fired


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_the_page_gives_the_same_instant_twice(table: Table) -> None:
    """The local time of every row is its UTC time in the table's zone, and rows are in order."""
    rows = [row for window in table.windows for row in window]

    for row in rows:
        assert row.instant.astimezone(ZoneInfo(table.zone)).isoformat(" ", "minutes") == row.local
        assert row.instant.tzinfo is not None
        assert len(row.fires) == len(table.columns)
    assert all(earlier.instant < later.instant for earlier, later in pairwise(rows))


def test_the_page_covers_every_zone_and_both_of_its_changes() -> None:
    """The contract names five schedules over both changes of a year in four zones, and every option."""
    contract = [table for table in TABLES if "each" not in table.title]
    options = " ".join(column for table in TABLES for column in table.columns if "=" in column)

    for zone in ("America/New_York", "Europe/London", "Australia/Lord_Howe", "Pacific/Apia"):
        mine = [table for table in contract if table.zone == zone]
        shifts = {shift for table in mine for shift in offset_changes(table)}
        assert any(shift > timedelta(0) for shift in shifts)
        assert any(shift < timedelta(0) for shift in shifts)
        for table in mine:
            expected = ("`30 1 * * *`", "`30 2 * * *`", "`0 * * * *`", "`*/15 * * * *`", "every 24h")
            assert expected == table.columns
    assert {"gap=shift", "gap=skip", "fold=first", "fold=second", "fold=both"} <= set(options.split())
    assert timedelta(days=1) in offset_changes(next(t for t in contract if "left out" in t.title))


def offset_changes(table: Table) -> list[timedelta]:
    """By how much the wall clock jumps within the table's windows."""
    zone = ZoneInfo(table.zone)
    rows = [row for window in table.windows for row in window]
    walls = [
        row.instant.astimezone(zone).replace(tzinfo=None) - row.instant.replace(tzinfo=None) for row in rows
    ]
    return [later - earlier for earlier, later in pairwise(walls) if earlier != later]


def test_the_code_on_the_page_runs() -> None:
    """Every Python block of the page can be pasted and run."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)

    assert blocks
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), {})


def test_utc_knows_no_daylight_saving() -> None:
    """In UTC a daily schedule fires 24 hours apart all year round, for every gap and fold."""
    schedules = [cron("30 2 * * *"), cron("30 2 * * *", gap="skip"), cron("30 2 * * *", fold="both")]

    for schedule in schedules:
        at = datetime(2026, 1, 1, 2, 30, tzinfo=UTC)
        for _ in range(365):
            following = next_after(schedule, at, anchor=at)
            assert at + timedelta(days=1) == following
            at += timedelta(days=1)
