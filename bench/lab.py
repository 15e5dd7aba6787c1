"""What benchmarks are run with: servers, folders, processes of both sides, and how large the work is to be."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg
from sqlalchemy.engine import make_url
from tests.servers import Postgres, Program, Redis

from bench.side import figures_in
from wakeloop.store.database import Database

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PEERS = ROOT / ".venv-bench" / "bin" / "python"
SIDE_SECONDS = 1200
NOISE = 3000


class SideFailed(Exception):
    """A side's process ended without figures."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for. quick: small sizes, to see that everything works. peers: whether they run, too."""

    rounds: int = 5
    quick: bool = False
    peers: bool = True


class Lab:
    """Made for one run. Servers start when they are first asked for, and end with the `with` block.

    PostgreSQL has fsync and synchronous_commit on, as has every SQLite file (synchronous=FULL): all sides commit to disk.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._stack = contextlib.ExitStack()
        self._servers: dict[type, Any] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wakeloop-bench-")))
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def size(self, full: T, quick: T) -> T:
        """The size to use."""
        return quick if self.options.quick else full

    # ------------------------------------------------------------------ servers and folders

    @property
    def postgres(self) -> Postgres:
        """The one server that both sides use, each with databases of its own (`new_database`)."""
        return self._server(Postgres, lambda: Postgres(fsync=True, max_connections=400))

    @property
    def redis(self) -> Redis:
        """The one Redis (or Valkey). `flushall` it before a round."""
        return self._server(Redis, Redis)

    @property
    def has_postgres(self) -> bool:
        return Postgres in self._servers

    @property
    def has_redis(self) -> bool:
        return Redis in self._servers

    def _server(self, kind: type[T], make: Callable[[], Any]) -> T:
        if kind not in self._servers:
            self._servers[kind] = self._stack.enter_context(make())
        server: T = self._servers[kind]
        return server

    def folder(self) -> Path:
        """A new empty folder."""
        path = self._folder / str(next(self._numbers))
        path.mkdir()
        return path

    @contextlib.contextmanager
    def database(self, *, sqlite: bool) -> Iterator[str]:
        """The URL of a new empty database, gone after the block, so that rounds do not slow each other down."""
        url = self.new_database(sqlite=sqlite)
        try:
            yield url
        finally:
            drop_database(url)

    def new_database(self, *, sqlite: bool) -> str:
        """The URL of a new empty database that stays until the run ends."""
        return f"sqlite:///{self.folder() / 'store.db'}" if sqlite else self.postgres.new_database()

    @contextlib.contextmanager
    def copy(self, url: str) -> Iterator[str]:
        """A copy of a database that nobody is connected to, for the length of a `with` block."""
        with self.database(sqlite=url.startswith("sqlite")) as target:
            copy_database(url, target)
            yield target

    # ------------------------------------------------------------------ processes

    def ours(self, module: str, **job: Any) -> dict[str, Any]:
        """Run a module of bench.sides in a process of its own (see bench.side); its figures. Raises SideFailed."""
        return self._side(Path(sys.executable), f"bench.sides.{module}", job)

    def theirs(self, module: str, **job: Any) -> dict[str, Any]:
        """The same of a module of bench.peers, in the environment of the peers."""
        if not PEERS.exists():
            raise SideFailed(f"there is no {PEERS.relative_to(ROOT)}: `make bench` makes it")
        return self._side(PEERS, f"bench.peers.{module}", job)

    def _side(self, python: Path, module: str, job: Mapping[str, Any]) -> dict[str, Any]:
        done = subprocess.run(
            [python, "-m", module, json.dumps(job)],
            cwd=ROOT, env=environment(), capture_output=True, text=True, errors="replace", timeout=SIDE_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        figures = figures_in(done.stdout)
        if figures is None:
            raise SideFailed(
                f"{module} ended with status {done.returncode}: {done.stderr[-NOISE:] or done.stdout[-NOISE:]}"
            )
        return figures

    @contextlib.contextmanager
    def workers(
        self, count: int, database_url: str, *, agents: Path, **settings: Any
    ) -> Iterator[list[Program]]:
        """So many Celery workers on that database and this lab's Redis, as docs/deploy.md starts them, ready to work. The
        schema is there. settings: of wakeloop, in small letters."""
        folder = self.folder()
        self.redis.flushall()
        database = Database(database_url)
        database.upgrade()
        database.close()
        env = worker_environment(database_url, self.redis.url, agents, **settings)
        with contextlib.ExitStack() as stack:
            programs = []
            for number in range(count):
                argv: list[str | Path] = [
                    BIN / "celery",
                    "-A",
                    "wakeloop",
                    "worker",
                    "-n",
                    f"bench{number}@%h",
                    "--loglevel=INFO",
                ]
                programs.append(stack.enter_context(Program(argv, env=env, cwd=folder)))
            for program in programs:
                program.wait_for("ready.")
            yield programs


def environment(**more: str) -> dict[str, str]:
    """What a side's process sees: nothing of wakeloop's settings that may lie around here."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WAKELOOP_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def worker_environment(database_url: str, broker_url: str, agents: Path, **settings: Any) -> dict[str, str]:
    """The settings of a worker or web service, as environment variables."""
    return environment(
        WAKELOOP_DATABASE_URL=database_url,
        WAKELOOP_BROKER_URL=broker_url,
        WAKELOOP_AGENTS_DIR=str(agents),
        **{f"WAKELOOP_{name.upper()}": str(value) for name, value in settings.items()},
    )


def drop_database(url: str) -> None:
    """Delete a database, whoever is still connected."""
    if url.startswith("sqlite"):
        shutil.rmtree(sqlite_file(url).parent, ignore_errors=True)
        return
    with psycopg.connect(server_dsn(url), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)".encode())


def copy_database(url: str, target: str) -> None:
    """Make an empty database a copy of another one that nobody is connected to."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(sqlite_file(url))) as source:
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(sqlite_file(url), sqlite_file(target))
        return
    drop_database(target)
    with psycopg.connect(server_dsn(url), autocommit=True) as connection:
        statement = f"CREATE DATABASE {make_url(target).database} TEMPLATE {make_url(url).database}"
        connection.execute(statement.encode())


def sqlite_file(url: str) -> Path:
    return Path(str(make_url(url).database))


def server_dsn(url: str) -> str:
    """libpq's words for the server of a database."""
    parts = make_url(url)
    return f"host={parts.host} port={parts.port} user={parts.username} dbname=postgres"
