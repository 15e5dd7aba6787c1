"""How benchmarks of many sessions note when lines ran, send replies, and count what processes cost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.fleet import marks as marking
from bench.fleet import processes
from bench.fleet.answering import needed, quantile, replies
from bench.fleet.marks import Marks
from tests.servers import ServerError


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Marks]:
    monkeypatch.setenv(marking.FOLDER, str(tmp_path))
    yield Marks(tmp_path)
    for file in marking._open.values():
        os.close(file)
    marking._open.clear()


def test_notes_of_several_processes_are_read_together_and_the_first_of_each_counts(marks: Marks) -> None:
    """A line that a replay ran again does not hide when it ran first, whichever process noted it."""
    code = "from bench.fleet.marks import mark\nfor one in range(200): mark('awake', one)"
    others = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [other.wait() for other in others] == [0, 0]
    noted = marks.first("awake")
    marking.mark("awake", 7)

    assert marks.count("awake") == 401
    assert sorted(noted) == list(range(200))
    assert marks.first("awake") == noted
    assert marks.all("awake", after=400)[0][0] == 7
    assert marks.count("never") == 0


def test_words_that_a_handler_told_are_read_line_by_line(marks: Marks) -> None:
    """What only the handler knows, such as the id under which it waits."""
    for number in range(3):
        marking.tell("ids", number, f"id-{number}")
    assert marks.told("ids") == [["0", "id-0"], ["1", "id-1"], ["2", "id-2"]]


def test_replies_are_timed_from_their_request_to_the_handlers_line(marks: Marks) -> None:
    """A handler that goes on 20 ms after the reply gives 20 ms for each, alone and in a burst, and every run is answered once."""
    answered: list[int] = []

    @contextlib.contextmanager
    def sender() -> Iterator[Callable[[int], None]]:
        def send(number: int) -> None:
            answered.append(number)
            time.sleep(0.02)
            marking.mark("resumed", number)

        yield send

    figures = replies(marks, sender, pids=[os.getpid()], singles=3, burst=40)

    assert sorted(answered) == list(range(needed(3, 40)))
    assert 20 <= figures["p50"] < 500
    assert figures["burst_p50"] >= 20
    assert 0 < figures["burst_rate"] <= 16 / 0.02
    assert figures["burst_cpu"] < 500


def test_a_quantile_is_one_of_the_values() -> None:
    """The nearest rank, not something between two values."""
    assert quantile([3, 1, 2, 4], 0.5) == 2
    assert quantile(list(range(1, 101)), 0.99) == 99
    assert quantile([5], 0.99) == 5


def test_what_children_take_counts_for_the_process_that_began_them() -> None:
    """The CPU time and memory of a family, as a pool of processes has it."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(50_000_000); sum(range(3_000_000)); print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"1\n"
        cpu, rss = processes.cpu([parent.pid]), processes.rss(parent.pid)
        parent.communicate(b"\n")

    assert rss > 50_000_000
    assert cpu > 0
    assert processes.rss(parent.pid) == 0


def test_waiting_in_vain_says_for_how_long() -> None:
    """What does not come about is an error, not an endless benchmark."""
    from bench.fleet.ours import wait

    with pytest.raises(ServerError, match="in 0 s"):
        wait(lambda: False, 0.0)
