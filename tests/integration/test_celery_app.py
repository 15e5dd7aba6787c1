"""Real worker processes on a real broker: what travels, what survives an outage, how a worker starts and ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import celery
import kombu.exceptions
import pytest
from tests.chaos import poison
from tests.integration.recording_app import CLAIMED, FAILS, HANGS, SLOW, RecordingHost
from tests.servers import Program, Redis, ServerError, free_port, poll

from wakeloop.celery_app import CeleryDispatcher, make_app
from wakeloop.dispatch import TurnMessage

ROOT = Path(__file__).parents[2]
CELERY = [sys.executable, "-m", "celery", "-A", "tests.integration.recording_app"]


class Worker(Program):
    """A worker process of `recording_app` and the record that its host keeps."""

    def __init__(self, redis: Redis, record: Path, *options: str, **settings: str) -> None:
        record.touch()
        self._record = record
        super().__init__(
            [*CELERY, "worker", "--loglevel=INFO", *options],
            cwd=ROOT,
            env={"RECORD_BROKER": redis.url, "RECORD_FILE": str(record), **settings},
        )

    def start(self) -> None:
        super().start()
        self.wait_for(" ready.")

    def events(self, kind: str) -> list[str]:
        """The details of the recorded events of this kind, oldest first."""
        return [
            line.split()[1] for line in self._record.read_text().splitlines() if line.startswith(f"{kind} ")
        ]

    def pids(self, kind: str) -> set[int]:
        lines = self._record.read_text().splitlines()
        return {int(line.rpartition("pid=")[2]) for line in lines if line.startswith(f"{kind} ")}

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        for _ in poll(seconds):
            if condition():
                return
        raise ServerError(
            f"not within {seconds} s; record:\n{self._record.read_text()}\noutput:\n{self.output}"
        )


@pytest.fixture
def redis(redis_server: Redis) -> Redis:
    redis_server.flushall()
    return redis_server


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record.txt"


def _dispatcher(redis: Redis) -> CeleryDispatcher:
    return CeleryDispatcher(make_app(redis.url, queue="wakeloop", concurrency=1, host=RecordingHost))


@pytest.fixture
def dispatcher(redis: Redis) -> Iterator[CeleryDispatcher]:
    dispatcher = _dispatcher(redis)
    yield dispatcher
    dispatcher.close()


def _turn(agent: str, *sessions: int, queue: str | None = None) -> TurnMessage:
    names = tuple(f"{agent}/{session}" for session in sessions)
    return TurnMessage(agent=agent, queue=queue, sessions=sessions, names=names)


def test_making_the_app_connects_nowhere_and_calls_no_host() -> None:
    """A web process or Flower may import it while the broker is down."""

    def host() -> None:
        raise AssertionError("called")

    app = make_app("redis://127.0.0.1:1/0", queue="q", concurrency=3, host=host)  # type: ignore[arg-type]

    assert app.conf.task_default_queue == "q"
    assert app.conf.worker_concurrency == 3
    assert not app.conf.task_acks_late


def test_our_tasks_appear_in_no_other_celery_app() -> None:
    """A program with a Celery app of its own is not touched."""
    before = celery.current_app._get_current_object()

    app = make_app("redis://127.0.0.1:1/0", queue="q", concurrency=1, host=RecordingHost)

    assert "wakeloop.deliver" in app.tasks
    assert "wakeloop.deliver" not in celery.Celery("other", set_as_current=False).tasks
    assert celery.current_app._get_current_object() is before


def test_turns_and_deliveries_reach_the_host_under_their_own_names(
    redis: Redis, record: Path, dispatcher: CeleryDispatcher
) -> None:
    """Each agent's turns are a task of their own name; the agents' queues are consumed without asking for them."""
    with Worker(redis, record) as worker:
        dispatcher.turns([_turn("standup", 1, 2), _turn("billing", 3), _turn("render", 4, queue="gpu")])
        dispatcher.deliveries(["0199-a", "0199-b"])

        worker.wait_until(lambda: len(worker.events("turn")) == 4 and len(worker.events("delivery")) == 2)

        assert sorted(worker.events("turn")) == ["1", "2", "3", "4"]
        assert sorted(worker.events("delivery")) == ["0199-a", "0199-b"]
        for name in ("agents.standup", "agents.billing", "agents.render", "deliver"):
            assert f"Task wakeloop.{name}[" in worker.output


def test_a_worker_told_its_queues_leaves_the_others_alone(
    redis: Redis, record: Path, dispatcher: CeleryDispatcher
) -> None:
    """`-Q` keeps a worker off the queue that an agent asked for."""
    with Worker(redis, record, "-Q", "wakeloop") as worker:
        dispatcher.turns([_turn("render", 1, queue="gpu"), _turn("standup", 2)])

        worker.wait_until(lambda: bool(worker.events("turn")))
        time.sleep(0.5)

        assert worker.events("turn") == ["2"]


def test_a_worker_waits_for_no_other_as_it_starts_and_still_shares_their_clock(
    redis: Redis, record: Path, dispatcher: CeleryDispatcher
) -> None:
    """Looking for others (mingle) would be a second of every start. Their heartbeats bring the clock that puts the tasks of
    all workers in one order in Flower."""
    count = 300
    with Worker(redis, record, "-n", "first@here") as first:
        dispatcher.turns([_turn("standup", session) for session in range(count)])
        first.wait_until(lambda: len(first.events("turn")) == count)

        with Worker(redis, record, "-n", "second@here") as second:
            app = make_app(redis.url, queue="wakeloop", concurrency=1, host=RecordingHost)
            asked = app.control.inspect(destination=["second@here"])
            second.wait_until(lambda: asked.clock()["second@here"]["clock"] > count)

            assert "mingle" not in second.output


def test_the_broker_keeps_nothing_of_a_running_task(
    redis: Redis, record: Path, dispatcher: CeleryDispatcher
) -> None:
    """It never redelivers what runs, nor what was lost with a worker; recovery is the database's."""
    with Worker(redis, record) as worker:
        dispatcher.turns([_turn("standup", HANGS), _turn("billing", FAILS)])
        worker.wait_until(lambda: len(worker.events("turn")) == 2)

        with redis.client() as client:
            keys = {str(key) for key in client.scan_iter()}

    assert keys, "the broker was not looked at"
    assert {key for key in keys if not key.startswith("_kombu.binding")} == set()


def test_what_a_worker_has_to_tell_is_told_before_it_ends(
    redis: Redis, record: Path, dispatcher: CeleryDispatcher
) -> None:
    """It says several things at a time, and keeps none for itself: a task that was over with the worker is over in Flower."""
    app = make_app(redis.url, queue="wakeloop", concurrency=1, host=RecordingHost)
    heard: list[str] = []
    with Worker(redis, record) as worker, app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: heard.append(event["type"])})
        with receiver.consumer_context() as (listening, _, _):
            with contextlib.suppress(TimeoutError):
                listening.drain_events(timeout=1)  # subscribes
            dispatcher.turns([_turn("standup", 1)])
            worker.wait_until(lambda: bool(worker.events("turn")))
            worker.stop()
            for _ in poll(10):
                with contextlib.suppress(TimeoutError):
                    listening.drain_events(timeout=0.2)
                if "worker-offline" in heard:
                    break

    told = [what for what in heard if what.startswith("task-")]
    assert told == ["task-sent", "task-received", "task-started", "task-succeeded"]


def test_a_channel_of_redis_has_one_client_for_each_pool_of_connections(redis: Redis) -> None:
    """Making one takes longer than most commands; a client of connections that were given up is of no use, though."""
    app = make_app(redis.url, queue="wakeloop", concurrency=1, host=RecordingHost)
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as again:
            assert again is first
        pool = channel.pool
        channel._after_fork()
        with channel.conn_or_acquire() as child:
            assert child.ping()

        assert child is not first
        assert child.connection_pool is channel.pool is not pool


def test_a_delivery_overtakes_turns_that_wait(
    redis: Redis, record: Path, dispatcher: CeleryDispatcher
) -> None:
    """People do not wait for a hundred turns, and nothing is hoarded by a busy worker."""
    with Worker(redis, record, RECORD_CONCURRENCY="1") as worker:
        dispatcher.turns([_turn("standup", SLOW)])
        worker.wait_until(lambda: bool(worker.events("turn")))
        dispatcher.turns([_turn("standup", 1), _turn("billing", 2)])
        dispatcher.deliveries(["0199-a"])

        worker.wait_until(lambda: len(worker.events("turn")) == 3)

        kinds = [line.split()[0] for line in record.read_text().splitlines()]
        assert kinds == ["start", "turn", "delivery", "turn", "turn"]


def test_a_failed_run_is_a_failed_task_without_a_traceback(
    redis: Redis, record: Path, dispatcher: CeleryDispatcher
) -> None:
    """The failure is on record in the database; the log does not repeat it as if the worker had a bug."""
    with Worker(redis, record) as worker:
        dispatcher.turns([_turn("billing", FAILS)])

        worker.wait_for("run 0199 of billing/default failed")

        assert "raised expected" in worker.output
        assert "Traceback" not in worker.output


def test_flushing_redis_loses_only_what_was_in_it(redis: Redis, record: Path) -> None:
    """FLUSHALL under a running worker: what is dispatched afterwards arrives."""
    with Worker(redis, record, RECORD_CLAIMS="yes") as worker:
        worker.wait_until(lambda: len(worker.events("turn")) >= 2)

        redis.flushall()

        flushed = len(worker.events("turn"))
        worker.wait_until(lambda: len(worker.events("turn")) >= flushed + 5, seconds=20)
        assert worker.events("refused") == []


def test_poison_on_the_queue_ends_no_worker(redis: Redis, record: Path, dispatcher: CeleryDispatcher) -> None:
    """Garbage, pickles, strangers' tasks and what is no message at all: the worker drops it and takes the next turn."""
    chance = random.Random(1)
    with Worker(redis, record) as worker:
        for number, (name, make) in enumerate(poison.make(chance, 5).items(), start=1):
            poison.put(redis, make(), chance)

            dispatcher.turns([_turn("standup", 1000 + number)])

            worker.wait_until(lambda turn=str(1000 + number): turn in worker.events("turn"), seconds=20)
            assert worker.running, name
        assert len(worker.pids("turn")) == 1


def test_claiming_goes_on_through_an_outage_and_messages_flow_after_it(record: Path) -> None:
    """Redis stops for some seconds: the worker lives and says so in few words, dispatching raises quickly, and all resumes by
    itself."""
    with Redis() as redis, Worker(redis, record, RECORD_CLAIMS="yes") as worker:
        worker.wait_until(lambda: len(worker.events("turn")) >= 2)

        redis.stop()
        worker.wait_until(lambda: len(worker.events("refused")) >= 3)
        redis.start()

        assert "Traceback" not in worker.output
        restarted = time.monotonic()
        claimed = len(worker.events("claimed"))
        worker.wait_until(lambda: len(worker.events("claimed")) > claimed, seconds=15)
        turns = len(worker.events("turn"))
        worker.wait_until(lambda: len(worker.events("turn")) > turns, seconds=40)
        assert time.monotonic() - restarted < 40
        assert worker.running
        assert max(float(each.partition(":")[2]) for each in worker.events("refused")) < 8
        assert int(worker.events("turn")[0]) == CLAIMED


def test_sigterm_ends_a_worker_whose_broker_is_away(record: Path) -> None:
    """An outage does not keep a deploy from going on."""
    with Redis() as redis, Worker(redis, record, RECORD_CLAIMS="yes") as worker:
        redis.stop()
        worker.wait_until(lambda: bool(worker.events("refused")))

        worker.send(signal.SIGTERM)

        assert worker.wait(15) == 0
        assert worker.events("stop") == ["10.0"]


def test_sigterm_stops_the_host_first_when_the_broker_is_silent(record: Path) -> None:
    """Celery's goodbye to a black hole takes half a minute; by then other workers have the sessions."""
    with Redis() as redis, Worker(redis, record) as worker:
        redis.pause()

        worker.send(signal.SIGTERM)

        worker.wait_until(lambda: worker.events("stop") == ["10.0"], seconds=5)
        redis.resume()
        assert worker.wait(15) == 0


@pytest.mark.parametrize("outage", ["stop", "pause"])
def test_dispatching_to_a_dead_broker_raises_soon_and_works_again_later(outage: str) -> None:
    """Neither a refused connection nor a black hole holds the claiming thread for long."""
    with Redis() as redis:
        dispatcher = _dispatcher(redis)
        dispatcher.turns([_turn("standup", 1)])
        getattr(redis, outage)()

        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(kombu.exceptions.OperationalError):
                dispatcher.turns([_turn("standup", 2)])
        assert time.monotonic() - started < 16

        {"stop": redis.start, "pause": redis.resume}[outage]()
        dispatcher.turns([_turn("standup", 3)])
        dispatcher.close()


def test_a_dispatcher_created_while_the_broker_is_down_raises_too() -> None:
    """The first connection is no exception: kombu would try it for ever."""
    with Redis() as redis:
        redis.stop()
        dispatcher = _dispatcher(redis)

        started = time.monotonic()
        with pytest.raises(kombu.exceptions.OperationalError):
            dispatcher.deliveries(["0199-a"])

        assert time.monotonic() - started < 8
        dispatcher.close()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
@pytest.mark.parametrize("broken", ["down", "password", "schema", "agents"])
def test_a_misconfigured_worker_says_so_in_one_line_and_exits(
    redis: Redis, record: Path, pool: str, broken: str
) -> None:
    """One line on standard error, a status that a supervisor notices, and no process left behind."""
    record.touch()
    with Redis(password="s3cret") as locked:
        url = {
            "down": f"redis://127.0.0.1:{free_port()}/0",
            "password": locked.url.replace("s3cret", "guess"),
        }
        says = {
            "down": "the broker redis://127.0.0.1:",
            "password": "invalid username-password pair",
            "schema": "run `wakeloop db upgrade`",
            "agents": "agents/standup.py cannot be loaded: no such trigger",
        }

        worker = subprocess.Popen(
            [*CELERY, "worker"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "RECORD_BROKER": url.get(broken, redis.url),
                "RECORD_FILE": str(record),
                "RECORD_BROKEN": broken,
                "RECORD_POOL": pool,
                "PYTHONWARNINGS": "ignore",  # Celery warns of running as root
            },
        )
        _, errors = worker.communicate(timeout=60)

    assert worker.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith("wakeloop: ")
    assert says[broken] in line
    assert "s3cret" not in line
    assert "guess" not in line
    for _ in poll(10):
        if not _process_group(worker.pid):
            break
    assert not _process_group(worker.pid)  # the pool's children are gone too


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_sigterm_stops_the_host_and_then_the_worker(
    redis: Redis, record: Path, dispatcher: CeleryDispatcher, pool: str
) -> None:
    """A turn that waits is let go by its host, so the worker ends in time and with status 0."""
    with Worker(redis, record, RECORD_POOL=pool, RECORD_CLAIMS="yes") as worker:
        if pool == "threads":  # a child of the prefork pool has a host of its own, which nothing stops
            dispatcher.turns([_turn("standup", HANGS)])
        worker.wait_until(lambda: bool(worker.events("turn")))

        started = time.monotonic()
        worker.send(signal.SIGTERM)

        assert worker.wait(15) == 0
        assert time.monotonic() - started < 8
        assert worker.events("stop") == ["10.0"]


def test_with_the_prefork_pool_the_parent_claims_and_the_children_run(redis: Redis, record: Path) -> None:
    """A host for each process: the parent's is started, the children's are not."""
    with Worker(redis, record, RECORD_POOL="prefork", RECORD_CONCURRENCY="2", RECORD_CLAIMS="yes") as worker:
        worker.wait_until(lambda: len(worker.events("turn")) >= 6)

        assert worker.pids("start") == worker.pids("claimed") == {worker.pid}
        assert worker.pids("turn").isdisjoint({worker.pid})


def test_flower_shows_who_is_doing_what(redis: Redis, record: Path, dispatcher: CeleryDispatcher) -> None:
    """Task name and session names are readable in Flower, and a failed run is a failure."""
    port = free_port()
    flower = Program(
        [*CELERY, "flower", f"--port={port}", "--address=127.0.0.1"],
        cwd=ROOT,
        env={"RECORD_BROKER": redis.url, "RECORD_FILE": str(record), "FLOWER_UNAUTHENTICATED_API": "true"},
    )
    with Worker(redis, record) as worker, flower:
        flower.wait_for("Visit me at")
        tasks: dict[str, dict[str, str]] = {}
        for _ in poll(30):  # Flower hears only what is said after it has subscribed
            dispatcher.turns([_turn("standup", 1, 2, 3, 4, 5, 6, 7), _turn("billing", FAILS)])
            time.sleep(0.5)
            tasks = {task["name"]: task for task in _get_json(f"http://127.0.0.1:{port}/api/tasks").values()}
            if {task["state"] for task in tasks.values()} == {"SUCCESS", "FAILURE"}:
                break

        assert set(tasks) == {"wakeloop.agents.standup", "wakeloop.agents.billing"}
        shown = tasks["wakeloop.agents.standup"]
        assert shown["state"] == "SUCCESS"
        assert shown["args"] == "standup/1, standup/2, standup/3, standup/4, standup/5 and 2 more"
        assert shown["kwargs"] == "{'sessions': [1, 2, 3, 4, 5, 6, 7]}"
        assert shown["worker"] == next(iter(tasks.values()))["worker"]
        assert tasks["wakeloop.agents.billing"]["state"] == "FAILURE"
        assert "run 0199 of billing/default failed" in tasks["wakeloop.agents.billing"]["exception"]
        assert worker.running


def _get_json(url: str) -> dict[str, dict[str, str]]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def _process_group(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
