"""Wall clocks of processes that can be stepped while they run: libfaketime in front of the system's library.

It moves what `time.time()` and `datetime.now()` read. The monotonic clock stays as it is, as it does when a machine's clock
is set.
"""

from __future__ import annotations

from pathlib import Path

from tests.servers import ServerError

ROOT = Path(__file__).parents[2]


def library() -> Path:
    """The library: the system's, or the one that make unpacked."""
    for place in (Path("/"), ROOT / ".venv" / "debian"):
        for found in sorted(place.glob("usr/lib/*/faketime/libfaketimeMT.so.1")):
            return found
    raise ServerError("there is no libfaketime: `make faketime` brings it")


class WallClock:
    """The clock of one process, over all its starts."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.step(0.0)
        self.environment = {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: float) -> None:
        """Let it be wrong by so many seconds from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        new.replace(self._file)
