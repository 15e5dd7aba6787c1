"""`python -m tests.chaos.skewed dev …`: wakeloop's own command, in a process whose clock is wrong by what a file says.

`wakeloop.clock` is the only module that reads the time; what it reads is shifted by the seconds in the file SKEW, which is
read each time. On SQLite that is the clock that timers go by. Ids, log lines and libraries keep the machine's time.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

from wakeloop import clock
from wakeloop.cli import main

FILE = Path(os.environ["SKEW"])


class _Skewed(datetime):
    """The time of day, as a clock shows it that was set wrong."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(seconds=float(FILE.read_text()))


if __name__ == "__main__":
    clock.datetime = _Skewed  # type: ignore[misc, attr-defined]
    main()
