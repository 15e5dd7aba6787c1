"""The figures of a full run in docs/benchmarks.md, between two marks, written from the files of the run or of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.results import together, told
from bench.table import figure, markdown

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN = "<!-- figures: written by `python -m bench page` -->"
END = "<!-- end of figures -->"


def publish(runs: Sequence[Mapping[str, Any]], page: Path = PAGE) -> None:
    """Put the figures of these runs into the page, in place of those that are there. Raises ValueError if the marks are
    missing, or the runs are no parts of one."""
    page.write_text(replaced(page.read_text(), section(runs)))


def replaced(text: str, figures: str) -> str:
    """A page's text with other figures between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for figures: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{figures.strip()}\n\n{END}{after}"


def section(runs: Sequence[Mapping[str, Any]]) -> str:
    """Runs in Markdown: on what they were made, and their table. Raises ValueError if they are no parts of one."""
    whole = together(runs)
    machine, versions = whole["machine"], whole["versions"]
    peers = ", ".join(f"{name} {number}" for name, number in versions["peers"].items())
    ours = ", ".join(f"{name} {number}" for name, number in versions["ours"].items())
    kind = "small sizes, to see that everything works: not for comparing" if whole["quick"] else "full sizes"
    place = f"{machine['cpus']} × {machine['model'] or 'CPU'}, {figure(machine['memory_gb'], 'GB')} of memory"
    parts = [
        f"{place}, Python {machine['python']}; {kind}.",
        f"Ours: {ours}. Servers: {', '.join(versions['servers'].values()) or 'none'}. Peers: {peers or 'none'}.",
        "\n".join(f"- {_made(run)}" for run in runs),
        markdown(told(whole), whole["limits"]),
    ]
    failed = [f"- {trial['name']}: {name} failed: {_first(texts)}" for trial in whole["trials"] for name, texts in trial["failures"].items()]  # fmt: skip
    if failed:
        parts.append("\n".join(["What failed:", "", *failed]))
    return "\n\n".join(parts)


def _made(run: Mapping[str, Any]) -> str:
    """What one of the runs measured, when, and beside what else."""
    begin, end = (run["load"][when][0] for when in ("begin", "end"))
    return f"{', '.join(run['only'])}: {run['at'][:10]}, at {run['commit']}; load {begin:.1f} at the begin, {end:.1f} at the end."


def _first(texts: list[str]) -> str:
    return " ".join(texts[0].split())[:200]
