"""The email channel against a mail server on real SMTP: settings, sending, every way to fail, connections used again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.channel_kit import send, using
from tests.conformance.email_kit import (
    AGENTS,
    ALICE,
    KEY,
    PASSWORD,
    REPLY_SECRET,
    USER,
    Fault,
    MailServer,
    Security,
    ca_file,
    channel,
    outgoing,
)

from wakeloop.channel import Channel, Checking, DeliveryStatus, Guiding, Outgoing, Receipt
from wakeloop.errors import ChannelError, ConfigurationError, PermanentChannelError, TemporaryChannelError
from wakeloop.events import Attachment
from wakeloop_channels import email_smtp
from wakeloop_channels.email import EmailChannel

BIG = Attachment(url="data:application/octet-stream;base64," + "AAAA" * 2_000_000, name="big.bin")


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as running:
        yield running


def error_of(email: EmailChannel, message: Outgoing | None = None) -> ChannelError:
    with pytest.raises(ChannelError) as raised:
        send(email, message or outgoing())
    return raised.value


class TestSettings:
    def test_the_port_is_fulfilled(self) -> None:
        """People answer, in threads, with a token; a mail server reports no delivery, and takes no key."""
        email = channel()

        assert isinstance(email, Channel) and isinstance(email, Checking) and isinstance(email, Guiding)
        assert email.name == "email"
        can = email.capabilities
        assert (can.inbound, can.threads, can.tokens, can.media) == (True, True, True, True)
        assert (can.buttons, can.forms, can.receipts, can.idempotent, can.reconcile) == (False,) * 5
        assert can.max_length is None

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"from_address": None}, "set channels.email.from_address in wakeloop.toml, or WAKELOOP_EMAIL_FROM_ADDRESS"),
            ({"from_address": "Agents"}, "channels.email.from_address"),
            ({"from_address": "A\nB <a@example.com>"}, "channels.email.from_address"),
            ({"smtp_host": None}, "set channels.email.smtp_host"),
            ({"smtp_security": "ssl"}, "channels.email.smtp_security"),
            ({"smtp_host": "mail.example.com"}, '"none" is only for a server on this machine'),
            ({"smtp_host": "localhost.example.com"}, '"none" is only for a server on this machine'),
            ({"smtp_port": 0}, "channels.email.smtp_port"),
            ({"smtp_username": "agents"}, "WAKELOOP_EMAIL_SMTP_PASSWORD"),
            ({"smtp_password": "s3cret"}, "channels.email.smtp_username"),
            ({"smtp_host": None, "smtp_url": "smtp://a:s3cret@mail.example.com"}, "WAKELOOP_EMAIL_SMTP_PASSWORD"),
            ({"smtp_host": None, "smtp_url": "mail.example.com"}, "smtp://user@mail.example.com"),
            ({"smtp_host": None, "smtp_url": "http://mail.example.com"}, "channels.email.smtp_url"),
            ({"smtp_host": None, "smtp_url": "smtp://mail.example.com:x"}, "channels.email.smtp_url"),
            ({"smtp_url": "smtp://mail.example.com"}, "channels.email.smtp_url or channels.email.smtp_host, not both"),
            ({"smtp_timeout": 0}, "channels.email.smtp_timeout"),
            ({"smtp_pool_size": 0}, "channels.email.smtp_pool_size"),
            ({"ca_file": "/nowhere.pem"}, "channels.email.ca_file"),
            ({"templates": "/nowhere"}, "channels.email.templates"),
            ({"reply_to": "nobody"}, "channels.email.reply_to"),
            ({"reply_secret": "short"}, "WAKELOOP_EMAIL_REPLY_SECRET"),
            ({"reply_secret": REPLY_SECRET, "reply_to": "a" * 21 + "@example.com"}, "channels.email.reply_to"),
            ({"max_attachment_bytes": -1}, "channels.email.max_attachment_bytes"),
            ({"inbound": "pop3"}, "channels.email.inbound"),
            ({"inbound": "imap"}, "channels.email.imap_host"),
            ({"inbound": "imap", "imap_host": "imap.example.com"}, "WAKELOOP_EMAIL_IMAP_PASSWORD"),
            ({"imap_sent_folder": "Sent"}, "channels.email.imap_host"),
            ({"inbound": "mailgun"}, "WAKELOOP_EMAIL_MAILGUN_SIGNING_KEY"),
            ({"inbound": "sendgrid"}, "WAKELOOP_EMAIL_SENDGRID_PUBLIC_KEY or WAKELOOP_EMAIL_SENDGRID_PASSWORD"),
            ({"inbound": "postmark"}, "WAKELOOP_EMAIL_POSTMARK_PASSWORD"),
            ({"inbound": "raw"}, "WAKELOOP_EMAIL_RAW_SECRET"),
            ({"form_address": AGENTS}, "channels.email.form_address is no setting"),
        ],
    )  # fmt: skip
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        """The error says which key or environment variable to mend."""
        with pytest.raises(ConfigurationError) as raised:
            channel(**changes)

        assert named in str(raised.value)
        assert "s3cret" not in str(raised.value)

    def test_a_port_is_not_asked_for_because_the_security_is_wrong(self) -> None:
        """One mistake is told as one."""
        with pytest.raises(ConfigurationError) as raised:
            channel(smtp_security="ssl", smtp_port=None)

        assert "smtp_port" not in str(raised.value)

    def test_a_file_without_certificates_is_named(self, tmp_path: Path) -> None:
        """At start, not when the first message fails."""
        (tmp_path / "ca.pem").write_text("nonsense")

        with pytest.raises(ConfigurationError, match=r"channels\.email\.ca_file"):
            channel(ca_file=str(tmp_path / "ca.pem"))

    def test_a_secret_is_never_shown(self) -> None:
        """The settings' own form holds no secret's value."""
        email = channel(
            smtp_username="a", smtp_password="s3cret-1", reply_secret="s3cret-2 long enough", inbound="mailgun",
            mailgun_signing_key="s3cret-3,s3cret-4",
        )  # fmt: skip

        assert "s3cret" not in repr(email.settings)
        assert len(email.settings.mailgun_signing_keys) == 2

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("smtp://mail.example.com", ("mail.example.com", 587, "starttls", None)),
            ("smtps://mail.example.com", ("mail.example.com", 465, "tls", None)),
            (
                "smtp://agents%40example.com@mail.example.com:2525/",
                ("mail.example.com", 2525, "starttls", USER),
            ),
        ],
    )
    def test_a_url_says_it_all(self, url: str, expected: tuple[Any, ...]) -> None:
        """Host, port, security and user."""
        password = {"smtp_password": PASSWORD} if expected[3] else {}
        email = channel(smtp_url=url, smtp_host=None, smtp_port=None, smtp_security=None, **password)

        found = email.settings
        assert (found.smtp_host, found.smtp_port, found.smtp_security, found.smtp_username) == expected

    def test_text_from_the_environment_is_understood(self) -> None:
        """Environment variables are always text."""
        email = channel(smtp_timeout="2.5", smtp_port="2525", smtp_pool_size="2", inbound="none")

        found = email.settings
        assert (found.smtp_timeout, found.smtp_port, found.smtp_pool_size, found.inbound) == (
            2.5,
            2525,
            2,
            None,
        )

    def test_with_a_sent_folder_the_channel_can_reconcile(self) -> None:
        """It says so only then."""
        imap = {"imap_host": "imap.example.com", "imap_username": "a", "imap_password": "b"}

        assert channel(**imap, imap_sent_folder="Sent").capabilities.reconcile
        assert not channel(**imap).capabilities.reconcile

    @pytest.mark.parametrize(
        ("inbound", "secret", "named"),
        [
            ("mailgun", "mailgun_signing_key", "Mailgun"),
            ("sendgrid", "sendgrid_password", "SendGrid"),
            ("postmark", "postmark_password", "Postmark"),
            ("raw", "raw_secret", "message/rfc822"),
        ],
    )
    def test_a_provider_is_told_where_to_call(self, inbound: str, secret: str, named: str) -> None:
        """Where in its console, and what."""
        email = channel(inbound=inbound, **{secret: "a secret of the tests"})

        ((where, what),) = email.guide("https://agents.example.com/hooks/email")

        assert named in where and what == "https://agents.example.com/hooks/email"

    def test_nobody_is_told_if_nobody_calls(self) -> None:
        """Mail that is fetched, or none."""
        assert channel().guide("https://agents.example.com/hooks/email") == []


class TestSend:
    def test_a_message_is_handed_over(self, server: MailServer) -> None:
        """Envelope, headers, text; the receipt's id is the Message-ID."""
        receipt = send(channel(server), outgoing("Ship it? 👍🏽\n.\n..\nCafé"))

        assert receipt == Receipt(
            provider_id=f"<{KEY}@example.com>",
            status=DeliveryStatus.SENT,
            raw={"response": "2.0.0 Ok: queued as 4ABCDEF"},
        )
        taken = server.one
        assert (taken.sender, taken.recipient) == ("agents@example.com", ALICE)
        assert taken.mail["Message-ID"] == f"<{KEY}@example.com>"
        body = taken.mail.get_body(("plain",))
        assert body is not None
        assert body.get_content().replace("\r\n", "\n") == "Ship it? 👍🏽\n.\n..\nCafé\n"

    def test_the_server_is_told_size_and_delivery(self, server: MailServer) -> None:
        """RFC 1870; RFC 3461, so that a bounce names the delivery."""
        send(channel(server), outgoing())

        size = len(server.one.octets)
        assert server.one.options == f"SIZE={size} RET=HDRS ENVID={KEY} NOTIFY=FAILURE"

    def test_a_server_without_reports_is_not_asked_for_them(self) -> None:
        """It would refuse the message."""
        with MailServer(reports=False) as server:
            send(channel(server), outgoing())

        assert "ENVID" not in server.one.options

    def test_a_large_file_arrives(self, server: MailServer) -> None:
        """Eight megabytes in Base64, more than any buffer on the way."""
        send(channel(server), outgoing(attachments=(BIG,)))

        (file,) = server.one.mail.iter_attachments()
        assert file.get_payload(decode=True) == bytes(6_000_000)

    def test_an_international_address_is_sent_to(self, server: MailServer) -> None:
        """RFC 6531."""
        send(channel(server), outgoing(to="jörg@bücher.example"))

        assert server.one.recipient == "jörg@xn--bcher-kva.example"
        assert "SMTPUTF8" in server.one.options

    def test_a_server_that_knows_only_ascii_gets_nothing_else(self) -> None:
        """The next channel is used, and the connection stays good."""

        async def two(email: EmailChannel) -> None:
            with pytest.raises(PermanentChannelError, match="SMTPUTF8") as raised:
                await email.send(outgoing(to="jörg@example.org"))
            assert raised.value.code == "5.6.7"
            await email.send(outgoing())

        with MailServer(utf8=False) as server:
            using(channel(server), two)

        assert (server.connections, server.one.recipient) == (1, ALICE)

    def test_bodies_and_addresses_are_not_logged(self, server: MailServer, caplog: Any) -> None:
        """Not above DEBUG, and not by the libraries."""
        with caplog.at_level(logging.INFO):
            send(channel(server), outgoing("a secret matter"))

        assert "secret matter" not in caplog.text and ALICE not in caplog.text


class TestSafety:
    @pytest.mark.parametrize("security", ["starttls", "tls"])
    def test_the_connection_is_encrypted_and_signed_in(self, security: Security, tmp_path: Path) -> None:
        """By STARTTLS, or from the first octet on."""
        with MailServer(security=security, users={USER: PASSWORD}) as server:
            email = channel(
                server, smtp_host="localhost", smtp_username=USER, smtp_password=PASSWORD, ca_file=ca_file(tmp_path)
            )  # fmt: skip
            send(email, outgoing())

            assert using(email, lambda it: it.check()) == (
                f"agents@example.com through localhost:{server.port}, TLSv1.3"
            )
        assert server.one.recipient == ALICE

    @pytest.mark.parametrize("security", ["starttls", "tls"])
    @pytest.mark.parametrize("wrong", ["authority", "name"])
    def test_a_certificate_is_always_checked(self, security: Security, wrong: str, tmp_path: Path) -> None:
        """By whom it was issued, and for which name; nothing is sent, not even the password."""
        names = ("localhost",) if wrong == "authority" else ("mail.example.net",)
        trusted = {"ca_file": ca_file(tmp_path)} if wrong == "name" else {}
        with MailServer(security=security, users={USER: PASSWORD}, names=names) as server:
            email = channel(
                server, smtp_host="localhost", smtp_username=USER, smtp_password=PASSWORD, **trusted
            )

            error = error_of(email)

        assert isinstance(error, TemporaryChannelError)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error) and "ca_file" in str(error)
        assert server.commands == []

    def test_a_server_without_starttls_gets_nothing(self) -> None:
        """Somebody in between may have taken it out of the server's answer."""
        with MailServer() as server:
            error = error_of(channel(server, smtp_security="starttls"))

        assert isinstance(error, PermanentChannelError)
        assert "STARTTLS" in str(error) and "channels.email.smtp_security" in str(error)
        assert server.commands == []

    def test_a_wrong_password_is_said(self, tmp_path: Path) -> None:
        """With what to mend, and without the password."""
        with MailServer(security="starttls", users={USER: PASSWORD}) as server:
            email = channel(
                server, smtp_host="localhost", smtp_username=USER, smtp_password="s3cret", ca_file=ca_file(tmp_path)
            )  # fmt: skip
            with pytest.raises(PermanentChannelError) as raised:
                using(email, lambda it: it.check())

        assert raised.value.code == "5.7.8"
        assert "WAKELOOP_EMAIL_SMTP_PASSWORD" in str(raised.value) and "s3cret" not in str(raised.value)

    def test_a_server_that_wants_to_know_who_writes_is_told_so(self, tmp_path: Path) -> None:
        """530, if no user is set."""
        with MailServer(security="starttls", users={USER: PASSWORD}) as server:
            error = error_of(channel(server, smtp_host="localhost", ca_file=ca_file(tmp_path)))

        assert isinstance(error, PermanentChannelError)
        assert "channels.email.smtp_username" in str(error)


class TestOutcomes:
    @pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA", "dot"])
    @pytest.mark.parametrize(
        ("answer", "kind", "code"),
        [
            ("451 4.7.1 Greylisted, try again later", TemporaryChannelError, "4.7.1"),
            ("452 out of space", TemporaryChannelError, "452"),
            ("550 5.1.1 No such user here", PermanentChannelError, "5.1.1"),
            ("554 no", PermanentChannelError, "554"),
        ],
    )
    def test_what_a_server_says_decides(
        self, server: MailServer, at: str, answer: str, kind: type[ChannelError], code: str
    ) -> None:
        """4xx passes with time, 5xx never does, whenever it is said; the code is the enhanced one if there is one."""
        server.faults.append(Fault(at, answer))

        error = error_of(channel(server))

        assert (type(error), error.code) == (kind, code)
        assert server.taken == []

    def test_advice_says_what_to_mend(self, server: MailServer) -> None:
        """And the server's words are told, without addresses and numbers."""
        server.faults.append(Fault("RCPT", "550-5.1.1 <alice@example.org>: no such\r\n550 5.1.1 user here."))

        assert str(error_of(channel(server))) == (
            "The SMTP server answered 550 5.1.1: <…rg>: no such user here. "
            "There is no such mailbox: correct the contact's address."
        )

    def test_a_refused_recipient_leaves_the_connection_good(self) -> None:
        """The next message goes over the same."""

        async def two(email: EmailChannel) -> None:
            with pytest.raises(PermanentChannelError):
                await email.send(outgoing(to="nobody@example.org"))
            await email.send(outgoing())

        with MailServer(refused={"nobody@example.org": "550 5.1.1 Unknown"}) as server:
            using(channel(server), two)

        assert (server.connections, server.one.recipient) == (1, ALICE)

    @pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA"])
    def test_a_connection_lost_before_the_message_is_certainly_nothing_sent(
        self, server: MailServer, at: str
    ) -> None:
        """Trying again may help."""
        server.faults.append(Fault(at))

        assert isinstance(error_of(channel(server)), TemporaryChannelError)

    def test_a_connection_lost_in_the_middle_of_the_message_is_certainly_nothing_sent(
        self, server: MailServer
    ) -> None:
        """The final dot has not left while there is more to write."""
        server.faults.append(Fault("body"))

        error = error_of(channel(server), outgoing(attachments=(BIG,)))

        assert isinstance(error, TemporaryChannelError) and "before the message had left" in str(error)

    @pytest.mark.parametrize("takes", [True, False])
    def test_a_connection_lost_after_the_dot_leaves_the_outcome_unknown(
        self, server: MailServer, takes: bool
    ) -> None:
        """The server may have taken the message, or not: neither kind of error says that."""
        server.faults.append(Fault("dot", takes=takes))

        error = error_of(channel(server))

        assert type(error) is ChannelError and "unknown" in str(error)
        assert len(server.taken) == int(takes)

    def test_a_server_that_is_silent_after_the_dot_leaves_the_outcome_unknown(
        self, server: MailServer
    ) -> None:
        """As if the connection was lost."""
        server.faults.append(Fault("dot", delay=2.0))

        assert type(error_of(channel(server, smtp_timeout=0.3))) is ChannelError

    def test_a_server_that_is_silent_before_is_nothing_sent(self, server: MailServer) -> None:
        """Nobody waits for longer than the setting says."""
        server.faults.append(Fault("RCPT", delay=5.0))

        before = time.monotonic()
        error = error_of(channel(server, smtp_timeout=0.3))

        assert isinstance(error, TemporaryChannelError)
        assert time.monotonic() - before < 3.0

    def test_nobody_there_is_nothing_sent(self) -> None:
        """Refused connections pass with time."""
        with MailServer() as server:
            email = channel(server)

        error = error_of(email)

        assert isinstance(error, TemporaryChannelError) and f"127.0.0.1:{server.port}" in str(error)

    @pytest.mark.parametrize(
        ("banner", "kind", "code"),
        [
            ("421 4.3.2 Too many connections", TemporaryChannelError, "4.3.2"),
            ("554 5.7.1 No service for you", PermanentChannelError, "5.7.1"),
        ],
    )
    def test_a_server_can_refuse_the_connection(
        self, banner: str, kind: type[ChannelError], code: str
    ) -> None:
        """It says why at once."""
        with MailServer(banner=banner) as server:
            error = error_of(channel(server))

        assert (type(error), error.code) == (kind, code)

    def test_a_message_that_is_too_large_is_refused_for_good(self) -> None:
        """By its size, before it is sent."""
        with MailServer(size=1_000) as server:
            error = error_of(channel(server))

        assert isinstance(error, PermanentChannelError) and error.code == "552"
        assert "channels.email.max_attachment_bytes" in str(error)
        assert "DATA" not in server.commands

    def test_a_second_attempt_is_recognisable(self, server: MailServer) -> None:
        """After an outcome that nobody knows, what arrives twice has one Message-ID."""
        server.faults.append(Fault("dot", takes=True))
        email = channel(server)

        error_of(email)
        send(email, outgoing())

        first, second = (taken.mail["Message-ID"] for taken in server.taken)
        assert first == second == f"<{KEY}@example.com>"


class TestPool:
    def test_a_connection_is_used_again(self, server: MailServer) -> None:
        """One after another over one."""

        async def ten(email: EmailChannel) -> None:
            for number in range(10):
                await email.send(outgoing(key=f"d{number}"))

        using(channel(server), ten)

        assert (len(server.taken), server.connections) == (10, 1)

    def test_forty_at_once_share_the_connections_there_may_be(self) -> None:
        """None is lost, none is sent twice, and the server is not overrun."""

        async def forty(email: EmailChannel) -> list[Receipt]:
            return await asyncio.gather(*(email.send(outgoing(key=f"d{number}")) for number in range(40)))

        with MailServer(slow=0.02) as server:
            receipts = using(channel(server, smtp_pool_size=3), forty)

        assert sorted(str(taken.mail["Message-ID"]) for taken in server.taken) == sorted(
            receipt.provider_id for receipt in receipts
        )
        assert len({receipt.provider_id for receipt in receipts}) == 40
        assert (server.most_at_once, server.connections) == (3, 3)

    def test_those_for_whom_no_connection_becomes_free_are_told(self) -> None:
        """Nothing of theirs was sent; it may go better later."""

        async def two(email: EmailChannel) -> list[Any]:
            sends = (email.send(outgoing(key=f"d{number}")) for number in range(2))
            return await asyncio.gather(*sends, return_exceptions=True)

        with MailServer(slow=0.6) as server:
            results = using(channel(server, smtp_pool_size=1, smtp_timeout=0.4), two)

        assert sorted(type(result).__name__ for result in results) == [
            "ChannelError",
            "TemporaryChannelError",
        ]
        assert "smtp_pool_size" in str(next(one for one in results if isinstance(one, TemporaryChannelError)))

    def test_a_connection_that_the_server_closed_meanwhile_is_not_missed(self, server: MailServer) -> None:
        """A server that was started anew costs no message."""

        async def two(email: EmailChannel) -> None:
            await email.send(outgoing(key="d1"))
            await asyncio.to_thread(server.drop_all)
            await email.send(outgoing(key="d2"))

        using(channel(server), two)

        assert (len(server.taken), server.connections) == (2, 2)

    @pytest.mark.parametrize("answer", ["421 4.4.2 Idle for too long", None])
    def test_a_connection_that_the_server_gives_up_when_it_is_used_is_replaced(
        self, server: MailServer, answer: str | None
    ) -> None:
        """It had said nothing before; a new connection tells how it is."""

        async def two(email: EmailChannel) -> None:
            await email.send(outgoing(key="d1"))
            server.faults.append(Fault("MAIL", answer))
            await email.send(outgoing(key="d2"))

        using(channel(server), two)

        assert (len(server.taken), server.connections) == (2, 2)

    def test_a_new_connection_that_is_given_up_is_not_tried_again(self, server: MailServer) -> None:
        """That is left to the timetable."""
        server.faults.append(Fault("MAIL", "421 4.3.2 Going down"))

        error = error_of(channel(server))

        assert (type(error), error.code, server.connections) == (TemporaryChannelError, "4.3.2", 1)

    def test_a_connection_that_lay_idle_is_asked_whether_it_is_alive(
        self, server: MailServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If it does not answer well, another is opened."""
        monkeypatch.setattr(email_smtp, "FRESH_SECONDS", -1.0)

        async def three(email: EmailChannel) -> None:
            await email.send(outgoing(key="d1"))
            await email.send(outgoing(key="d2"))
            server.faults.append(Fault("NOOP"))
            await email.send(outgoing(key="d3"))

        using(channel(server), three)

        assert (len(server.taken), server.connections, server.commands.count("NOOP")) == (3, 2, 2)

    @pytest.mark.parametrize(("limit", "value"), [("MOST_USES", 1), ("IDLE_SECONDS", -1.0)])
    def test_connections_do_not_live_forever(
        self, server: MailServer, monkeypatch: pytest.MonkeyPatch, limit: str, value: float
    ) -> None:
        """Servers count messages, and firewalls forget what is idle."""
        monkeypatch.setattr(email_smtp, limit, value)

        async def two(email: EmailChannel) -> None:
            await email.send(outgoing(key="d1"))
            await email.send(outgoing(key="d2"))

        using(channel(server), two)

        assert (len(server.taken), server.connections) == (2, 2)

    def test_an_attempt_that_is_given_up_leaves_no_connection_behind(self, server: MailServer) -> None:
        """What a server still wants to say of it is never taken for an answer to the next."""

        async def two(email: EmailChannel) -> None:
            server.faults.append(Fault("dot", delay=1.0))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await email.send(outgoing(key="d1"))
            await email.send(outgoing(key="d2"))

        using(channel(server), two)

        assert server.connections == 2
        assert f"<{'d2'}@example.com>" in [taken.mail["Message-ID"] for taken in server.taken]

    def test_the_channel_works_again_on_another_loop(self, server: MailServer) -> None:
        """After it was closed on the first."""
        email = channel(server)

        send(email, outgoing(key="d1"))
        send(email, outgoing(key="d2"))

        assert (len(server.taken), server.connections) == (2, 2)
        server.wait_for(lambda: not server._open)
