"""A run's lines in words: for people on the terminal, and for the page of the documentation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.trial import Bar
from bench.verdicts import Change, Told

HEAD = ("work", "wakeloop", "peer", "ratio", "bar", "rounds", "machine's limit")
MARKS = {True: "✓", False: "✗", None: ""}
STYLES = {True: "green", False: "red", None: ""}


def cells(line: Told, limits: Mapping[str, Any]) -> tuple[str, ...]:
    """A line as text, in the order of HEAD."""
    return (
        line.work,
        figure(line.ours, line.unit),
        "–" if line.peer is None else f"{figure(line.peer, line.unit)} {line.peer_name}",
        "–" if line.ratio is None else times(line.ratio),
        "–"
        if line.bar is None
        else f"{bar_text(line.bar, line.unit, line.ratios)} {MARKS[line.met]}".rstrip(),
        str(line.rounds),
        limit_text(line.limit, limits),
    )


def show(console: Console, lines: Sequence[Told], limits: Mapping[str, Any]) -> None:
    """The table on a terminal."""
    table = Table(*HEAD, box=None, pad_edge=False, header_style="bold", expand=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    before = ""
    for line in lines:
        family = line.trial.partition(".")[0]
        if before and family != before:
            table.add_section()
            table.add_row()
        before = family
        *plain, bar, rounds, limit = cells(line, limits)
        table.add_row(*plain, f"[{STYLES[line.met]}]{bar}[/]" if STYLES[line.met] else bar, rounds, limit)
    console.print(table)


def show_changes(console: Console, changes: Sequence[Change], compared: bool) -> None:
    """What got worse or better since the last run of the same."""
    if not compared:
        console.print("nothing to compare with: no earlier run of these sizes in bench/results/")
        return
    worse = [change for change in changes if change.is_worse]
    better = [change for change in changes if change.is_better]
    for kind, style, found in (("worse", "red", worse), ("better", "green", better)):
        for change in found:
            console.print(f"[{style}]{kind}[/]  {change_text(change)}")
    same = len(changes) - len(worse) - len(better)
    console.print(f"{len(changes)} figures compared with the last run: {len(worse)} worse, {len(better)} better, {same} as before")  # fmt: skip


def change_text(change: Change) -> str:
    """A change in words."""
    return (
        f"{change.work}: {change.share:+.0%}, {change.basis} (the rounds allow {change.tolerance:.0%}; "
        f"{number(change.before)} before, {number(change.now)} now)"
    )


def markdown(lines: Sequence[Told], limits: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    rows = [HEAD, ("---", "--:", "--:", "--:", "---", "--:", "---"), *(cells(line, limits) for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def limit_text(name: str | None, limits: Mapping[str, Any]) -> str:
    if name is None or name not in limits:
        return "–"
    limit = limits[name]
    return f"{figure(limit['median'], limit['unit'])} {limit['what']}"


def bar_text(bar: Bar, unit: str, ratios: Mapping[str, float] | None = None) -> str:
    """A bar in words, and how many times better we are than each peer that it names."""
    parts = [
        *([f"{number(bar.times)}×"] if bar.times is not None else []),
        *(_times_of(name, wanted, ratios or {}) for name, wanted in (bar.times_of or {}).items()),
        *([f"≤ {figure(bar.at_most, unit)}"] if bar.at_most is not None else []),
        *([f"≥ {figure(bar.at_least, unit)}"] if bar.at_least is not None else []),
    ]
    return ", ".join(parts)


def _times_of(name: str, wanted: float, ratios: Mapping[str, float]) -> str:
    seen = min((ratio for peer, ratio in ratios.items() if peer.startswith(name)), default=None)
    return f"{number(wanted)}× {name}" + ("" if seen is None else f" ({times(seen)})")


def times(ratio: float) -> str:
    return f"{number(ratio)}×"


def figure(value: float, unit: str) -> str:
    """A value with its unit, as short as it can be read: a unit that begins with / stands right behind."""
    if unit == "bytes":
        for name, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e4)):
            if abs(value) >= size:
                return f"{number(value / (1e3 if name == 'KB' else size))} {name}"
    text = number(value)
    return f"{text}{unit}" if unit.startswith("/") or not unit else f"{text} {unit}"


def number(value: float) -> str:
    """Three digits that count, with commas."""
    if value == 0 or math.isinf(value) or math.isnan(value):
        return f"{value:g}"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{round(value, places):,.{places}f}"
    return (
        text.rstrip("0").rstrip(".")
        if "." in text
        else f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.0f}"
    )
