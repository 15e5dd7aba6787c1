"""Whether a message had left before a crash: the Sent folder of a mailbox on real IMAP is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.conformance.channel_kit import using
from tests.conformance.email_kit import ALICE, KEY, MailServer, Taken, channel, outgoing
from tests.conformance.email_provider import MailProvider
from tests.conformance.imap_server import PASSWORD, USER, ImapServer

from wakeloop.channel import Receipt
from wakeloop.errors import ChannelError
from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Provider
from wakeloop_channels.email import EmailChannel, ReconcilingEmailChannel

SENT = "[Example Mail]/Sent Mail"
ID = f"<{KEY}@example.com>"


class Mailbox:
    """A mailbox whose server runs in a thread of its own. delivered: what was put into the Sent folder."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = ImapServer(folders={"INBOX": [], SENT: []})
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Mailbox:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.__aenter__(), self._loop).result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(10)

    def keep(self, raw: bytes) -> None:
        """Put a copy into the Sent folder."""

        async def deliver() -> None:
            self._server.deliver(raw, folder=SENT, seen=True)

        asyncio.run_coroutine_threadsafe(deliver(), self._loop).result(10)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "imap_host": "127.0.0.1", "imap_port": self._server.port, "imap_security": "none", "imap_username": USER,
            "imap_password": PASSWORD, "imap_sent_folder": SENT, "imap_timeout": 5.0,
        }  # fmt: skip

    @property
    def commands(self) -> Sequence[str]:
        return self._server.commands


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as running:
        yield running


def look(mailbox: Mailbox, *known: str, **changes: Any) -> Receipt | None:
    email = channel(**{**mailbox.settings, **changes})
    return using(email, lambda it: it.find_sent(outgoing(), frozenset(known)))


def test_a_message_in_the_folder_had_left(mailbox: Mailbox) -> None:
    """It is known by its Message-ID, whatever its letters on the way; nothing in the mailbox is changed."""
    mailbox.keep(b"Subject: another\r\nMessage-ID: <other@example.com>\r\n\r\nHello\r\n")
    mailbox.keep(f"Subject: ours\r\nMessage-Id:\r\n {ID}\r\n\r\nHello\r\n".encode())

    found = look(mailbox)

    assert found == Receipt(provider_id=ID, raw={"found in": SENT})
    assert [one for one in mailbox.commands if one.startswith(("SELECT", "UID STORE"))] == []


def test_a_message_that_is_not_there_had_not(mailbox: Mailbox) -> None:
    """Nor one whose id only begins or ends like ours."""
    mailbox.keep(f"Message-ID: <x{KEY}@example.com>\r\n\r\nHello\r\n".encode())
    mailbox.keep(f"Subject: Fwd: {ID}\r\nIn-Reply-To: {ID}\r\n\r\nHello\r\n".encode())

    assert look(mailbox) is None


def test_a_message_that_is_known_is_not_found_again(mailbox: Mailbox) -> None:
    """Another delivery has its receipt."""
    mailbox.keep(f"Message-ID: {ID}\r\n\r\nHello\r\n".encode())

    assert look(mailbox, ID) is None


@pytest.mark.parametrize("changes", [{"imap_sent_folder": "Nowhere"}, {"imap_password": "wrong"}])
def test_a_folder_that_cannot_be_read_says_nothing(mailbox: Mailbox, changes: dict[str, str]) -> None:
    """Not that the message had not left: its outcome stays unknown, and the error says what to check."""
    with pytest.raises(ChannelError, match=r"channels\.email\.imap_host.*imap_sent_folder") as raised:
        look(mailbox, **changes)

    assert type(raised.value) is ChannelError


def test_a_mailbox_that_is_away_says_nothing(mailbox: Mailbox) -> None:
    """The same."""
    mailbox.stop()

    with pytest.raises(ChannelError) as raised:
        look(mailbox)

    assert type(raised.value) is ChannelError


class KeepingProvider(MailProvider):
    """SMTP out, with the copies in a mailbox."""

    def __init__(self, server: MailServer, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        super().__init__(server)
        self.secrets = (*self.secrets, PASSWORD)

    def more(self) -> dict[str, Any]:
        return self._mailbox.settings


class Kept(list[Taken]):
    """What was taken; of each a copy goes into the mailbox."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self._mailbox = mailbox

    def append(self, taken: Taken) -> None:
        super().append(taken)
        self._mailbox.keep(taken.octets)


class TestEmailWithSentFolder(ChannelConformance):
    """The suite again, with a channel that can reconcile."""

    adapter = ReconcilingEmailChannel
    says_when = False
    timed_signatures = True

    @pytest.fixture
    def provider(self, mailbox: Mailbox) -> Iterator[Provider]:
        """A mail server whose sent mail is in a mailbox."""
        with MailServer() as server:
            server.taken = Kept(mailbox)
            yield KeepingProvider(server, mailbox)


def test_the_settings_make_the_channel(mailbox: Mailbox) -> None:
    """With a Sent folder it is one that can reconcile."""
    assert type(channel(**mailbox.settings)) is ReconcilingEmailChannel
    assert type(channel()) is EmailChannel
    assert channel().normalize(ALICE) == ALICE
