"""The protocol of a side that runs as a process of its own: a job comes as JSON, figures go back as the last line.

It imports nothing but the standard library: peers run in an environment of their own, in which wakeloop is not installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

MARK = "figures: "


def answer(work: Callable[..., Mapping[str, float]]) -> None:
    """Do the job that this process was given (its fields are keyword arguments), and tell the figures."""
    job = json.loads(sys.argv[1])
    figures = dict(work(**job))
    print(f"\n{MARK}{json.dumps(figures)}", flush=True)
    os._exit(0)  # libraries' threads are of no interest any more


def figures_in(output: str) -> dict[str, Any] | None:
    """The figures that a side told, or None if it told none."""
    told = [line for line in output.splitlines() if line.startswith(MARK)]
    if not told:
        return None
    found: dict[str, Any] = json.loads(told[-1][len(MARK) :])
    return found


class Stopwatch:
    """Wall time, and the CPU time of this process, since it was made."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu


def cpu_of(pid: int) -> float:
    """The CPU seconds of another process so far, by the kernel's account (its threads included, its children not)."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
