"""The smallest benchmark, to see that the harness works: the engine alone, a few operations. Not among `NAMES`."""

from __future__ import annotations

from collections.abc import Iterator

from bench.benchmarks.engine import alone
from bench.lab import Lab
from bench.trial import Trial


def trials(lab: Lab) -> Iterator[Trial]:
    yield alone(lab, name="smoke.operation", sizes=[10, 100], operations=200)
