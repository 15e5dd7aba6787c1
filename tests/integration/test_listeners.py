"""Channels that fetch their messages: one process listens for all, and what it fetched is recorded once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.servers import Postgres, poll, until

from wakeloop.channel import DeliveryStatus, DeliveryUpdate, Incoming, Inlet
from wakeloop.dispatch import Dispatcher, TurnMessage
from wakeloop.errors import TemporaryChannelError
from wakeloop.listeners import Listeners
from wakeloop.people import People
from wakeloop.settings import load_settings
from wakeloop.store import listeners as store
from wakeloop.store import outbox
from wakeloop.store.records import NewMessage
from wakeloop.store.schema import listeners
from wakeloop.testing.channels import FakeListeningChannel, FakeMailbox
from wakeloop.wiring import Runtime

LEASE_SECONDS = 1.5
ADDRESS = "alice@example.com"


class Nowhere(Dispatcher):
    """No worker."""

    def turns(self, messages: Sequence[TurnMessage]) -> None:
        pass

    def deliveries(self, ids: Sequence[str]) -> None:
        pass


class Process:
    """A process that works, as far as it listens."""

    def __init__(self, folder: Path, url: str, mailbox: FakeMailbox, *, alone: bool = False) -> None:
        self.runtime = Runtime(load_settings(directory=folder, database_url=url), alone=alone)
        self.runtime.database.upgrade()
        self.runtime.world.people = People({"alice": {"pond": ADDRESS}})
        self.channel = FakeListeningChannel("pond", self.runtime.database.now, mailbox)
        self.runtime.channels["pond"] = self.channel
        self.runtime.listeners = Listeners(
            database=self.runtime.database, intake=self.runtime.intake, channels=self.runtime.channels,
            lease_seconds=LEASE_SECONDS, first_wait=0.05, longest_wait=0.2,
        )  # fmt: skip

    def start(self) -> None:
        self.runtime.start(Nowhere())

    def stop(self) -> None:
        self.runtime.stop(grace=5)  # a sweep under way ends before its connections are closed

    def leave_to(self, owner: str, seconds: float) -> None:
        """Have the lease be somebody's who is not heard of any more."""
        with self.runtime.database.begin() as connection:
            until = self.runtime.database.now() + timedelta(seconds=seconds)
            connection.execute(sa.update(listeners).values(owner=owner, until=until))


class Pond:
    """A store, a mailbox, and processes on them."""

    def __init__(self, folder: Path, url: str, parts: ExitStack) -> None:
        self.mailbox = FakeMailbox()
        self.url = url
        self._folder = folder
        self._parts = parts
        self._written = 0

    def process(self, **options: Any) -> Process:
        made = Process(self._folder, self.url, self.mailbox, **options)
        self._parts.callback(made.stop)
        return made

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            self._written += 1
            n = self._written
            self.mailbox.put(Incoming(provider_id=f"m{n}", address=ADDRESS, text=f"message {n}"))

    def texts(self, process: Process) -> list[str]:
        with process.runtime.database.read() as connection:
            rows = connection.execute(sa.text("SELECT text FROM messages WHERE inbound ORDER BY id"))
            return [row.text for row in rows]

    def wait_for(self, process: Process, count: int) -> list[str]:
        """What is recorded, once it is so much; nothing more comes."""
        for _ in poll(20):
            if len(self.texts(process)) >= count:
                break
        return self.texts(process)


def expected(count: int) -> list[str]:
    return [f"message {n}" for n in range(1, count + 1)]


@pytest.fixture(params=["sqlite", "postgres"])
def pond(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pond]:
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        url = server.new_database()
    else:
        url = f"sqlite:///{tmp_path / 'store.db'}"
    (tmp_path / "agents").mkdir()
    with ExitStack() as parts:
        yield Pond(tmp_path, url, parts)


def test_of_several_processes_one_listens_and_another_takes_over_at_once(pond: Pond) -> None:
    """What the first left is where the second begins; each message is recorded once, in its order."""
    first, second = pond.process(), pond.process()
    pond.write(3)
    first.start()
    assert pond.wait_for(first, 3) == expected(3)
    second.start()
    pond.write(2)
    assert pond.wait_for(first, 5) == expected(5)
    assert (first.channel.listening, second.channel.attempts) == (1, 0)

    first.stop()
    pond.write(2)

    assert pond.wait_for(second, 7) == expected(7)
    assert (first.channel.listening, second.channel.listening) == (0, 1)


def test_a_process_that_dies_is_replaced_when_its_lease_has_run_out(pond: Pond) -> None:
    """Not before: it might still be there."""
    first, second = pond.process(), pond.process()
    first.start()
    pond.write(2)
    assert pond.wait_for(first, 2) == expected(2)
    first.stop()
    pond.write(2)

    second.leave_to("the dead", 1.0)
    since = time.monotonic()
    second.start()

    assert pond.wait_for(second, 4) == expected(4)
    assert time.monotonic() - since > 0.9


def test_a_process_that_is_alone_waits_for_no_lease(pond: Pond) -> None:
    """Its predecessor is dead, and it knows."""
    first = pond.process()
    first.start()
    until(lambda: first.channel.listening == 1, "listening")
    first.stop()
    first.leave_to("the dead", 86400)

    second = pond.process(alone=True)
    second.start()

    until(lambda: second.channel.listening == 1, "listening")


def test_who_has_lost_the_lease_stops_and_records_nothing_more(pond: Pond) -> None:
    """Another process has it by now, whatever this one believed."""
    process = pond.process()
    process.start()
    until(lambda: process.channel.listening == 1, "listening")

    process.leave_to("another", 86400)
    pond.write(1)

    until(lambda: process.channel.listening == 0, "silent")
    assert pond.texts(process) == []


def test_listening_that_fails_begins_again(pond: Pond, caplog: pytest.LogCaptureFixture) -> None:
    """With longer and longer waits, and a line on the log that quotes nothing that was written."""
    caplog.set_level(logging.INFO, "wakeloop")
    process = pond.process()
    process.channel.fail_with = TemporaryChannelError("the mailbox is away", code="IMAP 421")
    process.start()
    until(lambda: process.channel.attempts >= 4, "tried again")

    process.channel.fail_with = ValueError("a secret")
    seen = process.channel.attempts
    until(lambda: process.channel.attempts > seen, "tried again")
    process.channel.fail_with = None
    pond.write(1)

    assert pond.wait_for(process, 1) == expected(1)
    assert "IMAP 421: the mailbox is away" in str([record.__dict__ for record in caplog.records])
    assert "a secret" not in str([record.__dict__ for record in caplog.records])


def test_where_one_process_always_fails_another_gets_its_chance(pond: Pond) -> None:
    """It may be that only one machine cannot reach the provider."""
    broken, sound = pond.process(), pond.process()
    broken.channel.fail_with = TemporaryChannelError("no route to host")
    broken.start()
    until(lambda: broken.channel.attempts >= 1, "tried")
    sound.start()
    pond.write(1)

    assert pond.wait_for(sound, 1) == expected(1)
    assert sound.channel.listening == 1


def test_a_message_that_the_database_refuses_does_not_keep_out_the_others(
    pond: Pond, caplog: pytest.LogCaptureFixture
) -> None:
    """It is on the log by its id, without its text; those after it are recorded."""
    process = pond.process()
    pond.write(1)
    pond.mailbox.put(Incoming(provider_id="\ud800", address=ADDRESS, text="a secret"))
    pond.write(1)

    process.start()

    assert pond.wait_for(process, 2) == expected(2)
    told = [record for record in caplog.records if "left out" in record.getMessage()]
    assert len(told) == 1 and "a secret" not in str(told[0].__dict__)


def test_what_a_provider_gives_twice_counts_once(pond: Pond) -> None:
    """After a crash between the recording and the cursor."""
    process = pond.process()
    pond.write(1)
    pond.mailbox.put(*pond.mailbox.messages)
    pond.write(1)

    process.start()

    assert pond.wait_for(process, 2) == expected(2)


def test_a_report_about_a_delivery_comes_in_by_this_way_too(pond: Pond) -> None:
    """As a webhook would bring it."""
    process = pond.process()
    database, ids = process.runtime.database, process.runtime.world.ids
    message = NewMessage(
        id=ids.new_id(), contact="alice", channel="pond", address=ADDRESS, via=None, subject=None, text="?"
    )
    with database.begin() as connection:
        outbox.put(connection, None, [message], now=database.now())
        connection.execute(
            sa.text("UPDATE deliveries SET status = 'sent', provider_id = 'p1', due_at = NULL")
        )

    async def listen(inlet: Inlet) -> None:
        assert inlet.cursor is None
        await inlet.take([DeliveryUpdate(provider_id="p1", status=DeliveryStatus.DELIVERED)], cursor="end")
        assert inlet.cursor == "end"
        await asyncio.sleep(60)

    process.channel.listen = listen  # type: ignore[method-assign]
    process.start()

    def status() -> str:
        with database.read() as connection:
            return str(connection.execute(sa.text("SELECT status FROM deliveries")).scalar())

    until(lambda: status() == "delivered", "delivered")


def test_a_channel_whose_settings_ask_for_no_listening_is_left_alone(pond: Pond) -> None:
    """It is called by its provider instead."""
    process = pond.process()
    process.channel.listens = False
    made = Listeners(
        database=process.runtime.database, intake=process.runtime.intake, channels=process.runtime.channels,
        lease_seconds=1,
    )  # fmt: skip

    assert made.names == []


def test_while_the_database_is_away_nothing_is_lost(tmp_path: Path) -> None:
    """Longer than the lease: listening ends, and begins again where it was left."""
    (tmp_path / "agents").mkdir()
    with Postgres() as server, ExitStack() as parts:
        pond = Pond(tmp_path, server.new_database(), parts)
        process = pond.process()
        process.start()
        pond.write(2)
        assert pond.wait_for(process, 2) == expected(2)

        server.stop()
        pond.write(2)
        until(lambda: process.channel.listening == 0, "silent", seconds=30)
        server.start()

        assert pond.wait_for(process, 4) == expected(4)


def test_a_process_whose_database_hangs_stops_listening_before_its_lease_has_run_out(
    pond: Pond, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that says nothing is no reason to go on: another process may have the lease by now."""
    process = pond.process()
    process.start()
    until(lambda: process.channel.listening == 1, "listening")
    ends = threading.Event()
    extend = store.extend

    def hang(*args: Any, **options: Any) -> bool:
        ends.wait(20)
        return extend(*args, **options)

    monkeypatch.setattr(store, "extend", hang)
    since = time.monotonic()
    until(lambda: process.channel.listening == 0, "silent")

    assert time.monotonic() - since < LEASE_SECONDS + 1
    ends.set()
    monkeypatch.undo()
    until(lambda: process.channel.listening == 1, "listening again")
