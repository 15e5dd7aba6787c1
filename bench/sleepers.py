"""What a sleeper costs, measured: bytes, the sweep's time with many asleep, plans, and the CPU of a worker that only waits.

    python bench/sleepers.py [--count 1000000] [--seconds 10] [--url postgresql://…/empty]

Without --url it starts a PostgreSQL of its own, as the tests do. Prints what docs/scale.md tells.
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


FILL = {
    "sessions": "INSERT INTO sessions (id, agent, key, state, created_at, due_at) SELECT n, 'sleeper', 'customer-' || n, "
    "'{\"days\":3}', now(), now() + interval '1 day' + n * interval '100 ms' FROM generate_series({first}, {last}) AS n",
    "runs": "INSERT INTO runs (id, session_id, status, event, created_at, started_at, applied, waits, wake_at) SELECT "
    "lpad(to_hex(n), 32, '0')::uuid, n, 'waiting', '{\"kind\":\"call\"}', now(), now(), 3, "
    '\'[{"op":4,"kind":"timer","name":"sleep"}]\', now() + interval \'1 day\' FROM generate_series({first}, {last}) AS n',
    "journal": "INSERT INTO journal (run_id, seq, op, kind, name, ok, value, at) SELECT lpad(to_hex(n), 32, '0')::uuid, seq, seq, "
    '\'step\', \'open_issues\', true, \'{"text":"the billing bug","by":"alice"}\', now() '
    "FROM generate_series({first}, {last}) AS n, generate_series(1, 3) AS seq",
}


def fill(database: Database, count: int) -> float:
    """Sessions with a run that is asleep each, due one after the other from tomorrow on, as the server makes them by itself;
    the seconds that it took."""
    begun = time.perf_counter()
    for start in range(0, count, CHUNK):
        bounds = {"{first}": str(start + 1), "{last}": str(min(start + CHUNK, count))}
        with database.begin() as connection:
            for statement in FILL.values():
                for name, value in bounds.items():
                    statement = statement.replace(name, value)
                connection.exec_driver_sql(statement)
    with database.begin() as connection:
        connection.exec_driver_sql(f"SELECT setval('sessions_id_seq', {count})")
    return time.perf_counter() - begun


def sizes(connection: Any) -> dict[str, tuple[int, int]]:
    """Of each table the bytes of its rows and of its indexes."""
    found = {}
    for table in TABLES:
        row = connection.exec_driver_sql(f"SELECT pg_table_size('{table}'), pg_indexes_size('{table}')").one()
        found[table] = (int(row[0]), int(row[1]))
    return found


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
        took = fill(database, chosen.count)
        print(f"inserted in {took:.0f} s: {chosen.count / took:,.0f} sleepers per second")
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            total = 0
            for table, (rows, indexes) in sizes(connection).items():
                total += rows + indexes
                print(
                    f"{table:10} {rows / chosen.count:6.0f} bytes, indexes {indexes / chosen.count:5.0f} bytes per sleeper"
                )
            print(f"{'together':10} {total / chosen.count:6.0f} bytes per sleeper, {total / 2**20:,.0f} MiB")
        print(f"a look at what is due, nothing is:  {timed(lambda: look(database, now), 200):.2f} ms")
        print(f"a claim, nothing is due:            {timed(lambda: claim(database, now), 200):.2f} ms")
        print(f"idle sweeping:                      {idle(database, chosen.seconds):.2%} of a CPU")
        later = now + timedelta(days=1, seconds=1000 / 10)
        taken = timed(lambda: claim(database, later), 1)
        print(f"a claim of the 1,000 that are due:  {taken:.1f} ms")
        with database.read() as connection:
            print("\n".join(plan(connection)))
        print(f"a wake, of 500 at once:             {wakes(url, now, 500):.2f} ms")
        print(f"load at the end {', '.join(f'{one:.1f}' for one in os.getloadavg())}")
        database.close()


if __name__ == "__main__":
    main()
