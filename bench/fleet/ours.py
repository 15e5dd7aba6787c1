"""wakeloop's side of the works: a project with the agents of this folder, on PostgreSQL and Redis, and its processes.

All settings are the defaults, but for the limits that are there to protect people and addresses from too much.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tests.servers import Program, Redis, ServerError, free_port

from bench.fleet.marks import FOLDER, Marks
from bench.lab import BIN, ROOT
from wakeloop.testing.twilio import TwilioStandIn
from wakeloop.wiring import Runtime, load_settings

AGENTS = Path(__file__).with_name("agents")
STARTERS = 8
POLL_SECONDS = 0.05
WORKERS = 2
START_SECONDS = 90.0
TRIES = 50

_OPEN = "SELECT 1 FROM runs WHERE status IN ('queued', 'running', 'waiting') LIMIT 1"
_WITH_STATUS = (
    "SELECT count(*) FROM runs JOIN sessions ON sessions.id = session_id WHERE agent = '{}' AND status = '{}'"
)


class Ours:
    """A project on a database of its own and an empty broker, and what is to be seen of it. Used in a `with` block."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        redis: Redis,
        *,
        contacts: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """contacts: how many people there are, c0, c1 and so on, with a number for SMS each."""
        redis.flushall()
        self.folder = folder
        self.contacts = contacts
        self.released = folder / "released"
        self.port = free_port()
        self.marks = Marks(folder / "marks")
        self.twilio = TwilioStandIn(webhook=f"http://127.0.0.1:{self.port}/webhooks/sms")
        self.environment = {
            FOLDER: str(self.marks.folder),
            "BENCH_RELEASED": str(self.released),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            # As installed: pip compiles what it installs, and the peers were. Otherwise a start compiles all of wakeloop.
            "PYTHONDONTWRITEBYTECODE": "",
            "WAKELOOP_AGENTS_DIR": str(AGENTS),
            "WAKELOOP_DATABASE_URL": database_url,
            "WAKELOOP_BROKER_URL": redis.url,
            "WAKELOOP_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "WAKELOOP_SMS_AUTH_TOKEN": self.twilio.auth_token,
            "WAKELOOP_MESSAGES_PER_HOUR": "0",
            "WAKELOOP_COALESCE_SECONDS": "0",
            "WAKELOOP_WEBHOOKS_PER_MINUTE": "0",
            **(environment or {}),
        }

    def __enter__(self) -> Ours:
        self.twilio.start()
        lines = [
            "[channels.sms]",
            f'account_sid = "{self.twilio.account_sid}"',
            f'from_number = "{self.twilio.number}"',
            f'api_url = "{self.twilio.url}"',
            *(
                line
                for one in range(self.contacts)
                for line in (f"[contacts.c{one}]", f'sms = "{number_of(one)}"')
            ),
        ]
        (self.folder / "wakeloop.toml").write_text("\n".join(lines))
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            self.runtime = Runtime(load_settings(directory=self.folder))
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.runtime.database.upgrade()
        return self

    def __exit__(self, *exc: object) -> None:
        self.runtime.stop()
        self.twilio.stop()

    # ------------------------------------------------------------------ processes

    def worker(self, name: str) -> Program:
        """A Celery worker as one starts it: `celery -A wakeloop worker`."""
        argv = [BIN / "celery", "-A", "wakeloop", "worker", "-n", f"{name}@here", "-l", "WARNING"]
        return Program(argv, env=self.environment, cwd=self.folder)

    @contextlib.contextmanager
    def workers(self, count: int = WORKERS) -> Iterator[list[Program]]:
        """So many workers, which have begun to claim what is due."""
        with contextlib.ExitStack() as stack:
            programs = [stack.enter_context(self.worker(f"w{number}")) for number in range(count)]
            self._await_each(programs)
            yield programs

    @contextlib.contextmanager
    def web(self) -> Iterator[Program]:
        """The web process, which takes webhooks."""
        argv = [BIN / "wakeloop", "web", "--port", str(self.port)]
        with Program(argv, env=self.environment, cwd=self.folder) as program:
            program.wait_for("wakeloop web on")
            yield program

    def _await_each(self, programs: Sequence[Program]) -> None:
        """Give runs until each of these workers has done one."""
        wanted = {program.pid for program in programs}
        for number in range(TRIES):
            self.start("present", [(f"{number}-{one}", None) for one in range(2 * len(programs))])
            done = (number + 1) * 2 * len(programs)
            self.wait(lambda done=done: self.with_status("present", "completed") >= done, START_SECONDS)
            if wanted <= {pid for pid, _ in self.marks.all("present")}:
                return
        raise ServerError(f"not every worker does work: {[program.output[-2000:] for program in programs]}")

    # ------------------------------------------------------------------ work

    def start(self, agent: str, inputs: Iterable[tuple[str, Any]]) -> None:
        """Start a run for each (key, input), as programs do: a transaction each, from a few threads."""

        def one(item: tuple[str, Any]) -> None:
            self.runtime.intake.start(agent, item[1], key=item[0])

        with ThreadPoolExecutor(STARTERS) as pool:
            for _ in pool.map(one, inputs):
                pass

    def query(self, statement: str) -> Any:
        """The first value of the first row, None if there is none."""
        with self.runtime.database.read() as connection:
            return connection.execute(sa.text(statement)).scalar()

    def with_status(self, agent: str, status: str) -> int:
        """How many of an agent's runs are in this status."""
        return int(self.query(_WITH_STATUS.format(agent, status)))

    def is_all_over(self) -> bool:
        """Whether no run is open; one look at an index."""
        return self.query(_OPEN) is None

    def wait(self, condition: Callable[[], bool], seconds: float, *, every: float = POLL_SECONDS) -> float:
        """Wait until it holds; the time (since 1970) at which it was seen to. Raises ServerError if it does not in time."""
        return wait(condition, seconds, every=every)

    def sizes(self) -> dict[str, int]:
        """The bytes of each table with what belongs to it."""
        return table_sizes(self.runtime.database.engine, "public")

    def vacuum_analyze(self) -> None:
        """What autovacuum does in time."""
        with self.runtime.database.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))

    def vacuum(self) -> None:
        """VACUUM FULL, which writes every table and index anew."""
        vacuum_full(self.runtime.database.engine)


def wait(condition: Callable[[], bool], seconds: float, *, every: float = POLL_SECONDS) -> float:
    """Wait until it holds; the time (since 1970) at which it was seen to. Raises ServerError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(f"what was waited for has not come about in {seconds:.0f} s")
        time.sleep(every)
    return time.time()


def number_of(contact: int) -> str:
    """The number that a contact of the works has for SMS."""
    return f"+1415{2_000_000 + contact}"


def table_sizes(engine: sa.Engine, schema: str) -> dict[str, int]:
    """The bytes of each table of a schema, with its indexes and what is stored beside it."""
    statement = (
        "SELECT relname, pg_total_relation_size(pg_class.oid) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE nspname = :schema AND relkind = 'r'"
    )
    with engine.connect() as connection:
        return {row[0]: int(row[1]) for row in connection.execute(sa.text(statement), {"schema": schema})}


def vacuum_full(engine: sa.Engine) -> None:
    """VACUUM FULL, which writes every table and index anew."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM FULL"))
