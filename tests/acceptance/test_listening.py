"""Worker processes that fetch a channel's messages: one does it for all, and a SIGKILL neither loses nor doubles one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.acceptance.plant import ROOT, SETTINGS, Plant, make_plant
from tests.pond_kit import PondProvider, install
from tests.servers import Postgres, Redis, poll

pytestmark = pytest.mark.timeout(300)

AGENTS = """
from wakeloop import Context, agent, on_message


@agent(on_message())
async def echo(ctx: Context[None]) -> str:
    return ctx.event.text
"""


@pytest.fixture
def provider() -> Iterator[PondProvider]:
    with PondProvider() as provider:
        yield provider


@pytest.fixture
def plant(
    tmp_path: Path, postgres_server: Postgres, redis_server: Redis, provider: PondProvider, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Plant]:  # fmt: skip
    packages = tmp_path / "packages"
    install(packages)
    monkeypatch.syspath_prepend(packages)
    settings = SETTINGS.replace('sms = "{alice}"', 'pond = "alice"')
    settings += f'\n[channels.pond]\nurl = "{provider.url}"\n'
    path = os.pathsep.join([str(ROOT), str(packages), os.environ.get("PYTHONPATH", "")])
    with make_plant(
        tmp_path,
        postgres_server,
        redis_server,
        agents={"echo.py": AGENTS},
        settings=settings,
        PYTHONPATH=path,
    ) as plant:
        yield plant


def in_turn(provider: PondProvider, *pids: int) -> bool:
    """Whether these processes asked the provider, one after another and never two at a time."""
    times = {pid: [at for by, at in provider.asked if by == pid] for pid in pids}
    return {by for by, _ in provider.asked} == set(pids) and all(
        max(times[one]) < min(times[next_one]) for one, next_one in pairwise(pids)
    )


def texts(count: int) -> list[str]:
    return [f"message {n}" for n in range(1, count + 1)]


@pytest.mark.parametrize("passing", [1, 4])
def test_a_worker_killed_between_a_message_and_the_cursor_is_replaced_without_loss_or_repetition(
    plant: Plant, provider: PondProvider, passing: int
) -> None:
    """The heir fetches that message again, and it counts once."""
    provider.write(*texts(5))
    with plant.worker("doomed", crash_at="listeners.recorded", passing=passing) as doomed:
        killed = doomed.pid
        assert doomed.wait(60) == -signal.SIGKILL
        with plant.worker("heir") as heir:
            heir.wait_for("listening")
            provider.write(*texts(10)[5:])
            runs = plant.wait_until_over("echo", 10, seconds=90)

            assert [run.result for run in sorted(runs, key=lambda run: run.id)] == texts(10)
            assert in_turn(provider, killed, heir.pid)


def test_of_two_workers_one_listens_and_the_other_goes_on_when_it_is_killed_or_stopped(
    plant: Plant, provider: PondProvider
) -> None:
    """After a kill when the lease has run out, after a stop at once."""
    with plant.worker("first") as first:
        first.wait_for("listening")
        with plant.worker("second") as second:
            second.wait_for("ready.")
            provider.write(*texts(3))
            plant.wait_until_over("echo", 3, seconds=60)
            assert in_turn(provider, first.pid)
            one, two = first.pid, second.pid

            first.kill()
            provider.write(*texts(6)[3:])
            plant.wait_until_over("echo", 6, seconds=60)
            assert in_turn(provider, one, two)

            with plant.worker("third") as third:
                third.wait_for("ready.")
                second.stop()
                provider.write(*texts(9)[6:])
                runs = plant.wait_until_over("echo", 9, seconds=60)
                for _ in poll(1):
                    pass
                assert in_turn(provider, one, two, third.pid)

    assert [run.result for run in sorted(runs, key=lambda run: run.id)] == texts(9)
