"""The JSON file of each run, and what earlier ones hold."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.verdicts import Told, lines_of

FOLDER = Path(__file__).parent / "results"
FORMAT = 2
OURS = ("wakeloop", "celery", "sqlalchemy", "psycopg", "redis", "pydantic")


def versions_here() -> dict[str, str]:
    """Of wakeloop and what it stands on, in this environment."""
    return {name: version(name) for name in OURS}


def commit_here() -> str:
    """The commit that is measured; "unknown" outside of a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=8"]
    try:
        done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def save(result: dict[str, Any], folder: Path = FOLDER, *, at: datetime | None = None) -> Path:
    """Write a run's file, named after the moment; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = (at or datetime.now(UTC)).strftime("%Y%m%d-%H%M%S")
    number = 1
    while (path := folder / f"{moment}-{number:02}.json").exists():
        number += 1
    path.write_text(json.dumps({"format": FORMAT, **result}, indent=1, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a run's file. Raises ValueError for one of another format."""
    result: dict[str, Any] = json.loads(path.read_text())
    if result.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {result.get('format')}, not {FORMAT}")
    return result


def together(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Runs of some benchmarks each as the one run that they are parts of; of what two measured, the later one counts. Raises
    ValueError if they were made on different machines, at different sizes, or with different versions."""
    first = runs[0]
    for run in runs[1:]:
        for fact in ("machine", "quick"):
            if run[fact] != first[fact]:
                raise ValueError(f"these are no parts of one run: {fact} is {first[fact]}, and {run[fact]}")
    versions: dict[str, dict[str, str]] = {"ours": {}, "peers": {}, "servers": {}}
    limits: dict[str, Any] = {}
    trials: dict[str, Any] = {}
    for run in runs:
        for kind, known in versions.items():
            for name, number in run["versions"][kind].items():
                if known.setdefault(name, number) != number:
                    raise ValueError(f"these are no parts of one run: {name} is {known[name]}, and {number}")
        for name, limit in run["limits"].items():
            taken = [*limits.get(name, {"taken": []})["taken"], *limit["taken"]]
            limits[name] = {**limit, "taken": taken, "median": statistics.median(taken)}
        trials |= {trial["name"]: trial for trial in run["trials"]}
    return {**first, "versions": versions, "limits": limits, "trials": list(trials.values())}


def told(result: Mapping[str, Any]) -> list[Told]:
    """What each line of a run came to."""
    return [line for trial in result["trials"] for line in lines_of(trial)]


def earlier(wanted: Iterable[Told], folder: Path = FOLDER, *, than: Path | None = None) -> list[Told]:
    """Of each of these lines what the latest run before came to in which it was measured at the same size."""
    left = {one.identity for one in wanted}
    found: list[Told] = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        if not left:
            break
        if than is not None and path.name >= than.name:
            continue
        try:
            lines = told(load(path))
        except (ValueError, KeyError):
            continue  # of another version of this program, or cut off
        for line in lines:
            if line.identity in left:
                left.discard(line.identity)
                found.append(line)
    return found
