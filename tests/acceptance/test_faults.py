"""Redis and PostgreSQL fail while work goes on: it recovers without help, and nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.acceptance.plant import ALICE, BIN, Plant, make_plant
from tests.servers import Postgres, Program, Redis, free_port, poll

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def plant(tmp_path: Path, postgres_server: Postgres, redis_server: Redis) -> Iterator[Plant]:
    with make_plant(tmp_path, postgres_server, redis_server) as plant:
        yield plant


def flush(redis: Redis, postgres: Postgres) -> None:
    redis.flushall()


def restart_redis(redis: Redis, postgres: Postgres) -> None:
    redis.stop()
    for _ in poll(2.0):
        pass
    redis.start()


def restart_postgres(redis: Redis, postgres: Postgres) -> None:
    postgres.restart()


def kill_postgres(redis: Redis, postgres: Postgres) -> None:
    postgres.kill()
    postgres.start()


FAULTS = [flush, restart_redis, restart_postgres, kill_postgres]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_work_under_way_survives_a_fault_of_its_servers(
    plant: Plant, redis_server: Redis, postgres_server: Postgres, fault: Callable[[Redis, Postgres], None]
) -> None:
    """Runs asleep, in a step and about to be started all complete once, and each of their messages is sent once."""
    labels = [f"n{number}" for number in range(12)]
    with plant.worker("one") as one, plant.worker("two") as two:
        one.wait_for("ready.")
        two.wait_for("ready.")
        for label in labels[:6]:
            plant.start("sleeper", label, key=label)
        for _ in poll(1.0):
            pass
        fault(redis_server, postgres_server)
        for label in labels[6:]:
            plant.start("sleeper", label, key=label)
        for _ in poll(1.5):
            pass
        fault(redis_server, postgres_server)

        runs = plant.wait_until_over("sleeper", len(labels), seconds=120)
        plant.twilio.wait_for(len(labels), timeout=60)

        # Celery 5.7 may end a worker whose broker goes away at a bad moment; whoever supervises it starts it again.
        assert one.running or two.running, f"{one.output}\n{two.output}"
    assert {run.result for run in runs} == {f"{label} 4" for label in labels}
    assert plant.texts() == Counter({f"{label} is done": 1 for label in labels})


def test_a_reply_while_the_broker_is_away_is_taken_and_comes_to_its_run_afterwards(
    plant: Plant, redis_server: Redis
) -> None:
    """The provider gets its answer at once, and a worker finds the session when the broker is back."""
    with plant.worker("worker") as worker, plant.web() as web:
        worker.wait_for("ready.")
        web.wait_for("wakeloop web on")
        plant.start("hearer", "it")
        for _ in poll(60):
            if plant.runs("hearer")[0].status == "waiting":
                break
        redis_server.stop()
        begun = time.monotonic()
        first = plant.twilio.reply("yes", from_=ALICE)
        took = time.monotonic() - begun
        web.wait_for("left to the workers for a while")
        redis_server.start()
        with contextlib.ExitStack() as stack:
            if not worker.running:  # as above
                stack.enter_context(plant.worker("next"))
            [run] = plant.wait_until_over("hearer", 1, seconds=90)

    assert first.status == 200
    assert took < 4.0
    assert (run.status, run.result) == ("completed", "yes")


def test_flower_shows_each_agents_turns_under_its_own_name(plant: Plant) -> None:
    """`celery -A wakeloop flower` lists turns as wakeloop.agents.<name> with the session as a readable argument."""
    port = free_port()
    environment = plant.environment | {"FLOWER_UNAUTHENTICATED_API": "true"}
    argv = [BIN / "celery", "-A", "wakeloop", "flower", f"--port={port}", "--address=127.0.0.1"]
    with Program(argv, env=environment, cwd=plant.folder), plant.worker("worker") as worker:
        worker.wait_for("ready.")
        found: dict[str, dict[str, str]] = {}
        for number in range(40):
            plant.start("sleeper", f"n{number}", key=f"n{number}")
            found = _tasks(port)
            if any(task["name"] == "wakeloop.agents.sleeper" for task in found.values()):
                break

    turns = [task for task in found.values() if task["name"] == "wakeloop.agents.sleeper"]
    assert turns
    assert "sleeper/n" in turns[0]["args"] + turns[0]["kwargs"]


def _tasks(port: int) -> dict[str, dict[str, str]]:
    for _ in poll(1.0):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/tasks", timeout=2) as answer:
                tasks: dict[str, dict[str, str]] = json.load(answer)
        except OSError:
            continue
        if tasks:
            return tasks
    return {}


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("WAKELOOP_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none", "WAKELOOP_DATABASE_URL"),
        ("WAKELOOP_DATABASE_URL", "mysql://localhost/x", "sqlite:// or postgresql://"),
        ("WAKELOOP_BROKER_URL", "redis://127.0.0.1:1/0", "broker"),
    ],
)
def test_a_worker_that_is_set_up_wrong_says_so_and_ends(
    plant: Plant, variable: str, value: str, words: str
) -> None:
    """One line says what is wrong and what to do; the exit status is not zero, and no password is shown."""
    plant.environment[variable] = value
    with plant.worker("wrong") as worker:
        status = worker.wait(60)
        output = worker.output

    assert status not in (0, None)
    assert words in output
    assert "secret" not in output
    assert "Traceback" not in output
