"""`celery -A tests.acceptance.armed worker`: wakeloop's own app, in a process that kills itself at a crash point.

CRASH_AT names the point, CRASH_ON the how-manyth passing of it is the last.
"""

from __future__ import annotations

import os
import signal

from wakeloop import crashpoints


class Trap:
    """Ends this process, by a signal that nothing can catch, where it is told to."""

    def __init__(self, point: str, passing: int) -> None:
        if point not in crashpoints.CRASH_POINTS:
            raise ValueError(f"there is no crash point {point}")
        self._point = point
        self._left = passing

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


crashpoints.arm(Trap(os.environ["CRASH_AT"], int(os.environ.get("CRASH_ON", "1"))))

from wakeloop.celery import app  # noqa: E402

__all__ = ["app"]
