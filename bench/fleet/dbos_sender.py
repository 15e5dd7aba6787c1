"""Sends messages to DBOS workflows that wait, from a process that is not theirs, as a web process would."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dbos import DBOSClient

from bench.fleet.answering import replies
from bench.fleet.marks import Marks
from bench.side import answer


def work(url: str, marks: str, pids: list[int], singles: int, burst: int) -> dict[str, float]:
    """What `replies` gives."""
    client = DBOSClient(system_database_url=url)
    return replies(
        Marks(Path(marks)),
        lambda: contextlib.nullcontext(lambda number: client.send(f"w{number}", "yes")),
        pids=pids,
        singles=singles,
        burst=burst,
    )


if __name__ == "__main__":
    answer(work)
