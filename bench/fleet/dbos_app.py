"""A DBOS application of the works: workflows that do what the agents of this folder do, started on command.

    python -m bench.fleet.dbos_app PORT        (DBOS_SYSTEM_DATABASE_URL, BENCH_MARKS, BENCH_RELEASED)

Workflows are async, which DBOS advises for many that wait; its settings are its defaults. Commands come as lines of JSON on
a socket of loopback, and each is answered with a line when it is done.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from bench.fleet.marks import mark

RELEASED = Path(os.environ["BENCH_RELEASED"])
STEP_SECONDS = 600.0
RECEIVE_SECONDS = 3600.0
AT_ONCE = 500


def is_released() -> bool:
    """Whether the process was killed once."""
    return RELEASED.exists()


@DBOS.workflow()
async def sleeper(number: int, until: float) -> None:
    """Sleeps until an instant."""
    mark("begun", number)
    await DBOS.sleep_async(until - time.time())
    mark("awake", number)


@DBOS.workflow()
async def listener(number: int) -> None:
    """Waits for a message."""
    mark("waits", number)
    await DBOS.recv_async(timeout_seconds=RECEIVE_SECONDS)
    mark("resumed", number)


@DBOS.step()
async def hold(number: int) -> int:
    """Is not over before the process is killed; the second time it is at once."""
    mark("held", number)
    if not is_released():
        await asyncio.sleep(STEP_SECONDS)
    return number


@DBOS.workflow()
async def stepper(number: int) -> None:
    """Is in the middle of a step."""
    mark("stepped", await hold(number))


@DBOS.workflow()
async def plain(number: int) -> None:
    """Does nothing but run."""
    mark("plain", number)


WORKFLOWS: dict[str, Any] = {one.__name__: one for one in (sleeper, listener, stepper, plain)}


async def start(name: str, calls: Iterable[tuple[str, list[Any]]]) -> None:
    """Start a workflow for each (id, arguments), many at once, and wait until all are on record."""

    async def one(id: str, arguments: list[Any]) -> None:
        with SetWorkflowID(id):
            await DBOS.start_workflow_async(WORKFLOWS[name], *arguments)

    waiting = list(calls)
    for begin in range(0, len(waiting), AT_ONCE):
        await asyncio.gather(*(one(id, arguments) for id, arguments in waiting[begin : begin + AT_ONCE]))


async def serve(port: int) -> None:
    """Take commands until the process is ended."""

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            command = json.loads(line)
            await start(command["workflow"], command["calls"])
            writer.write(b"done\n")
            await writer.drain()

    server = await asyncio.start_server(obey, "127.0.0.1", port, limit=64 * 1024 * 1024)
    print("dbos serves", flush=True)
    async with server:
        await server.serve_forever()


async def main() -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": os.environ["DBOS_SYSTEM_DATABASE_URL"],
        "application_version": "bench",
        "executor_id": os.environ["BENCH_EXECUTOR"],
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
    await serve(int(sys.argv[1]))


if __name__ == "__main__":
    asyncio.run(main())
