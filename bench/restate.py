"""Restate's side: its server, with data of its own, and an application beside it that does the works."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.servers import Program, ServerError, free_port, poll

from bench.fleet.marks import FOLDER, Marks
from bench.lab import PEERS, environment
from bench.posting import post_all, post_json

T = TypeVar("T")

NPM = PEERS.parents[1] / "restate" / "node_modules" / "@restatedev"
START_SECONDS = 120.0
STARTERS = 64
LOCAL = "127.0.0.1"


def server() -> Path | None:
    """The program that `make bench` had npm bring for this system, if it could."""
    return next(NPM.glob("restate-server-*/bin/restate-server"), None)


def version() -> str | None:
    """The server's, None if it is not there."""
    about = NPM / "restate-server" / "package.json"
    return json.loads(about.read_text())["version"] if server() and about.exists() else None


def if_there(sides: Mapping[str, T]) -> dict[str, T]:
    """These sides of Restate's; none where its server is not."""
    return dict(sides) if server() else {}


class Restate:
    """A server with its default settings, but that it listens here only and tells nobody of its use, and the application in
    so many processes. Used in a `with` block, at whose end the data are deleted. port: of the ingress; pids: the application's."""

    def __init__(self, folder: Path, *, processes: int) -> None:
        program = server()
        if program is None:
            raise ServerError("Restate's server is not there: `make bench` brings it if npm can")
        self.marks = Marks(folder / "marks")
        self.port, self._admin, self._app, node = (free_port() for _ in range(4))
        self._data = folder / "data"
        env = environment(**{
            FOLDER: str(self.marks.folder),
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_INGRESS__BIND_PORT": str(self.port),
            "RESTATE_ADMIN__BIND_PORT": str(self._admin),
        })  # fmt: skip
        where = [
            f"--bind-ip={LOCAL}",
            f"--advertised-host={LOCAL}",
            f"--bind-port={node}",
            "--listen-mode=tcp",
        ]
        self.server = Program(
            [program, f"--base-dir={self._data}", "--node-name=bench", "--no-logo", *where],
            env=env, cwd=folder,
        )  # fmt: skip
        serve = [PEERS, "-m", "bench.peers.restate_app", str(self._app)]
        self.apps = [Program(serve, env=env, cwd=folder) for _ in range(processes)]

    def __enter__(self) -> Restate:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self._data, ignore_errors=True)
            for program in (self.server, *self.apps):
                stack.callback(program.close)
                stack.callback(program.kill)  # they would wait for invocations that go on
                program.start()
            for app in self.apps:
                app.wait_for("serves", START_SECONDS)
            self._wait(self._is_registered)
            self._wait(lambda: post_json(self.port, "/bench/count", 1) == 1)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    @property
    def pids(self) -> list[int]:
        return [app.pid for app in self.apps]

    def _is_registered(self) -> bool:
        return bool(
            post_json(self._admin, "/deployments", {"uri": f"http://{LOCAL}:{self._app}"})["services"]
        )

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds, also while there is nobody to ask yet."""
        for _ in poll(START_SECONDS):
            with contextlib.suppress(OSError, RuntimeError):
                if condition():
                    return
            if not self.server.running:
                break
        said = [program.output[-3000:] for program in (self.server, *self.apps)]
        raise ServerError("\n".join(["Restate does not serve:", *said]))

    # ------------------------------------------------------------------ work

    def start(self, handler: str, calls: Iterable[Any]) -> None:
        """Start an invocation of a handler for each of these values, and return when all are in the log."""
        post_all(self.port, f"/bench/{handler}/send", calls, STARTERS)

    def query(self, statement: str) -> Any:
        """The first value of the first row, None if there is none."""
        rows = post_json(self._admin, "/query", {"query": statement})["rows"]
        return next(iter(rows[0].values())) if rows else None

    def asleep(self) -> int:
        """How many sleeps are on record."""
        return int(self.query("SELECT count(*) FROM sys_journal WHERE entry_type = 'Command: Sleep'"))

    def is_all_over(self) -> bool:
        """Whether no invocation is open."""
        return self.query("SELECT 1 FROM sys_invocation WHERE status <> 'completed' LIMIT 1") is None
