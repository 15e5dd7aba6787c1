"""a. The engine alone: an operation live and in replay, a step with its store, and a wake as a session ages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.lab import Lab
from bench.trial import Bar, Better, Figures, Line, Trial

LESS = Better.LESS
GROWTH_BAR = Bar(at_most=1.25)
"""What counts as equal, or as linear: noise of the machine and no more."""


def trials(lab: Lab) -> Iterator[Trial]:
    yield alone(lab, name="engine.operation", sizes=[10, 100, 1000], operations=lab.size(20_000, 2_000))
    yield _steps(lab, sqlite=True)
    yield _steps(lab, sqlite=False)
    yield _ageing(lab, sqlite=True)
    yield _ageing(lab, sqlite=False)


def alone(lab: Lab, *, name: str, sizes: list[int], operations: int) -> Trial:
    """Of runs of these sizes, `operations` in all."""
    lines = [
        Line(key=f"{way}-{size}", work=f"one operation of {size:,}, {words} (CPU)", unit="µs", better=LESS)
        for way, words in (("live", "live, no store"), ("replay", "in replay, no store"))
        for size in sizes
    ]
    words = f"replay of {sizes[-1]:,} beside {sizes[-2]:,}, per operation"
    lines.append(Line(key="growth", work=words, unit="×", better=LESS, bar=GROWTH_BAR))
    return Trial(
        name=name,
        lines=tuple(lines),
        ours=lambda: lab.ours("engine_alone", sizes=sizes, operations=operations),
        size={"operations": operations},
    )


def _steps(lab: Lab, *, sqlite: bool) -> Trial:
    sizes, steps = lab.size(([10, 100, 1000], 1000), ([10, 100], 30))
    store = "SQLite" if sqlite else "PostgreSQL"
    limit = "sqlite" if sqlite else "postgres-1"

    def ours() -> Figures:
        with lab.database(sqlite=sqlite) as url:
            return lab.ours("steps", url=url, sizes=sizes, steps=steps)

    def dbos() -> Figures:
        with lab.database(sqlite=sqlite) as url:
            return lab.theirs("dbos_steps", url=url, sizes=sizes, steps=steps)

    lines = [
        Line(key=f"run-{size}", work=f"a run of {size:,} steps, alone, {store}", unit="ms", better=LESS)
        for size in sizes
    ]
    step = Line(key="step", work=f"a step of a long run, alone, {store}", unit="µs", better=LESS, limit=limit)
    return Trial(
        name=f"engine.steps.{store.lower()}",
        lines=(*lines, step),
        ours=ours,
        peers={"DBOS": dbos},
        size={"sizes": sizes, "steps": steps},
    )


AGES = {"day": 1, "year": 365, "decade": 3650}


def _ageing(lab: Lab, *, sqlite: bool) -> Trial:
    ages = lab.size(AGES, {"day": 1, "year": 30, "decade": 300})
    further = lab.size(50, 10)
    store = "SQLite" if sqlite else "PostgreSQL"
    aged: dict[str, str] = {}

    def ours() -> Figures:
        if not aged:  # once for all rounds: ten years take a while
            found = {name: lab.new_database(sqlite=sqlite) for name in ages}
            lab.ours("ageing", build={url: ages[name] for name, url in found.items()})
            aged.update(found)
        with contextlib.ExitStack() as stack:
            copies = {name: stack.enter_context(lab.copy(url)) for name, url in aged.items()}
            return lab.ours("ageing", stores=copies, days=ages, further=further)

    words = {"day": "1 day", "year": "1 year", "decade": "10 years"}
    lines = [
        Line(key=name, work=f"a wake of a session of {words[name]}, {store}", unit="ms", better=LESS)
        for name in ages
    ]
    growth = Line(key="growth", work=f"10 years beside 1 day, {store}", unit="×", better=LESS, bar=GROWTH_BAR)
    return Trial(
        name=f"engine.ageing.{store.lower()}",
        lines=(*lines, growth),
        ours=ours,
        size={"ages": list(ages.values()), "further": further},
    )
