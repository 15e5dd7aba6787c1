"""Mail fetched by IMAP: everything once and in its order, whatever happens to the connection, the server or a message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.email_inbound_kit import mail, settings
from tests.conformance.email_kit import ca_file, certificate
from tests.conformance.imap_server import PASSWORD, USER, ImapServer

from wakeloop.channel import DeliveryUpdate, Incoming
from wakeloop.errors import ChannelError, PermanentChannelError
from wakeloop_channels import email_imap
from wakeloop_channels.email_imap import Pace, check, listen
from wakeloop_channels.email_settings import EmailSettings

PACE = Pace(idle=30.0, poll=0.02, backoff=0.02, max_backoff=0.1)
TODAY = datetime.now(tz=UTC).date()


class Taken:
    """An inlet that keeps what it is handed. on_take: called before, and may refuse."""

    def __init__(self, cursor: str | None = None, on_take: Callable[[], None] | None = None) -> None:
        self.cursor = cursor
        self.items: list[Incoming | DeliveryUpdate] = []
        self.on_take = on_take
        self._changed = asyncio.Event()

    async def take(self, items: Sequence[Incoming | DeliveryUpdate], *, cursor: str | None = None) -> None:
        if self.on_take is not None:
            self.on_take()
        self.items.extend(items)
        self.cursor = cursor or self.cursor
        self._changed.set()

    @property
    def texts(self) -> list[str]:
        return [item.text for item in self.items if isinstance(item, Incoming)]

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for that, ten seconds at most."""
        async with asyncio.timeout(10):
            while not true():
                self._changed.clear()
                try:
                    async with asyncio.timeout(0.05):
                        await self._changed.wait()
                except TimeoutError:
                    pass


def note(text: str, number: int = 0) -> bytes:
    """A mail that says this."""
    return (
        f"From: alice@example.org\r\nTo: agents@example.com\r\nMessage-ID: <{text}-{number}@example.org>\r\n\r\n{text}\r\n"
    ).encode()


def configured(server: ImapServer, **changes: Any) -> EmailSettings:
    """Settings for that server."""
    given = {
        "inbound": "imap",
        "imap_host": "127.0.0.1",
        "imap_port": server.port,
        "imap_security": "none",
        "imap_username": USER,
        "imap_password": PASSWORD,
        "imap_timeout": 5.0,
    }
    return settings(**{**given, **changes})


@asynccontextmanager
async def listening(
    server: ImapServer, taken: Taken, pace: Pace = PACE, **changes: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """Listen until the block is left."""
    task = asyncio.create_task(listen(configured(server, **changes), taken, pace))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


class TestFirstTime:
    def test_unseen_mail_of_the_last_day_is_taken_and_older_is_not(self) -> None:
        """Nobody wants years of a mailbox answered; what came while this was set up should not be lost."""

        async def main() -> None:
            async with ImapServer() as server:
                server.deliver(note("old"), arrived=TODAY - timedelta(days=9))
                server.deliver(note("read"), seen=True)
                server.deliver(note("new"))
                taken = Taken()
                async with listening(server, taken):
                    await taken.until(lambda: taken.cursor is not None)
                    server.deliver(note("next"))
                    await taken.until(lambda: len(taken.items) == 2)

                assert taken.texts == ["new", "next"]
                assert taken.cursor == "1:4"

        run(main)

    def test_what_was_recorded_is_marked_as_seen_and_the_rest_left_alone(self) -> None:
        """Messages are read with PEEK, so that only this marks them."""

        async def main() -> None:
            async with ImapServer() as server:
                server.deliver(note("old"), arrived=TODAY - timedelta(days=9))
                server.deliver(note("new"))
                taken = Taken()
                async with listening(server, taken):
                    await taken.until(lambda: server.idling == 1)

                assert [one.flags for one in server.folders["INBOX"]] == [set(), {r"\Seen"}]

        run(main)


class TestWaiting:
    def test_it_is_told_by_idle(self) -> None:
        """At once, and without asking."""

        async def main() -> None:
            async with ImapServer() as server:
                taken = Taken("1:0")
                async with listening(server, taken):
                    await taken.until(lambda: server.idling == 1)
                    began = time.monotonic()
                    server.deliver(note("hello"))
                    await taken.until(lambda: taken.texts == ["hello"])

                    assert time.monotonic() - began < 2
                    assert "NOOP" not in server.commands

        run(main)

    def test_what_comes_in_the_moment_when_idle_begins_is_not_left_waiting(self) -> None:
        """The server then tells it in one packet with its answer, which polling the socket does not see."""

        async def main() -> None:
            async with ImapServer() as server:
                texts = [f"m{number}" for number in range(30)]
                taken = Taken("1:0")
                async with listening(server, taken):
                    for text in texts:
                        server.deliver(note(text))
                        await asyncio.sleep(0.003)
                    await taken.until(lambda: len(taken.items) >= len(texts))

                assert taken.texts == texts

        run(main)

    def test_idle_is_begun_again_in_time(self) -> None:
        """Servers hang up on those that are silent for half an hour."""

        async def main() -> None:
            async with ImapServer() as server:
                taken = Taken("1:0")
                async with listening(server, taken, Pace(idle=0.05)):
                    await taken.until(lambda: server.commands.count("DONE") >= 3)

                assert server.logins == 1

        run(main)
        assert Pace().idle < 29 * 60

    def test_a_server_without_idle_is_asked(self) -> None:
        """With NOOP, at which it tells what is new."""

        async def main() -> None:
            async with ImapServer(capabilities=()) as server:
                taken = Taken("1:0")
                async with listening(server, taken):
                    await taken.until(lambda: "NOOP" in server.commands)
                    server.deliver(note("hello"))
                    await taken.until(lambda: taken.texts == ["hello"])

                assert "IDLE" not in server.commands

        run(main)

    @pytest.mark.parametrize("capabilities", [("IDLE",), ()])
    def test_cancelling_is_prompt_and_leaves_no_connection(self, capabilities: tuple[str, ...]) -> None:
        """Although the thread is deep in a wait."""

        async def main() -> None:
            async with ImapServer(capabilities=capabilities) as server:
                taken = Taken("1:0")
                async with listening(server, taken, Pace(idle=600, poll=600)) as task:
                    await taken.until(lambda: server.idling == 1 or "CAPABILITY" in server.commands)
                    await asyncio.sleep(0.1)
                    began = time.monotonic()
                    task.cancel()
                    await asyncio.wait({task})

                    assert time.monotonic() - began < 1
                    await taken.until(lambda: not server._writers)

        run(main)


class TestLostConnections:
    def test_what_came_meanwhile_is_fetched(self) -> None:
        """The connection is made again, and goes on from the cursor."""

        async def main() -> None:
            async with ImapServer() as server:
                taken = Taken("1:0")
                async with listening(server, taken):
                    server.deliver(note("one"))
                    await taken.until(lambda: server.idling == 1 and len(taken.items) == 1)
                    server.drop()
                    server.deliver(note("two"))
                    await taken.until(lambda: len(taken.items) == 2)

                assert taken.texts == ["one", "two"]
                assert server.logins == 2

        run(main)

    def test_a_server_that_is_away_is_waited_for(self) -> None:
        """However long: longer and longer between attempts."""

        async def main() -> None:
            async with ImapServer() as server:
                taken = Taken("1:0")
                async with listening(server, taken):
                    await taken.until(lambda: server.idling == 1)
                    await server.stop()
                    await asyncio.sleep(0.3)
                    await server.restart()
                    server.deliver(note("after"))
                    await taken.until(lambda: taken.texts == ["after"])

        run(main)

    def test_a_crash_between_recording_and_marking_loses_nothing(self) -> None:
        """The next process goes on from what was recorded."""

        async def main() -> None:
            async with ImapServer() as server:
                for text in ("one", "two", "three"):
                    server.deliver(note(text))
                first = Taken("1:0")

                def crash() -> None:
                    if len(first.items) == 1:
                        raise RuntimeError("the process ends")

                first.on_take = crash
                with pytest.raises(RuntimeError):
                    await listen(configured(server), first, PACE)
                second = Taken(first.cursor)
                async with listening(server, second):
                    await second.until(lambda: len(second.items) == 2)

                assert first.texts + second.texts == ["one", "two", "three"]

        run(main)

    def test_a_first_look_that_is_cut_short_begins_anew(self) -> None:
        """Its cursor is set at the end: what comes twice counts once."""

        async def main() -> None:
            async with ImapServer() as server:
                for text in ("one", "two"):
                    server.deliver(note(text))
                first = Taken()
                first.on_take = lambda: first.items and pytest.fail("the process ends")  # type: ignore[assignment]
                with pytest.raises(pytest.fail.Exception):
                    await listen(configured(server, imap_mark_seen=False), first, PACE)

                assert first.cursor is None

        run(main)

    def test_new_uids_have_the_last_days_looked_at_again(self) -> None:
        """Seen or not; the ids of the messages tell which are known."""

        async def main() -> None:
            async with ImapServer() as server:
                server.deliver(note("old"), arrived=TODAY - timedelta(days=30), seen=True)
                server.deliver(note("one"), seen=True)
                server.renumber()
                server.deliver(note("two"))
                taken = Taken("1:2")
                async with listening(server, taken):
                    await taken.until(lambda: server.idling == 1)
                    server.deliver(note("three"))
                    await taken.until(lambda: len(taken.items) == 3)

                assert taken.texts == ["one", "two", "three"]
                assert taken.cursor == "2:4"

        run(main)


class TestMessages:
    def test_one_that_cannot_be_read_does_not_block_those_behind_it(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Malformed, too large, or refused by the server itself: each leaves a line in the log."""
        monkeypatch.setattr(email_imap, "MAX_BYTES", 5_000)

        async def main() -> None:
            async with ImapServer() as server:
                server.deliver(mail("from_missing"))
                server.deliver(note("large " * 1_000))
                server.refuse_uids.add(server.deliver(note("broken")))
                server.deliver(note("good"))
                taken = Taken("1:0")
                async with listening(server, taken):
                    await taken.until(lambda: taken.cursor == "1:4")

                assert taken.texts == ["good"]

        run(main)
        passed = [record.message for record in caplog.records if record.message == "mail passed over"]
        assert len(passed) == 3

    def test_bounces_and_answers_come_alike(self) -> None:
        """A bounce is the fate of our message; our own copy is nothing."""

        async def main() -> None:
            async with ImapServer() as server:
                for name in ("dsn_failed", "own", "gmail_en"):
                    server.deliver(mail(name))
                taken = Taken("1:0")
                async with listening(server, taken):
                    await taken.until(lambda: taken.cursor == "1:3")

                assert [type(item) for item in taken.items] == [DeliveryUpdate, Incoming]

        run(main)

    @pytest.mark.parametrize("capabilities", [("IDLE", "MOVE"), ("IDLE",)])
    def test_what_was_recorded_can_be_moved(self, capabilities: tuple[str, ...]) -> None:
        """Where the server has no MOVE, a copy is made and the original marked as deleted."""

        async def main() -> None:
            async with ImapServer(capabilities=capabilities) as server:
                server.deliver(note("one"))
                taken = Taken()
                async with listening(server, taken, imap_move_to="Done"):
                    await taken.until(lambda: server.idling == 1)

                assert len(server.folders["Done"]) == 1
                left = [one.flags for one in server.folders["INBOX"]]
                assert left == ([] if "MOVE" in capabilities else [{r"\Seen", r"\Deleted"}])

        run(main)

    def test_a_folder_that_is_not_there_loses_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        """The message was recorded before; the log says that it stays where it is."""

        async def main() -> None:
            async with ImapServer() as server:
                server.deliver(note("one"))
                taken = Taken("1:0")
                async with listening(server, taken, imap_move_to="Nowhere"):
                    await taken.until(lambda: server.idling == 1)

                assert taken.texts == ["one"]

        run(main)
        assert "mail was recorded, but could not be marked or moved" in caplog.messages


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "advice"),
        [
            ({"imap_password": "wrong"}, "WAKELOOP_EMAIL_IMAP_PASSWORD"),
            ({"imap_folder": "Nowhere"}, "channels.email.imap_folder"),
        ],
    )
    def test_what_the_server_refuses_is_said_with_what_to_mend(
        self, changes: dict[str, str], advice: str
    ) -> None:
        """By listening and by checking alike, and without the password."""

        async def main() -> None:
            async with ImapServer() as server:
                for call in (
                    listen(configured(server, **changes), Taken(), PACE),
                    check(configured(server, **changes)),
                ):
                    with pytest.raises(PermanentChannelError, match=advice) as raised:
                        await call

                    assert "wrong" not in str(raised.value).replace("wrong user or password", "")

        run(main)

    def test_a_server_that_is_not_there_is_said(self) -> None:
        """By checking; listening waits for it."""

        async def main() -> None:
            async with ImapServer() as server:
                given = configured(server)
            with pytest.raises(ChannelError, match="imap_host"):
                await check(given)

        run(main)

    def test_certificates_are_checked(self, tmp_path: Path) -> None:
        """Over TLS, against the authorities that the settings name, or else the system's."""

        async def main() -> None:
            async with ImapServer(tls=certificate("localhost")) as server:
                given = {"imap_host": "localhost", "imap_security": "tls"}
                assert "IDLE" in await check(configured(server, ca_file=ca_file(tmp_path), **given))
                with pytest.raises(ChannelError, match="SSLCertVerificationError"):
                    await check(configured(server, **given))

                taken = Taken("1:0")
                async with listening(server, taken, ca_file=ca_file(tmp_path), **given):
                    await taken.until(lambda: server.idling == 1)
                    server.deliver(note("hello"))
                    await taken.until(lambda: taken.texts == ["hello"])

        run(main)

    def test_checking_tells_what_it_found(self) -> None:
        """Where, and how mail will be waited for."""

        async def main() -> None:
            async with ImapServer() as server:
                assert await check(configured(server)) == "INBOX at 127.0.0.1, IDLE"

        run(main)
