"""`python -m bench`: run benchmarks, compare with the last run, and write the page."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.markup import escape

from bench import restate, results, table
from bench.benchmarks import HIDDEN, NAMES
from bench.lab import PEERS, Lab, Options, server_dsn
from bench.limits import Limits, machine
from bench.page import publish
from bench.rounds import OURS, Outcome, run_trials
from bench.trial import Trial
from bench.verdicts import changes

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)


@app.command()
def run(
    only: Annotated[
        str,
        typer.Option(
            help=f"These, with commas between: {', '.join(NAMES)}; or trials of them, such as sleepers.due.10000."
        ),
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Of each side, alternating.")] = 5,
    quick: Annotated[bool, typer.Option(help="Small sizes, to see that everything works.")] = False,
    peers: Annotated[bool, typer.Option(help="Measure the peers, too.")] = True,
    without: Annotated[
        str, typer.Option(help="Peers to leave out, by how their names begin: dbos,celery-redbeat.")
    ] = "",
    folder: Annotated[Path, typer.Option(help="Where runs are kept.")] = results.FOLDER,
) -> None:
    """Run benchmarks, show the table, keep everything in a JSON file, and say what got worse."""
    names = _words(only) or list(NAMES)
    if unknown := sorted({_benchmark(name) for name in names} - {*NAMES, *HIDDEN}):
        raise typer.BadParameter(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    options = Options(rounds=rounds, quick=quick, peers=peers)
    if peers and restate.server() is None:
        console.print("Restate is left out: npm was not there, or could not bring its server")
    begin = list(os.getloadavg())
    limits = Limits()
    with Lab(options) as lab:
        trials = left_out(_words(without), [trial for name in names for trial in _trials(name, lab)])
        wanted = {line.limit for trial in trials for line in trial.lines if line.limit is not None}
        limits.take(lab, wanted)
        outcomes, is_cut_short = run_trials(trials, rounds, peers=peers, told=_tell, done=_done)
        if not is_cut_short:
            limits.take(lab, wanted)
        servers = _servers(lab)
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": results.commit_here(),
        "only": names,
        "rounds": rounds,
        "quick": quick,
        "machine": machine(),
        "load": {"begin": begin, "end": list(os.getloadavg())},
        "versions": {"ours": results.versions_here(), "peers": _peers() if peers else {}, "servers": servers},
        "limits": limits.as_json(),
        "trials": [outcome.as_json() for outcome in outcomes],
    }
    path = results.save(result, folder)
    _report(result, path, folder)
    if is_cut_short:
        console.print("cut short: what was not over is not in it")
        raise typer.Exit(130)
    if any(OURS in outcome.failures for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def show(file: Annotated[Path, typer.Argument(help="A run's file.", exists=True, dir_okay=False)]) -> None:
    """Show a run that was kept, compared with the one before it."""
    _report(results.load(file), file, file.parent)


@app.command()
def page(
    files: Annotated[
        list[Path],
        typer.Argument(help="The file of a full run, or those of its parts.", exists=True, dir_okay=False),
    ],
) -> None:
    """Put the figures of a run, or of several that are parts of one, into docs/benchmarks.md."""
    try:
        publish([results.load(file) for file in files])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _trials(name: str, lab: Lab) -> list[Trial]:
    """Those of a benchmark, or of its trials those whose names begin so, part by part."""
    module = importlib.import_module(f"bench.benchmarks.{_benchmark(name)}")
    trials: list[Trial] = list(module.trials(lab))
    found = [trial for trial in trials if f"{trial.name}.".startswith(f"{name}.")]
    if not found:
        names = ", ".join(trial.name for trial in trials)
        raise typer.BadParameter(f"there is no trial {name}; there are: {names}")
    return found


def left_out(names: Sequence[str], trials: Sequence[Trial]) -> list[Trial]:
    """The trials without the peers whose names begin so."""
    starts = tuple(name.lower() for name in names)
    there = {peer for trial in trials for peer in trial.peers}
    if unknown := [start for start in starts if not any(peer.lower().startswith(start) for peer in there)]:
        raise typer.BadParameter(
            f"there is no peer {', '.join(unknown)} here; there are: {', '.join(sorted(there)) or 'none'}"
        )
    return [
        replace(
            trial,
            peers={name: side for name, side in trial.peers.items() if not name.lower().startswith(starts)},
        )
        for trial in trials
    ]


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _benchmark(name: str) -> str:
    return name.partition(".")[0]


def _done(outcome: Outcome) -> None:
    for name, failures in outcome.failures.items():
        console.print(f"[red]failed[/]  {outcome.trial.name}: {name}: {escape(failures[0][-2000:])}")
    console.print(f"[dim]{outcome.trial.name}: {outcome.seconds:.0f} s[/]")


def _tell(text: str) -> None:
    if console.is_terminal:
        console.print(f"[dim]{text}[/]")


def _report(result: dict[str, Any], path: Path, folder: Path) -> None:
    lines = results.told(result)
    console.print()
    table.show(console, lines, result["limits"])
    console.print()
    before = results.earlier(lines, folder, than=path)
    table.show_changes(console, changes(lines, before), compared=bool(before))
    load = result["load"]
    console.print(
        f"load {load['begin'][0]:.1f} at the begin, {load['end'][0]:.1f} at the end; kept as {path}"
    )


def _servers(lab: Lab) -> dict[str, str]:
    found = {}
    if lab.has_postgres:
        with psycopg.connect(server_dsn(lab.postgres.url)) as connection:
            row = connection.execute("SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')").fetchone()  # fmt: skip
        assert row is not None
        found["postgres"] = f"PostgreSQL {row[0].split()[0]} (fsync {row[1]}, synchronous_commit {row[2]})"
    if lab.has_redis:
        with lab.redis.client() as client:
            info: Any = client.info("server")
        name = "Valkey" if "valkey_version" in info else "Redis"
        found["redis"] = f"{name} {info.get('valkey_version') or info['redis_version']}"
    return found


def _peers() -> dict[str, str]:
    """The peers' versions, as pip lists them in their environment."""
    if not PEERS.exists():
        return {}
    done = subprocess.run(
        [PEERS, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    installed = {one["name"]: one["version"] for one in json.loads(done.stdout)}
    names = (
        "dbos",
        "langgraph",
        "langgraph-checkpoint-sqlite",
        "langgraph-checkpoint-postgres",
        "celery-redbeat",
        "restate-sdk",
    )
    server = restate.version()
    found = {name: installed[name] for name in names if name in installed}
    return found | ({"restate-server": server} if server else {})


if __name__ == "__main__":
    app()
