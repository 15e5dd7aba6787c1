"""Whether the process that holds something is dead: certain, or not said."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from tests.servers import Program

from wakeloop.alive import is_dead, new_owner

NAMING = "import time; from wakeloop.alive import new_owner; print(new_owner(), flush=True); time.sleep(600)"


@pytest.fixture
def holder() -> Iterator[Program]:
    with Program([sys.executable, "-c", NAMING]) as program:
        program.wait_for("\n")
        yield program


def test_a_process_that_lives_is_not_dead(holder: Program) -> None:
    """Neither this one, nor another, not even one that is stopped and says nothing."""
    other = holder.output.strip()
    holder.pause()

    assert [is_dead(new_owner()), is_dead(other)] == [False, False]


def test_a_process_that_was_killed_is_dead(holder: Program) -> None:
    """As soon as it is killed."""
    owner = holder.output.strip()

    holder.kill()

    assert is_dead(owner)


def test_a_process_that_nobody_has_waited_for_is_dead() -> None:
    """What is left of it, until its parent takes note of its end, holds nothing."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, new_owner().encode())
        os._exit(0)
    owner = os.read(reading, 200).decode()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    found = is_dead(owner)
    os.waitpid(pid, 0)

    assert found


def test_a_pid_that_another_process_has_now_is_told_apart(holder: Program) -> None:
    """The one that had it before has ended, or it would not be anybody's."""
    host, pid, place, chance = holder.output.strip().split(":")
    earlier = f"{place.partition('-')[0]}-1"

    assert is_dead(f"{host}:{pid}:{earlier}:{chance}")


@pytest.mark.parametrize("part", [0, 2])
def test_of_another_host_or_container_nothing_is_said(holder: Program, part: int) -> None:
    """There that pid may be anybody's."""
    parts = holder.output.strip().split(":")
    parts[part] = "elsewhere"
    holder.kill()

    assert not is_dead(":".join(parts))


@pytest.mark.parametrize("owner", ["", "w1", "host:77:5f3c9a21", "host:77::5f3c9a21", "a:b:c:d"])
def test_of_other_names_nothing_is_said(owner: str) -> None:
    """Those of earlier versions among them."""
    assert not is_dead(owner)
