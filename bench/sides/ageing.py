"""What a wake costs as its session ages: stores with sessions of one wake a day, each day simulated, and further days in them."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from bench.side import Stopwatch, answer
from wakeloop import Context, agent, cron, step
from wakeloop.testing import Simulation

BORN = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NOON = "0 12 * * *"


class Diary(BaseModel):
    days: int = 0


@step
async def look(day: int) -> int:
    return day


@agent(cron(NOON), state=Diary)
async def diarist(ctx: Context[Diary]) -> int:
    """A step and a number a day."""
    ctx.state.days = await look(ctx.state.days) + 1
    return ctx.state.days


def age(url: str, days: int) -> None:
    """Live so many days in an empty store."""
    with Simulation([diarist], store=url, start=BORN) as sim:
        sim.advance(days * DAY)
        assert sim.session(diarist).state.days == days


def work(build: dict[str, int] | None = None, stores: dict[str, str] | None = None, days: dict[str, int] | None = None, further: int = 0) -> dict[str, float]:  # fmt: skip
    """Either build stores, days by URL; or open stores, URLs by name, at the age of `days`, and live so many further days in all
    of them side by side: the milliseconds of a wake in each."""
    if build is not None:
        for url, count in build.items():
            age(url, count)
        return {}
    assert stores is not None and days is not None
    simulations = {
        name: Simulation([diarist], store=url, start=BORN + days[name] * DAY) for name, url in stores.items()
    }
    wall: dict[str, list[float]] = {name: [] for name in stores}
    cpu: dict[str, list[float]] = {name: [] for name in stores}
    for _ in range(further):
        for name, sim in simulations.items():
            watch = Stopwatch()
            sim.advance(DAY)
            wall[name].append(watch.seconds)
            cpu[name].append(watch.cpu)
    figures = {name: statistics.median(taken) * 1000 for name, taken in wall.items()}
    figures |= {f"cpu-{name}": statistics.median(taken) * 1000 for name, taken in cpu.items()}
    for name, sim in simulations.items():
        assert sim.session(diarist).state.days == days[name] + further
        sim.close()
    oldest, youngest = max(days, key=lambda name: days[name]), min(days, key=lambda name: days[name])
    # Of pairs that were measured one right after the other, so that the machine's other work falls out.
    figures["growth"] = statistics.median(
        old / young for old, young in zip(wall[oldest], wall[youngest], strict=True)
    )
    return figures


if __name__ == "__main__":
    answer(work)
