"""A worker is killed with SIGKILL at the worst moments; another takes up its work, and nothing is lost or doubled."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.acceptance.plant import ALICE, Plant, make_plant
from tests.servers import Postgres, Redis, poll

from wakeloop.events import Tick, load_event
from wakeloop.store.database import Database
from wakeloop.timers import CROWD

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def plant(tmp_path: Path, postgres_server: Postgres, redis_server: Redis) -> Iterator[Plant]:
    with make_plant(tmp_path, postgres_server, redis_server) as plant:
        yield plant


WORST_MOMENTS = [
    ("engine.step_done", 1),
    ("engine.step_committed", 2),
    ("engine.committing", 1),
    ("engine.committing", 3),
    ("engine.committed", 2),
    ("engine.committed", 3),
    ("timers.claimed", 2),
    ("outbox.claimed", 1),
    ("outbox.sent", 1),
    ("outbox.sent", 2),
]


@pytest.mark.parametrize(("point", "passing"), WORST_MOMENTS, ids=[f"{p}-{n}" for p, n in WORST_MOMENTS])
def test_a_worker_killed_at_any_crash_point_is_replaced_without_loss_or_repetition(
    plant: Plant, point: str, passing: int
) -> None:
    """The run completes, each message is sent once, and only a step that was not committed may run twice."""
    with plant.web() as web, plant.worker("doomed", crash_at=point, passing=passing) as doomed:
        web.wait_for("wakeloop web on")
        doomed.wait_for("ready.")
        run = plant.start("survivor", "it")
        person = threading.Thread(target=_answer_once, args=(plant,))
        person.start()

        assert doomed.wait(60) == -signal.SIGKILL
        with plant.worker("heir"):
            runs = plant.wait_until_over("survivor", 1, seconds=90)
            plant.wait_until_sent(2, seconds=60)
        person.join()

    assert [(one.id, one.status, one.result) for one in runs] == [(run, "completed", "it first, it second")]
    assert plant.texts() == Counter({"it: go on?": 1, "it: yes, 1": 1})
    effects = plant.effects_of("it ")
    assert set(effects) == {"it first", "it second"}
    uncommitted = point in ("engine.step_done", "engine.committing")
    assert sum(effects.values()) <= (3 if uncommitted else 2)


def _answer_once(plant: Plant) -> None:
    question = plant.twilio.wait_for(1, to=ALICE, timeout=90)[0]
    assert plant.twilio.reply("yes", from_=question.to).status == 200


def test_the_doomed_worker_really_dies_by_sigkill(plant: Plant) -> None:
    """The trap is a real SIGKILL, and what it interrupted waits for a worker: here nobody else is there at first."""
    with plant.worker("doomed", crash_at="engine.step_done") as doomed:
        doomed.wait_for("ready.")
        plant.start("survivor", "it")

        status = doomed.wait(60)

    assert status == -signal.SIGKILL
    assert plant.effects_of("it") == Counter({"it first": 1})
    assert plant.runs("survivor")[0].status == "running"
    with plant.worker("heir") as heir:
        heir.wait_for("ready.")
        plant.twilio.wait_for(1, to=ALICE, timeout=60)
    assert plant.effects_of("it") == Counter({"it first": 2})


def test_ticks_are_neither_lost_nor_doubled_when_workers_die_between_claiming_and_handing_over(
    plant: Plant,
) -> None:
    """Each occurrence of a schedule runs once, though the worker that claimed one died with it in hand."""
    with plant.worker("doomed", crash_at="timers.claimed", passing=12), plant.worker("heir") as heir:
        heir.wait_for("ready.")
        runs = plant.wait_until_over("beat", 6, seconds=90)

    done = [run for run in runs if run.status == "completed"]
    nominal = sorted(run.result for run in done)
    assert len(set(nominal)) == len(nominal)
    times = sorted(run.event.nominal for run in done)
    assert {later - earlier for earlier, later in pairwise(times)} == {times[1] - times[0]}
    assert max(plant.effects_of("beat").values()) == 1


_HELD_AHEAD = (
    "SELECT count(*) FROM runs JOIN sessions ON sessions.id = session_id "
    "WHERE status = 'queued' AND wake_at > now() AND owner IS NOT NULL AND agent = 'metronome'"
)


def test_ticks_that_a_worker_held_ahead_of_their_time_begin_with_another_when_it_is_killed(
    plant: Plant,
) -> None:
    """A crowd's ticks are queued and in a worker's memory seconds before their time, when it dies: each begins once, and none
    before its time."""
    database = plant.runtime.database

    def number(statement: str) -> int:
        with database.read() as connection:
            return int(connection.execute(sa.text(statement)).scalar_one())

    with plant.worker("doomed") as doomed:
        doomed.wait_for("ready.")
        for key in range(CROWD):
            plant.start("metronome", "", key=str(key))
        for _ in poll(90):
            if number(_HELD_AHEAD) == CROWD:
                break
        doomed.kill()
    # Another agent's tick may be due in the same seconds.
    [(instant, queued)] = _rows(
        database,
        "SELECT max(nominal), count(*) FROM runs JOIN sessions ON sessions.id = session_id "
        "WHERE status = 'queued' AND agent = 'metronome'",
    )
    with plant.worker("heir") as heir:
        heir.wait_for("ready.")
        for _ in poll(60):
            if (
                number("SELECT count(*) FROM runs WHERE schedule_id IS NOT NULL AND status != 'completed'")
                == 0
            ):
                break

    assert queued == CROWD
    done = _rows(
        database,
        "SELECT nominal, started_at, status, event FROM runs JOIN sessions ON sessions.id = session_id "
        "WHERE schedule_id IS NOT NULL AND agent = 'metronome'",
    )
    assert {row.status for row in done} == {"completed"}
    assert [row.nominal for row in done].count(instant) == CROWD
    assert all(row.started_at >= row.nominal for row in done)
    ticks = [load_event(row.event) for row in done]
    assert all(isinstance(tick, Tick) and tick.actual >= tick.nominal for tick in ticks)


def _rows(database: Database, statement: str) -> list[Any]:
    with database.read() as connection:
        return list(connection.execute(sa.text(statement)))


def test_a_webhook_whose_service_dies_before_it_answers_counts_once(plant: Plant) -> None:
    """The provider sends it again, and the second time changes nothing."""
    with plant.worker("worker") as worker:
        worker.wait_for("ready.")
        plant.start("survivor", "it")
        question = plant.twilio.wait_for(1, to=ALICE, timeout=60)[0]
        sid = "SM" + "7" * 32
        with plant.web() as web:
            web.wait_for("wakeloop web on")
            for _ in range(3):
                assert plant.twilio.reply("yes", from_=question.to, sid=sid).status == 200
            web.kill()
        with plant.web() as web:
            web.wait_for("wakeloop web on")
            assert plant.twilio.reply("yes", from_=question.to, sid=sid).status == 200
            plant.wait_until_over("survivor", 1, seconds=60)
            plant.twilio.wait_for(2, to=ALICE, timeout=60)

    assert plant.texts() == Counter({"it: go on?": 1, "it: yes, 1": 1})


@pytest.mark.parametrize("waits", ["survivor", "hearer"])
def test_a_reply_is_not_lost_with_a_web_service_that_has_committed_it_and_not_handed_it_over(
    plant: Plant, waits: str
) -> None:
    """Its session is due again ten seconds later, and a worker takes it up. The provider, which got no answer, sends the
    reply again; that changes nothing."""
    sid = "SM" + "8" * 32
    with plant.worker("worker") as worker:
        worker.wait_for("ready.")
        plant.start(waits, "it")
        if waits == "survivor":
            plant.twilio.wait_for(1, to=ALICE, timeout=60)
        for _ in poll(60):
            if plant.runs(waits)[0].status == "waiting":
                break
        with plant.web(crash_at="handing.taken") as web:
            web.wait_for("wakeloop web on")
            with pytest.raises(OSError):
                plant.twilio.reply("yes", from_=ALICE, sid=sid)
            assert web.wait(30) == -signal.SIGKILL
        with plant.web() as web:
            web.wait_for("wakeloop web on")
            assert plant.twilio.reply("yes", from_=ALICE, sid=sid).status == 200
            [run] = plant.wait_until_over(waits, 1, seconds=60)

    assert run.status == "completed"
    assert run.result == ("it first, it second" if waits == "survivor" else "yes")


def test_any_number_of_kills_at_any_time_leave_every_run_done_once(plant: Plant) -> None:
    """Ten runs, and a worker killed every second or so, whatever it is doing."""
    labels = [f"n{number}" for number in range(10)]
    with plant.worker("first") as first, plant.worker("second") as second:
        first.wait_for("ready.")
        second.wait_for("ready.")
        for label in labels:
            plant.start("sleeper", label, key=label)
        for victim in (first, second, first, second):
            for _ in poll(1.2):
                pass
            victim.kill()
            victim.start()
        runs = plant.wait_until_over("sleeper", len(labels), seconds=120)
        plant.twilio.wait_for(len(labels), to=ALICE, timeout=60)

    assert {run.result for run in runs} == {f"{label} 4" for label in labels}
    assert plant.texts() == Counter({f"{label} is done": 1 for label in labels})
