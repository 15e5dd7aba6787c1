"""Notes of when a line of a handler ran: any number of processes write them, the one that measures reads them.

The same call stands in the handlers of both sides, and costs some two microseconds. Times are the machine's wall clock,
which is the database's as well.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

FOLDER = "BENCH_MARKS"
"""The variable of the environment that names the folder of the notes."""
_RECORD = struct.Struct("<qq")
_open: dict[str, int] = {}


def mark(name: str, number: int) -> None:
    """Note that the line called so ran now, for the run of this number."""
    os.write(_file(name), _RECORD.pack(number, time.time_ns()))


def tell(name: str, *words: object) -> None:
    """Write down what the one that measures cannot know: a line of words, which have no spaces in them."""
    os.write(_file(name), f"{' '.join(map(str, words))}\n".encode())


def _file(name: str) -> int:
    file = _open.get(name)
    if file is None:
        path = Path(os.environ[FOLDER]) / name
        file = _open[name] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    return file


class Marks:
    """The notes of one folder, as they are read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def count(self, name: str) -> int:
        """How many there are, which is cheap to ask often."""
        try:
            return (self.folder / name).stat().st_size // _RECORD.size
        except FileNotFoundError:
            return 0

    def all(self, name: str, *, after: int = 0) -> list[tuple[int, float]]:
        """All but the first `after`, in the order in which they were written: (number, seconds since 1970)."""
        try:
            data = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return []
        whole = len(data) - len(data) % _RECORD.size
        found = list(_RECORD.iter_unpack(data[:whole]))[after:]
        return [(number, at / 1e9) for number, at in found]

    def first(self, name: str, *, after: int = 0) -> dict[int, float]:
        """When the line ran first for each number: a replay may run it again."""
        found: dict[int, float] = {}
        for number, at in self.all(name, after=after):
            found.setdefault(number, at)
        return found

    def told(self, name: str) -> list[list[str]]:
        """The lines that were told under a name, in words."""
        return [line.split() for line in (self.folder / name).read_text().splitlines()]
