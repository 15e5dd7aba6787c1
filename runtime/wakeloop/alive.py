"""Which process holds something, told so that another on the same machine can know that it has died."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import socket
from pathlib import Path

_PROC = Path("/proc")
_GONE = frozenset("ZXx")
"""States of a process that runs no more, though its parent has not taken note of it."""


def new_owner() -> str:
    """A name for this process as the holder of something, different at each call: host, pid, and on Linux what tells
    the process from any other that ever had that pid."""
    pid = os.getpid()
    place = f"{_place()}-{_started(pid)}" if _place() else ""
    return f"{socket.gethostname()}:{pid}:{place}:{random.SystemRandom().getrandbits(32):08x}"


def is_dead(owner: str) -> bool:
    """Whether the process that named itself so is certainly gone. False also if that cannot be known: it is of another
    machine or container, or this is not Linux."""
    host, _, rest = owner.rpartition(":")[0].partition(":")
    number, _, mark = rest.partition(":")
    place, _, started = mark.partition("-")
    is_here = place and started and place == _place() and host == socket.gethostname()
    if not (is_here and number.isdecimal()):
        return False
    pid = int(number)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # of another user, and there
    now = _started(pid)
    return bool(now) and now != started


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine was; "gone" if it has ended, nothing if it is not shown."""
    try:
        facts = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if facts[0] in _GONE else facts[19]


@functools.cache
def _place() -> str:
    """Within what pids are told apart: this start of this machine, and the container. Nothing if that is not to be had."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        space = (_PROC / "self/ns/pid").readlink()
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:12]
