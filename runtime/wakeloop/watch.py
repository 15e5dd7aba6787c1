"""Warns of handlers that block the executor: names the file and the line they stand at."""

from __future__ import annotations

import sys
import sysconfig
import threading
import time
from pathlib import Path
from types import FrameType

from wakeloop.logs import get_logger

log = get_logger("wakeloop.watch")

BLOCKING_SECONDS = 1.0
_OURS = str(Path(__file__).parent)
_LIBRARY = sysconfig.get_paths()["stdlib"]


class Watch:
    """Looks at a thread from time to time, and warns once per stretch of a handler that lasts longer than a second."""

    def __init__(self) -> None:
        self._warned: tuple[str, float] | None = None

    def look(self, thread: threading.Thread | None, driving: tuple[str, float] | None) -> None:
        """`driving`: the session whose handler the thread runs, and since when (monotonic seconds)."""
        if thread is None or driving is None or driving == self._warned:
            return
        session, since = driving
        lasted = time.monotonic() - since
        if lasted < BLOCKING_SECONDS:
            return
        self._warned = driving
        frame = sys._current_frames().get(thread.ident or 0)
        place = _place(frame)
        log.warning(
            "a handler blocks every run of this worker; put long work into a step",
            session=session,
            seconds=round(lasted, 1),
            file=place[0],
            line=place[1],
        )


def _place(frame: FrameType | None) -> tuple[str, int]:
    """The innermost place outside the library and this package, or the innermost at all."""
    innermost = ("unknown", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OURS, "<frozen")) and not (
            file.startswith(_LIBRARY) and "site-packages" not in file
        ):
            return file, frame.f_lineno
        frame = frame.f_back
    return innermost
