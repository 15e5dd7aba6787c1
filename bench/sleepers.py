"""What a sleeper costs, measured: bytes, the sweep's time with many asleep, plans, and the CPU of a worker that only waits.

    python bench/sleepers.py [--real 10000] [--steps 0] [--count 1000000] [--seconds 10] [--url postgresql://…/empty]

First so many (--real) are started and fall asleep by the runtime's own means, after as many steps as wanted: the bytes of a
sleeper are theirs. The others, up to --count, are copies of one of them. Without --url it starts a PostgreSQL of its own, as
the tests do. Prints what docs/scale.md tells.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers import Postgres

from wakeloop.registry import Registry
from wakeloop.store import due, leases
from wakeloop.store.database import Database
from wakeloop.store.schema import metadata

CHUNK = 50_000
TABLES = ("sessions", "runs", "journal")
AGENT = "sleeper"


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with Postgres() as postgres:
        yield postgres.new_database()


AWAY = timedelta(days=30)


def put_to_sleep(database: Database, count: int, steps: int) -> None:
    """Start so many runs, each in a session of its own, then take them all up: each does its steps, and sleeps."""
    from wakeloop import Context, agent, step
    from wakeloop.decisions import Decisions
    from wakeloop.desk import Desk
    from wakeloop.executor import Executor
    from wakeloop.intake import Intake
    from wakeloop.links import Links
    from wakeloop.outbox import Outbox
    from wakeloop.people import People
    from wakeloop.routing import Routing
    from wakeloop.step_runner import RealLoop, ThreadedSteps
    from wakeloop.timers import Timers
    from wakeloop.world import World

    @step
    async def open_issues() -> dict[str, str]:
        return {"text": "the billing bug", "by": "alice"}

    @agent(name=AGENT)
    async def sleeper(ctx: Context[None]) -> None:
        for _ in range(steps):
            await open_issues()
        await ctx.sleep(AWAY)

    world = World(registry=Registry([sleeper]), people=People({}, None), ids=database.clock)
    links = Links(keys=lambda: ["k"], base_url=None, now=database.now)
    desk = Desk(world=world, links=links, amending=[])
    outbox = Outbox(database=database, world=world, desk=desk, channels={})
    routing = Routing(world=world, decisions=Decisions(world=world, desk=desk, links=links), links=links)
    intake = Intake(database=database, world=world, outbox=outbox, routing=routing, channels={})
    timers = Timers(database=database, world=world, desk=desk)
    loop = RealLoop("wakeloop-steps")
    executor = Executor(
        database=database, world=world, steps=ThreadedSteps(loop, threads=1), lease_seconds=300
    )
    for number in range(count):
        intake.start(AGENT, key=f"customer-{number}")
    executor.start()
    while not (swept := timers.sweep()).is_empty:
        for ticket in [executor.submit(message.sessions) for message in swept.turns]:
            ticket.wait()
    executor.stop(10)
    loop.close()
    with database.read() as connection:
        asleep = connection.exec_driver_sql("SELECT count(*) FROM runs WHERE status = 'waiting'").scalar_one()
    assert asleep == count, asleep


def copied(table: str, **others: str) -> str:
    """A statement that inserts copies of the first real sleeper's rows of a table, with other values in some columns."""
    names = [column.name for column in metadata.tables[table].columns]
    chosen = ", ".join(others.get(name, name) for name in names)
    key = {"sessions": "id", "runs": "session_id"}.get(table)
    of_first = f"{key} = 1" if key else "run_id = (SELECT id FROM runs WHERE session_id = 1)"
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {chosen} "
        f"FROM {table}, generate_series({{first}}, {{last}}) AS n WHERE {of_first}"
    )


ID = "lpad(to_hex(n), 32, '0')::uuid"
FILL = (
    copied("sessions", id="n", key="'customer-' || n", due_at="now() + interval '1 day' + n * interval '100 ms'"),
    copied("runs", id=ID, session_id="n", wake_at="now() + interval '1 day'"),
    copied("journal", run_id=ID),
)  # fmt: skip


def fill(database: Database, real: int, count: int) -> float:
    """Copies of the first sleeper, due one after the other from tomorrow on, as the server makes them by itself; the
    seconds that it took."""
    begun = time.perf_counter()
    for start in range(real, count, CHUNK):
        bounds = {"{first}": str(start + 1), "{last}": str(min(start + CHUNK, count))}
        with database.begin() as connection:
            for statement in FILL:
                for name, value in bounds.items():
                    statement = statement.replace(name, value)
                connection.exec_driver_sql(statement)
    with database.begin() as connection:
        connection.exec_driver_sql(f"SELECT setval('sessions_id_seq', {count})")
    return time.perf_counter() - begun


def print_sizes(connection: Any, title: str, count: int) -> None:
    """The bytes per sleeper of each table's rows, and of its indexes."""
    total = 0
    for table in TABLES:
        rows, indexes = connection.exec_driver_sql(
            f"SELECT pg_table_size('{table}'), pg_indexes_size('{table}')"
        ).one()
        total += rows + indexes
        print(
            f"{title:12} {table:10} {rows / count:6.0f} bytes, indexes {indexes / count:5.0f} bytes per sleeper"
        )
    print(f"{title:12} {'together':10} {total / count:6.0f} bytes per sleeper, {total / 2**20:,.1f} MiB")


def timed(work: Any, times: int) -> float:
    """The median of so many, in milliseconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken)


def look(database: Database, now: datetime) -> None:
    with database.read() as connection:
        due.look(connection, now=now)


def claim(database: Database, now: datetime) -> int:
    with database.begin() as connection:
        return len(leases.claim_due(connection, now=now, agents=[AGENT], limit=1000))


def plan(connection: Any) -> list[str]:
    """How PostgreSQL finds what is due."""
    statement = "EXPLAIN (ANALYZE, BUFFERS) SELECT id FROM sessions WHERE due_at <= now() AND agent = ANY (ARRAY['sleeper']) ORDER BY due_at LIMIT 1000"
    return [row[0] for row in connection.exec_driver_sql(statement)]


def idle(database: Database, seconds: float) -> float:
    """The share of one CPU that this process takes for sweeping while nothing is due."""
    from wakeloop.desk import Desk
    from wakeloop.links import Links
    from wakeloop.people import People
    from wakeloop.timers import Timers, TimerThread
    from wakeloop.world import World

    class Nobody:
        def turns(self, messages: Any) -> None: ...

        def deliveries(self, ids: Any) -> None: ...

    world = World(registry=Registry([]), people=People({}, None), ids=database.clock)
    desk = Desk(world=world, links=Links(keys=lambda: ["k"], base_url=None, now=database.now), amending=[])
    timers = Timers(database=database, world=world, desk=desk)
    thread = TimerThread(timers=timers, database=database, dispatcher=Nobody())
    thread.start()
    time.sleep(1)
    before = time.process_time()
    time.sleep(seconds)
    used = time.process_time() - before
    thread.stop()
    return used / seconds


def wakes(url: str, now: datetime, count: int) -> float:
    """What one wake costs one process, in milliseconds: as many runs that sleep, in sessions of their own, are claimed,
    replayed, and committed as over. The runtime is the real one; only its clock is moved."""
    from wakeloop import Context, agent
    from wakeloop.testing import Simulation

    @agent(name="napper")
    async def napper(ctx: Context[None]) -> None:
        await ctx.sleep(60)

    with Simulation([napper], start=now, store=url) as sim:
        for number in range(count):
            sim.start(napper, key=str(number))
        begun = time.perf_counter()
        sim.advance(timedelta(seconds=61))
        taken = time.perf_counter() - begun
        assert [run.status for run in sim.runs("napper")] == ["completed"] * count
    return taken * 1000 / count


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--url")
    chosen = parser.parse_args()
    print(
        f"{chosen.count:,} sleepers; {os.cpu_count()} CPUs, load {', '.join(f'{one:.1f}' for one in os.getloadavg())}"
    )
    with server(chosen.url) as url:
        database = Database(url)
        database.upgrade()
        now = datetime.now(UTC)
        put_to_sleep(database, chosen.real, chosen.steps)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            print_sizes(connection, "left behind", chosen.real)
            connection.exec_driver_sql("VACUUM FULL")
            print_sizes(connection, "compact", chosen.real)
        took = fill(database, chosen.real, chosen.count)
        print(f"copied in {took:.0f} s: {(chosen.count - chosen.real) / took:,.0f} sleepers per second")
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            print_sizes(connection, "copies", chosen.count)
        print(f"a look at what is due, nothing is:  {timed(lambda: look(database, now), 200):.2f} ms")
        print(f"a claim, nothing is due:            {timed(lambda: claim(database, now), 200):.2f} ms")
        print(f"idle sweeping:                      {idle(database, chosen.seconds):.2%} of a CPU")
        later = now + timedelta(days=1, seconds=(chosen.real + 1000) / 10)
        taken = timed(lambda: claim(database, later), 1)
        print(f"a claim of the 1,000 that are due:  {taken:.1f} ms")
        with database.read() as connection:
            print("\n".join(plan(connection)))
        print(f"a wake, of 500 at once:             {wakes(url, now, 500):.2f} ms")
        print(f"load at the end {', '.join(f'{one:.1f}' for one in os.getloadavg())}")
        database.close()


if __name__ == "__main__":
    main()
