"""The public conformance suite over the email channel, and round trips: what we send, answered by mail programs."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP

import pytest
from tests.conformance.channel_kit import send
from tests.conformance.email_kit import ALICE, REPLY_SECRET, MailServer, channel, outgoing
from tests.conformance.email_provider import RAW_SECRET, MailProvider, posted, reply_to

from wakeloop.channel import Incoming
from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Provider
from wakeloop_channels.email import EmailChannel

TOKEN = "WyJhbGljZSIsIjAxOThmMGFhMTExMTcyMjI4MzMzMTIzNDU2Nzg5YWJjIl0.aSlrbg.Zx_kQ2-vJ0hYp7Lw3NfTgA5mRcE"


class TestEmail(ChannelConformance):
    """SMTP out, mail posted to us in."""

    adapter = EmailChannel
    says_when = False
    timed_signatures = True

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """A mail server on loopback."""
        with MailServer() as server:
            yield MailProvider(server)


class TestRoundTrip:
    @pytest.fixture
    def sent(self) -> EmailMessage:
        """A question of ours in a thread, as it arrived."""
        thread = ("<root@example.org>", "<last@example.org>")
        message = outgoing(
            "Which colour?\n\nReply with one of: red, green.", subject="Colours", kind="question", token=TOKEN,
            thread=thread, link="https://agents.example.com/people/abc#request-1",
        )  # fmt: skip
        with MailServer() as server:
            send(channel(server, **SETTINGS), message)
        return server.one.mail

    def read(self, mail: EmailMessage) -> Incoming:
        email = channel(**SETTINGS)
        request = posted(mail.as_bytes(policy=SMTP))
        email.verify(request)
        (item,) = email.parse(request)
        assert isinstance(item, Incoming)
        return item

    def test_a_reply_comes_back_with_what_it_answers(self, sent: EmailMessage) -> None:
        """Our Message-ID, the token, the thread, and only what the person wrote."""
        incoming = self.read(reply_to(sent, "green, please 🌱"))

        assert incoming.text == "green, please 🌱"
        assert (incoming.address, incoming.subject) == (ALICE, "Re: Colours")
        assert (incoming.reply_to, incoming.token) == (str(sent["Message-ID"]), TOKEN)
        assert incoming.thread == "<root@example.org>"
        assert not incoming.automatic

    def test_a_program_that_names_nothing_is_understood_by_the_address(self, sent: EmailMessage) -> None:
        """The tag of the reply address names the delivery."""
        incoming = self.read(reply_to(sent, "green", keeps_headers=False))

        assert (incoming.text, incoming.reply_to) == ("green", str(sent["Message-ID"]))

    def test_a_server_that_gives_mail_another_id_loses_nothing(self, sent: EmailMessage) -> None:
        """Some do: the answer names an id that we never made, and the tag ours; the token comes along."""
        ours = str(sent["Message-ID"])
        sent.replace_header("Message-ID", "<0102018c@eu-west-1.mailer.example>")

        incoming = self.read(reply_to(sent, "green"))

        assert (incoming.reply_to, incoming.token) == (ours, TOKEN)

    def test_an_absence_notice_is_no_answer(self, sent: EmailMessage) -> None:
        """RFC 3834: a machine says so itself."""
        mail = reply_to(sent, "I am away until Monday.")
        mail["Auto-Submitted"] = "auto-replied"

        incoming = self.read(mail)

        assert incoming.automatic

    def test_the_answer_to_an_answer_goes_on_in_the_thread(self, sent: EmailMessage) -> None:
        """What is sent next names the person's mail, and what was said before."""
        theirs = self.read(reply_to(sent, "green"))
        thread = ("<root@example.org>", str(sent["Message-ID"]), theirs.provider_id)

        with MailServer() as server:
            send(
                channel(server, **SETTINGS),
                outgoing("Thank you.", key="d2", subject="Colours", thread=thread),
            )

        mail = server.one.mail
        assert mail["Subject"] == "Re: Colours"
        assert mail["In-Reply-To"] == theirs.provider_id
        assert str(mail["References"]).split() == list(thread)


SETTINGS = {"inbound": "raw", "raw_secret": RAW_SECRET, "reply_secret": REPLY_SECRET}
