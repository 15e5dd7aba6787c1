"""b. Runs a second with 0, 1 and 3 trivial steps: embedded on SQLite, and on PostgreSQL with one and two workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.servers import Program, free_port

from bench import restate
from bench.lab import BIN, Lab, worker_environment
from bench.sides.embedding import AGENTS
from bench.trial import Bar, Better, Figures, Line, Side, Trial

MORE, LESS = Better.MORE, Better.LESS
STARTERS = 64
WARM = 20
AT_ONCE = 64
"""Workflows that each process of DBOS has under way: of 16, 64 and 256 it was the best, or as good."""
CALLS_AT_ONCE = (16, 64)
"""Of Restate's, whichever is better."""
WARM_CALLS = 200
"""It has 24 partitions, each with connections of its own to the application."""
TIMES = {"DBOS": 10.0, "Restate": 3.0}
"""So many times theirs is wanted of runs of three steps."""


def trials(lab: Lab) -> Iterator[Trial]:
    runs = lab.size(1000, 60)
    for steps in (0, 1, 3):
        yield _sqlite(lab, runs, steps)
    for workers in (1, 2):
        for steps in (0, 1, 3):
            yield _postgres(lab, runs, steps, workers)
    yield _postgres(lab, runs, 3, 1, http=True)


def _sqlite(lab: Lab, runs: int, steps: int) -> Trial:
    def ours() -> Figures:
        with lab.database(sqlite=True) as url:
            return lab.ours("runs_embedded", url=url, runs=runs, steps=steps, starters=STARTERS, warm=WARM)

    return _trial(
        "sqlite", f"runs of {_steps(steps)}, SQLite, embedded", runs, steps, 1, ours, _dbos(lab, runs, steps, 1, sqlite=True),
        bar=Bar(times=10) if steps == 3 else None, limit="sqlite",
    )  # fmt: skip


def _postgres(lab: Lab, runs: int, steps: int, workers: int, *, http: bool = False) -> Trial:
    def ours() -> Figures:
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(lab.database(sqlite=False))
            programs = stack.enter_context(lab.workers(workers, url, agents=AGENTS))
            web = stack.enter_context(_web(lab, url)) if http else None
            job: dict[str, Any] = {
                "url": url,
                "broker": lab.redis.url,
                "runs": runs,
                "steps": steps,
                "starters": STARTERS,
            }
            pids = [program.pid for program in programs]
            return lab.ours("runs_starter", **job, warm=WARM, workers=pids, web=web)

    words = f"{workers} worker{'s' if workers > 1 else ''}"
    how = ", started over HTTP" if http else ""
    return _trial(
        f"postgresql-{workers}{'-http' if http else ''}", f"runs of {_steps(steps)}, PostgreSQL, {words}{how}", runs, steps,
        workers, ours, _dbos(lab, runs, steps, workers, sqlite=False) | _restate(lab, runs, steps, workers),
        bar=Bar(times_of=TIMES) if steps == 3 and not http else None, limit="postgres-8",
    )  # fmt: skip


def _dbos(lab: Lab, runs: int, steps: int, processes: int, *, sqlite: bool) -> dict[str, Side]:
    def side(way: str) -> Side:
        def go() -> Figures:
            with lab.database(sqlite=sqlite) as url:
                job: dict[str, Any] = {"way": way, "url": url, "runs": runs, "steps": steps, "warm": WARM}
                return lab.theirs("dbos_runs", **job, processes=processes, at_once=AT_ONCE)

        return go

    return {"DBOS, started directly": side("direct"), "DBOS, its queue": side("queue")}


def _restate(lab: Lab, runs: int, steps: int, processes: int) -> dict[str, Side]:
    def side(at_once: int) -> Side:
        def go() -> Figures:
            with restate.Restate(lab.folder(), processes=processes) as it:
                job = {"port": it.port, "runs": runs, "steps": steps, "at_once": at_once, "warm": WARM_CALLS}
                return lab.theirs("restate_runs", **job, apps=it.pids, server=it.server.pid)

        return go

    return restate.if_there({f"Restate, {at_once} at once": side(at_once) for at_once in CALLS_AT_ONCE})


def _trial(
    place: str,
    work: str,
    runs: int,
    steps: int,
    processes: int,
    ours: Side,
    peers: dict[str, Side],
    *,
    bar: Bar | None,
    limit: str,
) -> Trial:
    return Trial(
        name=f"runs.{place}.{steps}",
        lines=(
            Line(key="rate", work=work, unit="/s", better=MORE, bar=bar, limit=limit),
            Line(key="cpu", work="… CPU of a run, all processes but the server", unit="ms", better=LESS),
        ),
        ours=ours,
        peers=peers,
        size={"runs": runs, "processes": processes},
    )


def _steps(count: int) -> str:
    return {0: "no step", 1: "1 step"}.get(count, f"{count} steps")


@contextlib.contextmanager
def _web(lab: Lab, url: str) -> Iterator[str]:
    port = free_port()
    env = worker_environment(url, lab.redis.url, AGENTS)
    with Program([BIN / "wakeloop", "web", "--port", str(port)], env=env, cwd=lab.folder()) as program:
        program.wait_for("wakeloop web on")
        yield f"http://127.0.0.1:{port}"
