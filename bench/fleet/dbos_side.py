"""DBOS's side of the works: its processes, and what its database tells."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tests.servers import Program, free_port

from bench.fleet.marks import FOLDER, Marks
from bench.fleet.ours import POLL_SECONDS, table_sizes, vacuum_full, wait
from bench.lab import PEERS, ROOT, SideFailed, environment
from bench.side import figures_in

START_SECONDS = 120.0
COMMAND_SECONDS = 1800.0
SCHEMA = "dbos"


def run_peer(module: str, job: str) -> dict[str, float]:
    """Run a module in the peers' environment that ends with figures (see bench.side). Raises SideFailed."""
    done = subprocess.run(
        [PEERS, "-m", module, job], cwd=ROOT, env=environment(), capture_output=True, text=True, errors="replace",
        timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    figures = figures_in(done.stdout)
    if figures is None:
        raise SideFailed(f"{module} ended with status {done.returncode}: {done.stderr[-3000:]}")
    return figures


class App:
    """One process of the application. started_at: when it was told to start, since 1970."""

    def __init__(self, side: Dbos, name: str) -> None:
        self.port = free_port()
        environment = side.environment | {"BENCH_EXECUTOR": name}
        argv = [PEERS, "-m", "bench.fleet.dbos_app", str(self.port)]
        self.program = Program(argv, env=environment, cwd=side.folder)
        self.started_at = 0.0

    def begin(self) -> None:
        """Start it, again too, and return when it takes commands."""
        said = len(self.program.output)
        self.started_at = time.time()
        self.program.start()
        self.program.wait_for("dbos serves", START_SECONDS, after=said)

    def start(self, workflow: str, calls: Sequence[tuple[str, list[Any]]]) -> None:
        """Start a workflow for each (id, arguments), and return when all are on record."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=COMMAND_SECONDS) as connection:
            connection.sendall(json.dumps({"workflow": workflow, "calls": calls}).encode() + b"\n")
            if connection.recv(16) != b"done\n":
                raise RuntimeError(f"dbos did not do it:\n{self.program.output[-4000:]}")


class Dbos:
    """A system database of its own and any number of processes. Used in a `with` block."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.released = folder / "released"
        self.marks = Marks(folder / "marks")
        self.url = database_url
        self.dsn = database_url.replace("+psycopg", "")
        self.environment = {
            FOLDER: str(self.marks.folder),
            "BENCH_RELEASED": str(self.released),
            "DBOS_SYSTEM_DATABASE_URL": self.dsn,
            **environment(),
        }

    def __enter__(self) -> Dbos:
        self.engine = sa.create_engine(self.url, pool_size=2)
        return self

    def __exit__(self, *exc: object) -> None:
        self.engine.dispose()

    @contextlib.contextmanager
    def apps(self, count: int) -> Iterator[list[App]]:
        """So many processes, one after the other, as the first makes the schema."""
        with contextlib.ExitStack() as stack:
            found = []
            for number in range(count):
                app = App(self, f"executor-{number}")
                stack.callback(app.program.close)
                app.begin()
                found.append(app)
            yield found

    def start_on(self, apps: Sequence[App], workflow: str, calls: Sequence[tuple[str, list[Any]]]) -> None:
        """Start these in the processes, an equal part in each, at once."""
        parts = [calls[first :: len(apps)] for first in range(len(apps))]
        with ThreadPoolExecutor(len(apps)) as pool:
            for _ in pool.map(lambda pair: pair[0].start(workflow, pair[1]), zip(apps, parts, strict=True)):
                pass

    def query(self, statement: str) -> Any:
        """The first value of the first row, None if there is none."""
        with self.engine.connect() as connection:
            return connection.execute(sa.text(statement)).scalar()

    def asleep(self) -> int:
        """How many sleeps are on record."""
        return int(
            self.query("SELECT count(*) FROM dbos.operation_outputs WHERE function_name = 'DBOS.sleep'")
        )

    def with_status(self, name: str, status: str) -> int:
        """How many workflows of this name are in this status."""
        statement = (
            f"SELECT count(*) FROM dbos.workflow_status WHERE name LIKE '%{name}' AND status = '{status}'"
        )
        return int(self.query(statement))

    def is_all_over(self) -> bool:
        """Whether no workflow is open; one look at an index."""
        open_one = "SELECT 1 FROM dbos.workflow_status WHERE status IN ('PENDING', 'ENQUEUED') LIMIT 1"
        return self.query(open_one) is None

    def wait(self, condition: Callable[[], bool], seconds: float, *, every: float = POLL_SECONDS) -> float:
        """Wait until it holds; the time (since 1970) at which it was seen to."""
        return wait(condition, seconds, every=every)

    def sizes(self) -> dict[str, int]:
        """The bytes of each table with what belongs to it."""
        return table_sizes(self.engine, SCHEMA)

    def vacuum(self) -> None:
        """VACUUM FULL, which writes every table and index anew."""
        vacuum_full(self.engine)
