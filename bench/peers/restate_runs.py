"""Invocations a second of Restate, whose server and application run already: this process calls them, so many at once."""

from __future__ import annotations

import itertools

from bench.fleet import processes
from bench.posting import post_all
from bench.side import Stopwatch, answer


def work(
    port: int, runs: int, steps: int, at_once: int, warm: int, apps: list[int], server: int
) -> dict[str, float]:
    """Invocations a second, from the first call to the last answer, which the server gives once the end is in its log.
    port: of its ingress. apps, server: the pids. server-cpu is not in cpu."""

    def go(count: int) -> None:
        answers = post_all(port, "/bench/count", itertools.repeat(steps, count), at_once)
        assert answers == [steps] * count, f"{len(answers)} of {count} answers"

    go(warm)
    before, of_server = processes.cpu(apps), processes.cpu([server])
    watch = Stopwatch()
    go(runs)
    seconds, own = watch.seconds, watch.cpu
    return {
        "rate": runs / seconds,
        "cpu": (own + processes.cpu(apps) - before) / runs * 1000,
        "server-cpu": (processes.cpu([server]) - of_server) / runs * 1000,
    }


if __name__ == "__main__":
    answer(work)
