"""Crowds of sessions are handed over before their time, so that their runs are replayed by then; nothing runs early."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.conformance.store_kit import EVERY_STORE, claim, make_stores
from tests.integration.ahead_kit import MANY, Rig
from tests.servers import until

from wakeloop import Context, agent
from wakeloop.events import Message
from wakeloop.store import leases
from wakeloop.timers import AHEAD, CROWD, CROWD_SHARE

awake: list[tuple[str, datetime]] = []


@agent()
async def sleeper(ctx: Context[None]) -> str:
    """Sleeps until an instant, or until somebody writes."""
    until = datetime.fromisoformat(ctx.event.input)
    message = await ctx.sleep_until(until, or_message=True)
    awake.append((ctx.key, ctx.now()))
    return "slept" if message is None else "woken"


def lull(rig: Rig, count: int) -> None:
    """Put so many to sleep until the instant."""
    rig.start("sleeper", map(str, range(count)), rig.instant.isoformat())
    until(lambda: rig.statuses() == {"waiting": count} and rig.executor.held == 0)


def results(rig: Rig) -> dict[str, int]:
    """How many runs came to what."""
    rows = rig.store.rows(
        "SELECT result, count(*) AS many FROM runs WHERE result IS NOT NULL GROUP BY result"
    )
    return {json.loads(row.result): row.many for row in rows}


@pytest.fixture(params=EVERY_STORE)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    awake.clear()
    for store in make_stores(request, tmp_path):
        rig = Rig(store, sleeper)
        yield rig
        rig.close()


def test_a_crowd_is_handed_over_ahead_and_runs_on_time(rig: Rig) -> None:
    """It is in a worker's memory before the instant, with nothing written for it; none goes on before the instant, and all
    do at it."""
    lull(rig, MANY)
    early = rig.approach(AHEAD + timedelta(seconds=1))
    swept = rig.approach(AHEAD - timedelta(seconds=1))
    ticket = rig.executor.submit(swept.sessions)
    until(lambda: rig.executor.held == MANY and rig.executor.is_idle)
    before = (len(awake), rig.statuses())
    rig.move(rig.instant - timedelta(microseconds=1))
    is_over = ticket.wait(1.5)
    rig.move(rig.instant)

    assert ticket.wait(30)
    assert early.is_empty
    assert [len(message.sessions) for message in swept.turns] == [min(MANY, CROWD_SHARE)]
    assert before == (0, {"waiting": MANY})
    assert not is_over
    assert (len(awake), {at for _, at in awake}) == (MANY, {rig.instant})
    assert results(rig) == {"slept": MANY}
    assert rig.executor.held == 0


def test_a_few_are_left_until_they_are_due(rig: Rig) -> None:
    """What is no crowd occupies no worker before its time."""
    lull(rig, CROWD - 1)

    ahead = rig.approach(timedelta(seconds=1))
    due = rig.approach(timedelta(0))

    assert ahead.is_empty
    assert len(due.sessions) == CROWD - 1


def test_a_session_handed_over_far_too_early_is_let_go_again(rig: Rig) -> None:
    """As after a clock that was set back: it goes on sleeping in the store, and wakes when it is due."""
    lull(rig, MANY)
    with rig.store.database.begin() as connection:
        claimed = leases.claim_due(
            connection, now=rig.store.now, agents=["sleeper"], limit=1000, soon=rig.instant
        )
    sessions = [id for id, _, _ in claimed]

    assert len(sessions) == MANY
    assert rig.executor.submit(sessions).wait(30)
    assert rig.executor.held == 0
    assert awake == []
    assert rig.statuses() == {"waiting": MANY}
    assert rig.approach(timedelta(0)).sessions == sessions


def test_what_comes_for_a_session_that_is_held_ahead_is_not_left_lying(rig: Rig) -> None:
    """A message in the last seconds of a sleep ends it, as at any other time."""
    lull(rig, MANY)
    rig.executor.submit(rig.approach(timedelta(seconds=2)).sessions)
    until(lambda: rig.executor.held == MANY)
    facts = {"id": str(rig.store.id()), "from": "ann", "channel": "sms", "text": "up!", "at": rig.store.now}
    rig.post("sleeper", "7", Message.model_validate(facts))

    until(lambda: results(rig) == {"woken": 1})
    assert [key for key, _ in awake] == ["7"]
    assert rig.executor.held == MANY - 1
    rig.move(rig.instant)
    until(lambda: results(rig) == {"woken": 1, "slept": MANY - 1})


def test_what_a_dead_worker_held_ahead_wakes_with_another(rig: Rig) -> None:
    """Nothing was written while it was held; when the lease has run out it is anybody's, and each wakes once."""
    lull(rig, MANY)
    held, taken_over = rig.outlive_a_worker()

    assert held == taken_over == len(awake) == MANY
    assert results(rig) == {"slept": MANY}


def test_what_is_in_hand_is_no_crowd(rig: Rig) -> None:
    """Neither leases that are to end nor what a broker carries is handed over before its time, by however many sweeps."""
    lull(rig, MANY)
    first = rig.approach(timedelta(seconds=2))
    again = rig.timers.sweep()
    with rig.store.database.begin() as connection:
        held = claim(
            connection,
            first.sessions,
            owner="w",
            now=rig.store.now,
            until=rig.store.now + timedelta(seconds=2),
        )
    leased = rig.timers.sweep()

    assert len(first.sessions) == len(held) == MANY
    assert again.is_empty
    assert leased.is_empty


def test_many_threads_sweep_and_each_session_is_handed_over_once(rig: Rig) -> None:
    """Workers look ahead beside each other."""
    lull(rig, MANY)
    found = rig.sweep_together(timedelta(seconds=2))

    assert len(found) == len(set(found)) == MANY
