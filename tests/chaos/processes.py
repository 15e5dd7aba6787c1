"""Processes that are wanted for as long as a campaign lasts: killed at any moment, and started again when they are gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.servers import Program

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LAST_WORDS = 4000
AGAIN_SECONDS = 0.5


class Armed(Program):
    """A program that may kill itself at a crash point."""


class Process:
    """One process and its successors."""

    def __init__(self, kind: str, name: str, program: Callable[[], Program], *, ends: bool = False) -> None:
        """program: a new one for each start. ends: one that ends with status 0 has done what it was to do."""
        self.kind, self.name = kind, name
        self.endings: Counter[str] = Counter()
        self.last_words = ""
        self._program, self._ends = program, ends
        self._lock = threading.Lock()
        self._running: Program | None = None
        self._again_at = 0.0
        self._wanted = True

    @property
    def is_running(self) -> bool:
        with self._lock:
            return self._running is not None and self._running.running

    @property
    def is_done(self) -> bool:
        """Whether it did what it was to do, and ended."""
        return not self._wanted

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        with self._lock:
            return self._running.pid if self._running is not None and self._running.running else None

    def kill(self, *, down: float) -> bool:
        """End it by SIGKILL, for so many seconds; whether it ran."""
        with self._lock:
            if self._running is None or not self._running.running:
                return False
            self._running.kill()
            self._forget("killed", down)
            return True

    def disarm(self) -> None:
        """Have it replaced if it may kill itself at a crash point."""
        with self._lock:
            if isinstance(self._running, Armed) and self._running.running:
                self._running.stop()
                self._forget("replaced", 0.0)

    def look(self) -> None:
        """Start it if it does not run, and note how it ended."""
        with self._lock:
            if self._running is not None and not self._running.running:
                status = self._running.wait()
                if status == 0 and self._ends:
                    self._wanted = False
                elif status == -signal.SIGKILL:
                    self._forget("killed at a crash point", AGAIN_SECONDS)
                else:
                    self.last_words = self._running.output[-LAST_WORDS:]
                    self._forget(f"ended by itself with {status}", AGAIN_SECONDS)
            if self._running is None and self._wanted and time.monotonic() >= self._again_at:
                self._running = self._program()
                self._running.start()

    def close(self) -> None:
        """Ask it to end, for good."""
        with self._lock:
            self._wanted = False
            running, self._running = self._running, None
        if running is not None:
            running.close()

    def _forget(self, how: str, down: float) -> None:
        self.endings[how] += 1
        if self._running is not None:
            self._running.close()
        self._running = None
        self._again_at = time.monotonic() + down


def kills(processes: Iterable[Process]) -> Counter[str]:
    """How many were killed, by kind."""
    found: Counter[str] = Counter()
    for process in processes:
        for how, count in process.endings.items():
            if how.startswith("killed"):
                found[process.kind if how == "killed" else f"{process.kind}, at a crash point"] += count
    return found


def paths() -> Mapping[str, str]:
    """The environment in which programs find the tests' modules."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
