"""The figures of a full run in docs/benchmarks.md, between two marks, written from the run's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.results import told
from bench.table import figure, markdown

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN = "<!-- figures: written by `python -m bench page` -->"
END = "<!-- end of figures -->"


def publish(result: Mapping[str, Any], page: Path = PAGE) -> None:
    """Put a run's figures into the page, in place of those that are there. Raises ValueError if the marks are missing."""
    page.write_text(replaced(page.read_text(), section(result)))


def replaced(text: str, figures: str) -> str:
    """A page's text with other figures between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for figures: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{figures.strip()}\n\n{END}{after}"


def section(result: Mapping[str, Any]) -> str:
    """A run in Markdown: on what it was made, and its table."""
    machine, versions = result["machine"], result["versions"]
    lines = told(dict(result))
    peers = ", ".join(f"{name} {number}" for name, number in versions["peers"].items())
    ours = ", ".join(f"{name} {number}" for name, number in versions["ours"].items())
    kind = "small sizes, to see that everything works: not for comparing" if result["quick"] else "full sizes"
    kind += f"; {result['rounds']} rounds"
    loads = f"{result['load']['begin'][0]:.1f} at the begin, {result['load']['end'][0]:.1f} at the end"
    place = f"{machine['cpus']} × {machine['model'] or 'CPU'}, {figure(machine['memory_gb'], 'GB')} of memory"
    parts = [
        f"{result['at'][:10]}, {place}, Python {machine['python']}; {kind}; load {loads}.",
        f"Ours: {ours}. Servers: {', '.join(versions['servers'].values()) or 'none'}. Peers: {peers or 'none'}.",
        markdown(lines, result["limits"]),
    ]
    failed = [f"- {trial['name']}: {name} failed: {_first(texts)}" for trial in result["trials"] for name, texts in trial["failures"].items()]  # fmt: skip
    if failed:
        parts.append("\n".join(["What failed:", "", *failed]))
    return "\n\n".join(parts)


def _first(texts: list[str]) -> str:
    return " ".join(texts[0].split())[:200]
