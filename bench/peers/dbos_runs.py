"""Workflows a second of DBOS: started where they run, in one process or several, or enqueued by a client and run by workers.

The process that is asked makes the others: itself, with another role.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from dbos import DBOS, DBOSClient

from bench.peers.dbos_app import Watch, count, launch
from bench.side import Stopwatch, answer, cpu_of

QUEUE = "bench"
POLL_SECONDS = 0.05
LOOK_SECONDS = 0.02
READY = "ready"


async def started_here(runs: int, steps: int, at_once: int) -> None:
    """Start workflows and wait for them, so many at once."""
    numbers = iter(range(runs))

    async def go() -> None:
        for _ in numbers:
            handle = await DBOS.start_workflow_async(count, steps)
            await handle.get_result()

    await asyncio.gather(*(go() for _ in range(at_once)))


async def enqueued(client: DBOSClient, runs: int, steps: int, starters: int) -> None:
    numbers = iter(range(runs))
    options: Any = {"workflow_name": count.__qualname__, "queue_name": QUEUE}

    async def go() -> None:
        for _ in numbers:
            await client.enqueue_async(options, steps)

    await asyncio.gather(*(go() for _ in range(starters)))


def role(name: str, url: str, **more: Any) -> subprocess.Popen[str]:
    """Another process of this module, ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.peers.dbos_runs", json.dumps({"role": name, "url": url, **more})],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == READY:
            return process
    raise RuntimeError(f"a process of DBOS ended with {process.wait()}")


def tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def launched(url: str, executor: str) -> None:
    launch(url, executor_id=executor)


def be_worker(url: str, executor: str, at_once: int) -> None:
    """Take workflows from the queue until the parent goes away."""
    launched(url, executor)
    DBOS.register_queue(QUEUE, worker_concurrency=at_once, polling_interval_sec=POLL_SECONDS)
    print(READY, flush=True)
    sys.stdin.read()
    os._exit(0)


def be_starter(url: str, executor: str, at_once: int) -> None:
    """Start workflows here whenever told how many."""
    launched(url, executor)
    loop = asyncio.new_event_loop()
    print(READY, flush=True)
    for line in sys.stdin:
        runs, steps = map(int, line.split())
        loop.run_until_complete(started_here(runs, steps, at_once))
        print("done", flush=True)
    os._exit(0)


def await_all(watch: Watch) -> None:
    while watch.any_open():
        time.sleep(LOOK_SECONDS)


def figures_of(
    way: str, url: str, runs: int, steps: int, processes: int, at_once: int, warm: int
) -> dict[str, float]:
    """Workflows a second, from the first start to the last committed end. way: `direct` or `queue`."""
    name = "worker" if way == "queue" else "starter"
    launch_alone(url)
    children = [role(name, url, executor=f"bench-{number}", at_once=at_once) for number in range(processes)]
    watch = Watch(url)
    client = DBOSClient(system_database_url=url) if way == "queue" else None

    def go(runs: int) -> None:
        if client is not None:
            asyncio.run(enqueued(client, runs, steps, at_once))
        else:
            for number, child in enumerate(children):
                tell(child, f"{runs // processes + (number < runs % processes)} {steps}")
            for child in children:
                assert child.stdout is not None
                assert child.stdout.readline().strip() == "done"
        await_all(watch)

    go(warm)
    before = sum(cpu_of(child.pid) for child in children)
    clock = Stopwatch()
    go(runs)
    seconds = clock.seconds
    cpu = clock.cpu + sum(cpu_of(child.pid) for child in children) - before
    found = watch.completed()
    for child in children:
        child.kill()
        child.wait()
    assert found == runs + warm, f"{found} of {runs + warm} workflows completed"
    return {"rate": runs / seconds, "cpu": cpu / runs * 1000}


def launch_alone(url: str) -> None:
    """Make the schema, before several processes want it at once."""
    process = role("worker", url, executor="schema", at_once=1)
    process.kill()
    process.wait()


def work(role: str = "parent", **job: Any) -> dict[str, float]:
    """See figures_of, be_worker and be_starter."""
    if role == "worker":
        be_worker(**job)
    elif role == "starter":
        be_starter(**job)
    return figures_of(**job)


if __name__ == "__main__":
    answer(work)
