"""Sends replies to runs that wait, and finds out when their handlers went on. Standard library only: peers use it, too."""

from __future__ import annotations

import contextlib
import math
import queue
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.fleet import processes
from bench.fleet.marks import Marks

SENDERS = 16
"""So many replies of a burst are on their way at once."""
WARM = 5
WAIT_SECONDS = 300.0
PAUSE_SECONDS = 0.02
LOOK_SECONDS = 0.0005

Sender = Callable[[], contextlib.AbstractContextManager[Callable[[int], object]]]
"""Makes what sends the reply to the run of a number, and returns once the sender's side knows that it is recorded; one for
each thread."""


def replies(
    marks: Marks, sender: Sender, *, pids: Sequence[int], singles: int, burst: int
) -> dict[str, float]:
    """`singles` replies one after the other, each once the handler before has gone on, then `burst` of them, SENDERS at a
    time; to the runs 0, 1, 2 and so on.

    p50, p99: milliseconds from just before a reply is sent to the handler's next line. recorded_p50: from there to when
    the sender knows that it is recorded. burst_rate: replies a second, from the first request to the last handler's next
    line; burst_p50, burst_p99: the milliseconds of each of them, from its own request; burst_cpu: milliseconds that the
    side's processes, `pids`, took per reply of the burst."""
    with sender() as send:

        def reply(number: int) -> tuple[float, float]:
            noted = marks.count("resumed")
            begun = time.time()
            send(number)
            recorded = time.time()
            _await(lambda: marks.count("resumed") > noted, LOOK_SECONDS)
            ((_, at),) = marks.all("resumed", after=noted)[:1]
            time.sleep(PAUSE_SECONDS)
            return (at - begun) * 1000, (recorded - begun) * 1000

        for number in range(WARM):
            reply(number)
        taken = [reply(number) for number in range(WARM, WARM + singles)]
    time.sleep(1.0)
    spent = processes.cpu(pids)
    together = _burst(marks, sender, range(WARM + singles, WARM + singles + burst))
    return {
        "p50": statistics.median(at for at, _ in taken),
        "p99": quantile([at for at, _ in taken], 0.99),
        "recorded_p50": statistics.median(recorded for _, recorded in taken),
        **together,
        "burst_cpu": (processes.cpu(pids) - spent) * 1000 / burst,
    }


def needed(singles: int, burst: int) -> int:
    """How many runs are answered."""
    return WARM + singles + burst


def _burst(marks: Marks, sender: Sender, numbers: Sequence[int]) -> dict[str, float]:
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        left.put(number)
    begun: dict[int, float] = {}

    def send_all() -> None:
        with sender() as send, contextlib.suppress(queue.Empty):
            while True:
                number = left.get_nowait()
                begun[number] = time.time()
                send(number)

    noted = marks.count("resumed")
    with ThreadPoolExecutor(SENDERS) as pool:
        for sending in [pool.submit(send_all) for _ in range(SENDERS)]:
            sending.result()
    _await(lambda: marks.count("resumed") - noted >= len(numbers), 0.05)
    resumed = marks.first("resumed", after=noted)
    taken = [(resumed[number] - begun[number]) * 1000 for number in numbers]
    return {
        "burst_rate": len(numbers) / (max(resumed.values()) - min(begun.values())),
        "burst_p50": statistics.median(taken),
        "burst_p99": quantile(taken, 0.99),
    }


def _await(condition: Callable[[], bool], every: float) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"a handler did not go on within {WAIT_SECONDS:.0f} s")
        time.sleep(every)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so great a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
