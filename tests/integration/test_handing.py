"""What is handed over at once by a process that is no worker, and what becomes of it if the broker is not to be had."""

from __future__ import annotations

import logging
import queue
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from tests.conformance.store_kit import EVERY_STORE, Store, make_stores
from tests.integration.recording_app import RecordingHost
from tests.integration.test_alive import NAMING
from tests.servers import Program, free_port, poll

from wakeloop import Agent, Context, agent, flow
from wakeloop.celery_app import CeleryDispatcher, make_app
from wakeloop.desk import Desk
from wakeloop.dispatch import Dispatcher, Handed, TurnMessage
from wakeloop.flow import FEW, MANY
from wakeloop.handing import Handing
from wakeloop.links import Links
from wakeloop.people import People
from wakeloop.registry import Registry
from wakeloop.store import inbox, leases, schedules
from wakeloop.store.records import NewRun
from wakeloop.timers import Timers, TimerThread
from wakeloop.world import World


@agent()
async def standup(ctx: Context[None]) -> None:
    """Is handed over."""


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def make_timers(store: Store, *agents: Agent) -> Timers:
    world = World(registry=Registry(agents or [standup]), people=People({}, None), ids=store.clock)
    links = Links(keys=lambda: ["k"], base_url=None, now=store.database.now)
    return Timers(database=store.database, world=world, desk=Desk(world=world, links=links, amending=[]))


class Queue(Dispatcher):
    """A broker: what it was handed, in order."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[TurnMessage] = queue.SimpleQueue()

    def turns(self, messages: Sequence[TurnMessage]) -> None:
        for message in messages:
            self.messages.put(message)

    def deliveries(self, ids: Sequence[str]) -> None: ...


@pytest.fixture
def nowhere() -> Iterator[CeleryDispatcher]:
    """The way to a broker that is not there."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    dispatcher = CeleryDispatcher(make_app(url, queue="wakeloop", concurrency=1, host=RecordingHost))
    yield dispatcher
    dispatcher.close()


def test_what_was_made_due_is_handed_over_once(store: Store) -> None:
    """A nudge is enough, and a second one finds nothing; if the message gets lost, it is due again in ten seconds."""
    broker = Queue()
    handing = Handing(timers=make_timers(store), dispatcher=broker)
    handing.start()
    store.queue("a")

    handing.nudge()
    message = broker.messages.get(timeout=10)
    handing.nudge()
    handing.stop()

    assert (message.agent, list(message.sessions)) == ("standup", store.sessions("a"))
    assert broker.messages.empty()
    assert store.claim_due() == []
    store.pass_time(10)
    assert store.claim_due() == store.sessions("a")


def test_without_a_broker_it_is_left_to_the_workers(store: Store, nowhere: CeleryDispatcher) -> None:
    """What could not be sent is due as it was, and for a while nothing more is claimed that others might carry."""
    handing = Handing(timers=make_timers(store), dispatcher=nowhere)
    handing.start()
    [id] = store.sessions("a")
    store.queue("a")

    handing.nudge()
    for _ in poll(20):
        if handing.is_paused:
            break
    row = store.session(id)
    store.queue("b")
    handing.nudge()
    handing.stop()

    assert (row.owner, row.dispatches) == (None, 0)
    assert sorted(store.claim_due()) == sorted(store.sessions("a", "b"))


def mark(store: Store, *keys: str) -> list[Handed]:
    """Make these sessions due, and mark them as dispatched in the same transaction."""
    with store.database.begin() as connection:
        new = [NewRun(id=store.id(), agent="standup", key=key, event="{}") for key in keys]
        known = inbox.ensure_sessions(connection, [("standup", key) for key in keys], now=store.now)
        inbox.touch(connection, inbox.queue_runs(connection, new, known, now=store.now), now=store.now)
        marked = leases.hand_over(connection, known.values(), now=store.now, agents=["standup"])
    return [Handed(id=id, agent=agent, key=key) for id, agent, key in marked]


def test_what_is_marked_where_it_is_made_due_needs_no_claim(store: Store) -> None:
    """It is nobody else's for ten seconds, and goes to the broker without a look at the store; then it is due again."""
    broker = Queue()
    handing = Handing(timers=make_timers(store), dispatcher=broker)
    handing.start()

    marked = mark(store, "a", "b")
    store.queue("left")
    claimed = store.claim_due()
    handing.take(marked)
    messages = [broker.messages.get(timeout=10) for _ in marked]
    handing.stop()

    assert claimed == store.sessions("left")
    assert sorted(id for message in messages for id in message.sessions) == store.sessions("a", "b")
    assert broker.messages.empty()
    assert store.claim_due() == []
    store.pass_time(10)
    assert sorted(store.claim_due()) == sorted(store.sessions("a", "b", "left"))


def test_what_was_marked_is_sent_before_the_end(store: Store) -> None:
    """A web process that is told to stop leaves nothing for ten seconds that it could have sent."""
    broker = Queue()
    handing = Handing(timers=make_timers(store), dispatcher=broker)
    handing.start()

    for batch in range(10):
        handing.take(mark(store, f"{batch}-a", f"{batch}-b"))
    handing.stop()

    sent = [id for _ in range(broker.messages.qsize()) for id in broker.messages.get().sessions]
    assert len(sent) == len(set(sent)) == 20


def test_only_what_is_due_and_nobodys_is_marked(store: Store) -> None:
    """A session that is held, one that is on its way, one that sleeps and one of an agent that is not known stay as they
    are, and the one that is on its way is due as it was."""
    held = store.held("held")
    store.queue("on its way")
    on_its_way = store.claim_due()
    [asleep] = store.sessions("asleep")
    store.queue("free")
    store.queue("stranger", agent="stranger")
    ids = [
        held.id,
        *on_its_way,
        asleep,
        *store.sessions("free"),
        *store.sessions("stranger", agent="stranger"),
    ]

    with store.database.begin() as connection:
        marked = leases.hand_over(connection, ids, now=store.now, agents=["standup"])
        again = leases.hand_over(connection, ids, now=store.now, agents=["standup"])

    assert [key for _, _, key in marked] == ["free"]
    assert again == []
    assert store.session(held.id).token == held.token
    assert store.claim_due("standup", "stranger") == store.sessions("stranger", agent="stranger")


def test_what_was_marked_is_given_back_where_there_is_no_broker(
    store: Store, nowhere: CeleryDispatcher
) -> None:
    """It is due at once, for a worker that perhaps reaches the broker."""
    handing = Handing(timers=make_timers(store), dispatcher=nowhere)
    handing.start()

    handing.take(mark(store, "a"))
    for _ in poll(20):
        if handing.is_paused:
            break
    handing.stop()

    assert store.claim_due() == store.sessions("a")


def test_a_few_get_a_message_each_and_a_stream_shares_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many looks it took to find them: twenty within a second go one by one, what follows goes together."""
    monkeypatch.setattr(flow, "FLOW_SECONDS", 600.0)  # the machine may be busy
    timers = make_timers(store)
    sizes = []
    for batch in range(6):
        store.queue(*(f"{batch}-{number}" for number in range(8)))
        sizes.append([len(message.sessions) for message in timers.sweep().turns])

    assert sizes[:2] == [[1] * 8] * 2
    assert sizes[2:] == [[8]] * 4
    assert FEW < 24 < MANY


def test_a_nudge_for_later_wakes_nobody_earlier(store: Store) -> None:
    """The thread of a worker looks when it would anyhow; for what is due before that it looks at once."""
    broker = Queue()
    thread = TimerThread(timers=make_timers(store), database=store.database, dispatcher=broker)
    thread.start()
    for _ in poll(10):
        if thread.is_waiting:
            break

    thread.nudge(store.now + timedelta(hours=1))
    waits = thread.is_waiting
    store.queue("a")
    thread.nudge(store.now)
    message = broker.messages.get(timeout=10)
    thread.stop()

    assert waits
    assert list(message.sessions) == store.sessions("a")


def test_a_broker_is_told_to_be_back_once_it_took_something(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Not by a look that found nothing to hand over: the outage is one, and its warning stands once."""

    class Outage(Queue):
        is_over = False

        def turns(self, messages: Sequence[TurnMessage]) -> None:
            if not self.is_over:
                raise ConnectionError("refused")
            super().turns(messages)

    broker = Outage()
    thread = TimerThread(timers=make_timers(store), database=store.database, dispatcher=broker)
    with caplog.at_level(logging.INFO):
        store.queue("a")
        thread.start()
        for _ in poll(10):
            if "the broker is away" in caplog.text and thread.is_waiting:
                break
        found_nothing = caplog.text
        store.queue("b")
        thread.nudge()
        for _ in poll(10):
            if thread.is_waiting:
                break
        broker.is_over = True
        store.queue("c")
        thread.nudge()
        broker.messages.get(timeout=10)
        for _ in poll(10):
            if "back again" in caplog.text:
                break
        thread.stop()

    assert "back again" not in found_nothing
    assert caplog.text.count("the broker is away") == 1
    assert caplog.text.count("the broker is back again") == 1


def test_a_worker_with_nothing_under_way_waits_for_no_company(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes due goes at once, however often something does; beside other work it may be kept for a moment."""
    asked: list[bool] = []
    monkeypatch.setattr(flow.Spacing, "wait", lambda spacing: float(asked.append(idle[0]) or 0.0))
    idle, broker = [True], Queue()
    thread = TimerThread(
        timers=make_timers(store), database=store.database, dispatcher=broker, is_idle=lambda: idle[0]
    )
    thread.start()
    for key in ("a", "b", "c"):
        store.queue(key)
        thread.nudge()
        broker.messages.get(timeout=10)
    before = list(asked)
    idle[0] = False
    store.queue("d")
    thread.nudge()
    broker.messages.get(timeout=10)
    thread.stop()

    assert before == []
    assert asked and not any(asked)


def test_what_a_dead_worker_of_this_machine_held_is_due_at_once(store: Store) -> None:
    """The lease of one that lives is left alone, however silent; so is that of one of which nothing is known."""
    with Program([sys.executable, "-c", NAMING]) as doomed, Program([sys.executable, "-c", NAMING]) as alive:
        for program in (doomed, alive):
            program.wait_for("\n")
        before = store.held("a", owner=doomed.output.strip())
        store.held("b", owner=alive.output.strip())
        store.held("c", owner="worker elsewhere")
        timers = make_timers(store)
        found = timers.relieve(15.0)
        alive.pause()
        doomed.kill()

        counts = (found, timers.relieve(15.0), timers.relieve(15.0))
        [row] = store.claim(*store.claim_due())

    assert counts == (0, 1, 0)
    assert (row.key, row.takeovers) == ("a", 1)
    assert row.token > before.token


def test_schedules_that_are_alike_fire_alike(store: Store) -> None:
    """Each of a thousand of one minute gets its own run and its own next time; one that jitters among them is not due yet."""
    spec = '{"jitter":null,"misfire":"fire_once","catchup":"P1D","overlap":"skip","kind":"cron","expr":"* * * * *","tz":"UTC","gap":"shift","fold":"first"}'
    keys = [f"k{number}" for number in range(1000)]
    ids = store.sessions(*keys)
    nominal = store.now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    rows = [
        {
            "session_id": id, "agent": "standup", "ref": f"r{id}", "own": True, "anchor": store.now, "nominal": nominal,
            "due_at": nominal, "spec": spec.replace('"jitter":null', '"jitter":"PT30S"') if id == ids[0] else spec,
        }
        for id in ids
    ]  # fmt: skip
    with store.database.begin() as connection:
        schedules.add(connection, rows)
    store.pass_time((nominal - store.now).total_seconds())

    turns = make_timers(store).sweep().turns

    after = store.rows("SELECT session_id, nominal, due_at FROM schedules")
    assert sum(len(message.sessions) for message in turns) == 999
    assert store.rows("SELECT count(DISTINCT session_id) AS n FROM runs")[0].n == 999
    assert len({(row.nominal, row.due_at) for row in after}) == 2
    assert [row.session_id for row in after if row.due_at != row.nominal] == [ids[0]]
