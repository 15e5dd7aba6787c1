"""What the tests of the email channel share: settings, messages, and a mail server on real SMTP.

The server is aiosmtpd, which checks syntax, size, TLS and sign-in as RFC 5321, 1870, 3207 and 4954 say; it also knows
delivery reports (RFC 3461), and fails on demand at every point where a server can.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from wakeloop.channel import ChannelServices, Outgoing
from wakeloop_channels.email import EmailChannel

ALICE = "alice@example.org"
AGENTS = "Example agents <agents@example.com>"
KEY = "0198f0aa-1111-7222-8333-123456789abc"
USER, PASSWORD = "agents@example.com", "correct horse"
REPLY_SECRET = "a secret of the tests"
CLAIMED_AT = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)

# What the server writes down of every command is no concern of the channel's log.
logging.getLogger("mail.log").setLevel(logging.CRITICAL)

Security = Literal["none", "starttls", "tls"]


@lru_cache
def authority() -> trustme.CA:
    """The certificate authority of the tests."""
    return trustme.CA()


def certificate(*names: str) -> ssl.SSLContext:
    """What a server with these names shows."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert(*names).configure_cert(context)
    return context


def ca_file(folder: Path) -> str:
    """A file with the authority's certificate."""
    file = folder / "ca.pem"
    authority().cert_pem.write_to_path(str(file))
    return str(file)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A message that the server took over, and its envelope: `options` are the parameters of MAIL and RCPT as written."""

    sender: str
    recipient: str
    options: str
    octets: bytes
    connection: int
    mail: EmailMessage


@dataclass
class Fault:
    """What the server does instead, once: `at` is a command, or "dot" for the end of the message. An `answer` is said
    (421 also closes); without one the connection is dropped, or answers late by `delay` seconds. takes: the message is
    taken all the same."""

    at: str
    answer: str | None = None
    delay: float | None = None
    takes: bool = False


@dataclass
class MailServer:
    """A mail server on loopback. users: password by name; if there are any, one must sign in. size: octets of one message
    at most. refused: answers by recipient. slow: seconds that it thinks about each message."""

    security: Security = "none"
    users: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    utf8: bool = True
    reports: bool = True
    size: int = 20_000_000
    refused: Mapping[str, str] = field(default_factory=dict)
    slow: float = 0.0
    banner: str | None = None

    def __post_init__(self) -> None:
        self.taken: list[Taken] = []
        self.connections = 0
        self.most_at_once = 0
        self.commands: list[str] = []
        self.faults: deque[Fault] = deque()
        self._open: set[_Session] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> MailServer:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Go away; what was taken stays readable."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def drop_all(self) -> None:
        """Close every connection, as a server does that is started anew."""

        async def drop() -> None:
            for session in list(self._open):
                session.abort()

        asyncio.run_coroutine_threadsafe(drop(), self._loop).result(10)
        self.wait_for(lambda: not self._open)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until it is so."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.01)

    @property
    def one(self) -> Taken:
        """The only message that was taken."""
        (taken,) = self.taken
        return taken

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        tls = certificate(*self.names) if self.security != "none" else None
        server = self._loop.run_until_complete(
            self._loop.create_server(
                lambda: _Session(self, tls if self.security == "starttls" else None), "127.0.0.1", 0,
                ssl=tls if self.security == "tls" else None,
            )
        )  # fmt: skip
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        for session in list(self._open):
            session.abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.01))


class _Session(SMTP):
    """One connection."""

    def __init__(self, server: MailServer, tls: ssl.SSLContext | None) -> None:
        self.server = server
        self.number = 0
        self.options: list[str] = []
        self.instead = "250 which nobody hears"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of AUTH without STARTTLS
            super().__init__(
                _Hooks(), data_size_limit=server.size, enable_SMTPUTF8=server.utf8, hostname="mail.example.com", tls_context=tls,
                require_starttls=tls is not None, auth_required=bool(server.users), auth_require_tls=tls is not None,
                authenticator=self._sign_in, loop=asyncio.get_running_loop(), timeout=60,
            )  # fmt: skip

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self.transport is None:
            self.server.connections += 1
            self.number = self.server.connections
            self.server._open.add(self)
            self.server.most_at_once = max(self.server.most_at_once, len(self.server._open))
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.server._open.discard(self)
        super().connection_lost(error)

    def abort(self) -> None:
        transport = self._original_transport or self.transport
        if isinstance(transport, asyncio.Transport):
            transport.abort()

    async def push(self, status: Any) -> None:
        text = status if isinstance(status, str) else status.decode()
        if text.startswith("220 mail.example.com ") and self.server.banner is not None:
            text = self.server.banner
        await super().push(text)
        if text.startswith("421"):
            self.abort()

    def _sign_in(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        known = self.server.users.get(data.login.decode())
        return AuthResult(success=known is not None and known == data.password.decode(), handled=False)

    async def fails(self, at: str) -> bool:
        """Whether this step has failed, as was asked for. What was said instead is all that is said."""
        self.server.commands.append(at)
        if not self.server.faults or self.server.faults[0].at != at:
            return False
        fault = self.server.faults.popleft()
        if fault.takes:
            self.take()
        if fault.delay is not None:
            await asyncio.sleep(fault.delay)
            return fault.takes
        if fault.answer is None:
            self.abort()
        elif at == "dot":
            self.instead = fault.answer
        else:
            await self.push(fault.answer)
        return True

    def take(self) -> None:
        envelope = self.envelope
        assert envelope is not None and isinstance(envelope.original_content, bytes)
        mail = message_from_bytes(envelope.original_content, policy=default)
        assert isinstance(mail, EmailMessage)
        (recipient,) = envelope.rcpt_tos
        self.server.taken.append(
            Taken(
                sender=str(envelope.mail_from), recipient=recipient, options=" ".join(self.options),
                octets=envelope.original_content, connection=self.number, mail=mail,
            )
        )  # fmt: skip

    async def smtp_NOOP(self, arg: str) -> None:
        if not await self.fails("NOOP"):
            await super().smtp_NOOP(arg)

    async def smtp_RSET(self, arg: str) -> None:
        if not await self.fails("RSET"):
            await super().smtp_RSET(arg)

    async def smtp_MAIL(self, arg: str | None) -> None:
        self.options = []
        if not await self.fails("MAIL"):
            await super().smtp_MAIL(self._reported(arg, r"RET=(?:HDRS|FULL)|ENVID=[!-~]{1,100}"))

    async def smtp_RCPT(self, arg: str | None) -> None:
        if not await self.fails("RCPT"):
            await super().smtp_RCPT(self._reported(arg, r"NOTIFY=[A-Z,]+"))

    async def smtp_DATA(self, arg: str) -> None:
        if await self.fails("DATA"):
            return
        if self.server.faults and self.server.faults[0].at == "body":
            self.server.faults.popleft()
            await self.push("354 go on")
            self.abort()
            return
        await super().smtp_DATA(arg)

    def _reported(self, arg: str | None, known: str) -> str | None:
        """The argument without what RFC 3461 adds, which aiosmtpd does not know."""
        if arg is None:
            return None
        self.options += arg.partition(">")[2].split()
        return re.sub(rf" (?:{known})(?= |$)", "", arg) if self.server.reports else arg


class _Hooks:
    """What the server says beyond aiosmtpd's own answers."""

    async def handle_EHLO(
        self, session: _Session, state: Any, envelope: Any, name: str, said: list[str]
    ) -> list[str]:
        state.host_name = name
        session.command_size_limits["MAIL"] += 600
        session.command_size_limits["RCPT"] += 600
        return [*said[:-1], *(["250-DSN"] if session.server.reports else []), said[-1]]

    async def handle_RCPT(
        self, session: _Session, state: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address in session.server.refused:
            return session.server.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, session: _Session, state: Any, envelope: Any) -> str:
        if session.server.slow:
            await asyncio.sleep(session.server.slow)
        if await session.fails("dot"):
            return session.instead
        session.take()
        return "250 2.0.0 Ok: queued as 4ABCDEF"

    async def handle_exception(self, error: Exception) -> str:
        return f"451 4.3.0 {type(error).__name__}"


# ---------------------------------------------------------------------- the channel


def settings(**changes: Any) -> dict[str, Any]:
    section = {
        "from_address": AGENTS, "smtp_host": "127.0.0.1", "smtp_port": 1, "smtp_security": "none", "smtp_timeout": 5.0,
        **changes,
    }  # fmt: skip
    return {name: value for name, value in section.items() if value is not None}


def channel(server: MailServer | None = None, **changes: Any) -> EmailChannel:
    if server is not None:
        changes = {"smtp_port": server.port, "smtp_security": server.security, **changes}
    return EmailChannel.from_settings(settings(**changes), ChannelServices())


def outgoing(text: str = "What comes first?", to: str = ALICE, **changes: Any) -> Outgoing:
    return Outgoing(**{"key": KEY, "address": to, "text": text, "claimed_at": CLAIMED_AT, **changes})
