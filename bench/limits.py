"""What this machine's database and Celery can do at best, beside which the figures stand."""

from __future__ import annotations

import os
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import Program, poll

from bench.lab import BIN, Lab, environment, server_dsn

COMMIT_SECONDS = 1.0
CLIENTS = 8
NOOPS = 5000


@dataclass(frozen=True)
class Limit:
    """A name, what it is, its unit, and how it is taken once."""

    name: str
    what: str
    unit: str
    take: Callable[[Lab], float]


@dataclass
class Limits:
    """What was taken, by name; the ones that a run's lines name, at its begin and at its end."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def take(self, lab: Lab, names: set[str]) -> None:
        """Take these once more."""
        for name in sorted(names):
            self.taken.setdefault(name, []).append(LIMITS[name].take(lab))

    def as_json(self) -> dict[str, dict[str, object]]:
        """As they are kept."""
        return {
            name: {
                "what": LIMITS[name].what,
                "unit": LIMITS[name].unit,
                "taken": taken,
                "median": statistics.median(taken),
            }
            for name, taken in self.taken.items()
        }


def postgres_commits(lab: Lab, clients: int) -> float:
    """Commits a second of one small row each, by so many clients at once, each in a thread."""
    import psycopg

    url = lab.postgres.new_database()
    name = url.rpartition("/")[2]
    dsn = server_dsn(url).replace("dbname=postgres", f"dbname={name}")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE one (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
    counts = [0] * clients
    over = time.perf_counter() + COMMIT_SECONDS

    def work(number: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while time.perf_counter() < over:
                connection.execute("INSERT INTO one (body) VALUES ('a row')")
                counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


def sqlite_commits(lab: Lab) -> float:
    """Commits a second of one small row each, in WAL with synchronous=FULL, as wakeloop's store."""
    connection = sqlite3.connect(lab.folder() / "limit.db", isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE one (id integer PRIMARY KEY, body text)")
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < COMMIT_SECONDS:
            connection.execute("INSERT INTO one (body) VALUES ('a row')")
            count += 1
        return count / (time.perf_counter() - begun)
    finally:
        connection.close()


def celery_noops(lab: Lab) -> float:
    """Tasks a second that do nothing, of one Celery worker with a pool of threads and the settings that wakeloop makes, from
    the first that is taken to the last, all of them sent before."""
    lab.redis.flushall()
    folder = lab.folder()
    done = folder / "done"
    env = environment(BENCH_BROKER=lab.redis.url, BENCH_DONE=str(done), BENCH_NOOPS=str(NOOPS))
    send: list[str | Path] = [BIN / "python", "-m", "bench.sides.celery_noop"]
    work: list[str | Path] = [BIN / "celery", "-A", "bench.sides.celery_noop", "worker", "--loglevel=WARNING"]
    root = Path(__file__).parents[1]
    with Program(send, env=env, cwd=root) as sender:
        if sender.wait(120) != 0:
            raise RuntimeError(f"the tasks could not be sent: {sender.output}")
    with Program(work, env=env, cwd=root):
        for _ in poll(300):
            if done.exists() and done.read_text().endswith("\n"):
                return NOOPS / float(done.read_text())
    raise RuntimeError("the worker did not do its tasks")


LIMITS = {
    limit.name: limit
    for limit in (
        Limit("postgres-1", "commits of one row, 1 client", "/s", lambda lab: postgres_commits(lab, 1)),
        Limit(
            "postgres-8",
            f"commits of one row, {CLIENTS} clients",
            "/s",
            lambda lab: postgres_commits(lab, CLIENTS),
        ),
        Limit("sqlite", "SQLite commits of one row", "/s", sqlite_commits),
        Limit("celery", "Celery tasks that do nothing, 1 worker", "/s", celery_noops),
    )
}


def machine() -> dict[str, object]:
    """What this run was made on."""
    import platform

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpus": os.cpu_count(),
        "model": model,
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
