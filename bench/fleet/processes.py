"""What the system knows of a process: the memory that it has and the CPU time that it took."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def rss(pid: int) -> int:
    """The bytes of memory that a process and its children have resident."""
    return sum(_rss(one) for one in _family(pid))


def cpu(pids: Iterable[int]) -> float:
    """The seconds of CPU time that these processes and their children took so far."""
    return sum(_cpu(one) for pid in pids for one in _family(pid))


def _rss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    found = next((line for line in lines if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return int(found.split()[1]) * 1024


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    # utime, stime, and those of children that have ended: fields 14 to 17 of proc_pid_stat(5).
    return sum(int(field) for field in fields[11:15]) / _TICK


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
