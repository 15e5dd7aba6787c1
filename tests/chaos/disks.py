"""A world on a disk of its own that fills up: `wakeloop dev` on SQLite, worker and web service in one process.

The disk is a file system in memory (tmpfs), where this machine lets one be mounted, and is then really full: ENOSPC.
Elsewhere the process may write no file beyond a size (RLIMIT_FSIZE): then it gets EFBIG.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.faults import Deed, Faults
from tests.chaos.processes import Process
from tests.chaos.works import Works

SIZE_MB = 32
CHUNK_BYTES = 1 << 20
FULL_SECONDS = 3.0


class Disk(ABC):
    """A folder that can be made full."""

    how: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def fill(self, pid: int) -> None:
        """Let nothing more be written by that process."""

    @abstractmethod
    def free(self) -> None:
        """There is room again."""


class Memory(Disk):
    """A tmpfs. Raises OSError where it cannot be mounted."""

    how = "ENOSPC, on a tmpfs"

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        super().__init__(folder)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(f"no tmpfs can be mounted: {done.stderr.decode()}")
        stack.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
        self._filler = folder / "filler"

    def fill(self, pid: int) -> None:
        size = CHUNK_BYTES
        with self._filler.open("ab", buffering=0) as file:
            while size:
                try:
                    file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


class Limited(Disk):
    """Any folder; the process is limited instead."""

    how = "EFBIG, by RLIMIT_FSIZE"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._limited: int | None = None

    def fill(self, pid: int) -> None:
        largest = max((file.stat().st_size for file in self.folder.iterdir()), default=0)
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, most))
        self._limited = pid

    def free(self) -> None:
        pid, self._limited = self._limited, None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


class Desk(Works):
    """One process that does everything, on a small disk."""

    disk: Disk

    def open_store(self, stack: contextlib.ExitStack) -> Mapping[str, str]:
        folder = self.folder / "disk"
        folder.mkdir()
        try:
            self.disk = Memory(folder, stack)
        except OSError:
            self.disk = Limited(folder)
        return {"WAKELOOP_DATABASE_URL": f"sqlite:///{folder / 'wakeloop.db'}"}

    def runners(self) -> list[Process]:
        self._skew = self.folder / "skew.txt"
        self.step_clock(0.0)
        argv: list[str | Path] = [sys.executable, "-m", "tests.chaos.skewed", "dev", "--port", str(self.port)]
        return [Process("dev", "dev", lambda: self.program(argv, SKEW=str(self._skew)))]

    def step_clock(self, seconds: float) -> None:
        """Let the process's clock be wrong by so much from now on."""
        new = self._skew.with_suffix(".new")
        new.write_text(f"{seconds:.3f}")
        new.replace(self._skew)

    def calm(self) -> None:
        self.disk.free()


class DeskFaults(Faults):
    """What may happen to it."""

    weights: Mapping[str, int] = {
        "fill the disk": 10,
        "kill the process": 6,
        "kill the client": 2,
        "step its clock": 3,
        "the provider refuses": 1,
        "the provider does not acknowledge": 2,
    }

    def __init__(self, works: Desk) -> None:
        super().__init__(works)
        self._desk = works

    def deeds(self) -> Mapping[str, Deed]:
        return {
            **super().deeds(),
            "fill the disk": self._fill,
            "kill the process": lambda: self._works.is_serving and self.kill("dev"),
            "step its clock": lambda: self.step_clock(self._desk.step_clock),
        }

    def _fill(self) -> bool:
        pid = self._works.of_kind("dev")[0].pid
        if pid is None:
            return False
        self._desk.disk.fill(pid)
        time.sleep(self.chance.uniform(0.5, FULL_SECONDS))
        self._desk.disk.free()
        return True
