"""g. A conversation of 10, 100 and 1,000 messages: bytes, and the time of a further wake."""

from __future__ import annotations

from collections.abc import Iterator

from bench.lab import Lab
from bench.texts import LENGTH
from bench.trial import Bar, Better, Figures, Line, Side, Trial

LESS = Better.LESS
FURTHER = 10


def trials(lab: Lab) -> Iterator[Trial]:
    yield _trial(lab, sqlite=True)
    yield _trial(lab, sqlite=False)


def _trial(lab: Lab, *, sqlite: bool) -> Trial:
    lengths = lab.size([10, 100, 1000], [10, 50])
    store = "SQLite" if sqlite else "PostgreSQL"

    def ours() -> Figures:
        with lab.database(sqlite=sqlite) as url:
            return lab.ours("growth", url=url, lengths=lengths, further=FURTHER)

    def langgraph(durability: str) -> Side:
        def side() -> Figures:
            with lab.database(sqlite=sqlite) as url:
                return lab.theirs(
                    "langgraph_growth", url=url, lengths=lengths, further=FURTHER, durability=durability
                )

        return side

    lines = []
    for length in lengths:
        words = f"{length:,} messages ({length * LENGTH / 1000:,.0f} KB), {store}"
        bar = Bar(at_most=2 * length * LENGTH) if length >= 1000 else None
        lines += [
            Line(key=f"bytes-{length}", work=f"{words}: stored", unit="bytes", better=LESS, bar=bar),
            Line(
                key=f"own-{length}",
                work="… of it the conversation, without its runs",
                unit="bytes",
                better=LESS,
                bar=bar,
            ),
            Line(key=f"disk-{length}", work="… on the disk, unpacked", unit="bytes", better=LESS),
            Line(key=f"wake-{length}", work="… a further wake", unit="ms", better=LESS),
        ]
    return Trial(
        name=f"growth.{store.lower()}",
        lines=tuple(lines),
        ours=ours,
        peers={"LangGraph": langgraph("async"), "LangGraph, saving at the exit": langgraph("exit")},
        size={"lengths": lengths, "further": FURTHER},
    )
