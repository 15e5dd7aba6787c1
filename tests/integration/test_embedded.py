"""Broker and worker inside the test's own process: quick to wake, to start and to stop, and nothing left behind."""

from __future__ import annotations

import logging
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import celery
import pytest
from tests.servers import poll

from wakeloop.celery_app import App, make_app, register_agents
from wakeloop.dispatch import Dispatcher, RunsFailed, TurnMessage
from wakeloop.embedded import EmbeddedWorker
from wakeloop.errors import ConfigurationError


class Host:
    """Records what it is asked; `on_turn` is called with each session."""

    def __init__(self, on_turn: Callable[[int], object] = lambda _: None) -> None:
        self.names: dict[str, str | None] = {"standup": None}
        self.turns: list[int] = []
        self.delivered: list[str] = []
        self.stops: list[float] = []
        self.stopping = threading.Event()
        self.trouble: dict[str, ConfigurationError] = {}
        self.dispatcher: Dispatcher | None = None
        self._on_turn = on_turn

    def agents(self) -> Mapping[str, str | None]:
        if "agents" in self.trouble:
            raise self.trouble["agents"]
        return self.names

    def run_turns(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            self._on_turn(session)
            self.turns.append(session)

    def run_deliveries(self, ids: Sequence[str]) -> None:
        self.delivered.extend(ids)

    def start(self, dispatcher: Dispatcher) -> None:
        if "start" in self.trouble:
            raise self.trouble["start"]
        self.stopping.clear()
        self.dispatcher = dispatcher

    def stop(self, *, grace: float = 10.0) -> None:
        self.stops.append(grace)
        self.stopping.set()

    def dispatch(self, *sessions: int, agent: str = "standup", queue: str | None = None) -> None:
        assert self.dispatcher is not None
        names = tuple(f"{agent}/{session}" for session in sessions)
        self.dispatcher.turns([TurnMessage(agent=agent, queue=queue, sessions=sessions, names=names)])


def _app(host: Host, name: str, concurrency: int = 4) -> App:
    return make_app(f"embedded://{name}", queue="wakeloop", concurrency=concurrency, host=lambda: host)


@contextmanager
def _running(host: Host, name: str, concurrency: int = 4) -> Iterator[App]:
    app = _app(host, name, concurrency)
    worker = EmbeddedWorker(app)
    worker.start()
    try:
        yield app
    finally:
        worker.stop()


def _wait(condition: Callable[[], bool]) -> None:
    for _ in poll(10):
        if condition():
            return
    raise AssertionError("it did not happen within 10 s")


def _wait_for_turns(host: Host, count: int) -> None:
    _wait(lambda: len(host.turns) >= count)


def test_thirty_starts_and_stops_leak_no_thread_and_are_quick() -> None:
    """Tests and code reload start workers often."""
    host = Host()
    worker = EmbeddedWorker(_app(host, "cycles"))
    before = threading.active_count()

    slowest = 0.0
    for cycle in range(30):
        worker.start()
        host.dispatch(cycle)
        _wait_for_turns(host, cycle + 1)
        stopping = time.perf_counter()
        worker.stop()
        slowest = max(slowest, time.perf_counter() - stopping)

    assert host.turns == list(range(30))
    assert threading.active_count() == before
    assert slowest < 0.5
    assert not worker.running


def test_a_message_wakes_the_worker_at_once() -> None:
    """The stock in-memory transport looks once a second."""
    arrived = threading.Event()
    host = Host(lambda session: arrived.set())
    delays = []

    with _running(host, "latency"):
        for session in range(50):
            time.sleep(0.005)  # the worker sleeps again
            arrived.clear()
            sent = time.perf_counter()
            host.dispatch(session)
            assert arrived.wait(5)
            delays.append(time.perf_counter() - sent)

    assert statistics.median(delays) < 0.05


def test_as_many_tasks_run_at_once_as_it_has_threads() -> None:
    """Four turns that wait for each other all get through."""
    together = threading.Barrier(4, timeout=10)
    host = Host(lambda session: together.wait())

    with _running(host, "together", concurrency=4):
        for session in range(4):
            host.dispatch(session)
        _wait(lambda: len(host.turns) == 4)

    assert sorted(host.turns) == [0, 1, 2, 3]


def test_a_burst_is_worked_off_completely() -> None:
    """No wake-up is lost between looking and going to sleep, and no credit either."""
    host = Host()

    with _running(host, "burst"):

        def send(base: int) -> None:
            for session in range(base, base + 100):
                host.dispatch(session)

        senders = [threading.Thread(target=send, args=(base,)) for base in (0, 100, 200)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert host.dispatcher is not None
        host.dispatcher.deliveries(["0199-a", "0199-b"])
        _wait(lambda: len(host.turns) == 300 and len(host.delivered) == 2)

    assert sorted(host.turns) == list(range(300))
    assert host.delivered == ["0199-a", "0199-b"]


def test_an_agent_that_appears_is_served_without_a_restart() -> None:
    """Code reload: the new agent's task, and its queue, are known to the running worker."""
    host = Host()

    with _running(host, "reload") as app:
        host.dispatch(2, agent="render", queue="gpu")  # waits in a queue that nobody consumes yet
        host.names = {"standup": None, "billing": None, "render": "gpu"}
        register_agents(app, host)
        host.dispatch(1, agent="billing")
        _wait(lambda: len(host.turns) == 2)
        register_agents(app, host)
        host.dispatch(3)
        _wait(lambda: 3 in host.turns)

    assert sorted(host.turns) == [1, 2, 3]


def test_a_failed_run_does_not_disturb_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    """RunsFailed is a task's outcome like any other."""

    def fail(session: int) -> None:
        if session == 1:
            raise RunsFailed("run 0199 of standup/1 failed")

    host = Host(fail)

    with caplog.at_level(logging.INFO), _running(host, "failing"):
        host.dispatch(1)
        host.dispatch(2)
        _wait(lambda: "run 0199 of standup/1 failed" in caplog.text and host.turns == [2])

    assert "raised expected" in caplog.text
    assert "Traceback" not in caplog.text


def test_stopping_lets_go_of_a_task_that_waits() -> None:
    """The host is stopped before the pool, which could not interrupt the thread."""
    began = threading.Event()
    host = Host(lambda session: began.set() or host.stopping.wait(60))  # type: ignore[func-returns-value]

    with _running(host, "hanging"):
        host.dispatch(1)
        assert began.wait(5)
        stopping = time.perf_counter()

    assert time.perf_counter() - stopping < 1
    assert host.stops == [10.0]


@pytest.mark.parametrize("where", ["agents", "start"])
def test_a_misconfiguration_is_raised_by_start(where: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The program around it decides what to say, and may try again."""
    host = Host()
    host.trouble = {where: ConfigurationError("no such thing")}
    before = threading.active_count()
    worker = EmbeddedWorker(_app(host, "broken"))

    with pytest.raises(ConfigurationError, match="no such thing"):
        worker.start()

    assert threading.active_count() == before
    assert not worker.running
    assert capfd.readouterr().err == ""
    worker.stop()

    host.trouble = {}
    worker.start()
    host.dispatch(1)
    _wait(lambda: host.turns == [1])
    worker.stop()


def test_signal_handlers_logging_and_the_current_app_stay_as_they_were() -> None:
    """It is a guest in someone else's process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    root = (list(logging.root.handlers), logging.root.level)
    current = celery.current_app._get_current_object()

    with _running(Host(), "guest"):
        pass

    assert [signal.getsignal(number) for number in numbers] == handlers
    assert (list(logging.root.handlers), logging.root.level) == root
    assert celery.current_app._get_current_object() is current


def test_two_workers_in_one_process_share_nothing() -> None:
    """Brokers of different names have different queues, and each worker its own app."""
    one, two = Host(), Host()

    with _running(one, "one"), _running(two, "two"):
        one.dispatch(1)
        two.dispatch(2)
        _wait(lambda: bool(one.turns and two.turns))

    assert (one.turns, two.turns) == ([1], [2])


def test_a_running_worker_is_not_started_twice_and_needs_an_embedded_broker() -> None:
    """Misuse is said so."""
    host = Host()
    worker = EmbeddedWorker(_app(host, "twice"))
    worker.start()

    with pytest.raises(RuntimeError, match="runs already"):
        worker.start()

    worker.stop()
    worker.stop()
    with pytest.raises(ValueError, match="embedded://"):
        EmbeddedWorker(make_app("redis://127.0.0.1:1/0", queue="q", concurrency=1, host=lambda: host))
