"""Handing mail to an SMTP server (RFC 5321, 6409), over connections that are kept open and used again.

A message has been taken over once the server says so after the final dot. What goes wrong before the dot left here was
certainly not sent; what goes wrong after it, and before an answer, nobody can know.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiosmtplib import (
    SMTP,
    SMTPConnectError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)

from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop_channels.email_message import Composed
from wakeloop_channels.email_settings import EmailSettings
from wakeloop_channels.http import masked

MOST_USES = 100
"""Messages over one connection: many servers close it about then."""
IDLE_SECONDS = 60.0
"""How long a connection may lie idle before it is given up: servers close it after five minutes, firewalls earlier."""
FRESH_SECONDS = 5.0
"""A connection that lay idle for longer is asked (NOOP) whether it is alive."""
QUIT_SECONDS = 2.0
MOST_WORDS = 300

START_INPUT, COMPLETED, CLOSING = 354, 250, 421
_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b[ \t]*")

# Enhanced status codes (RFC 3463 and IANA's registry), then plain ones: what a refusal means for whoever has to mend it.
ADVICE: Mapping[str, str] = {
    "5.1.0": "Correct the contact's address.",
    "5.1.1": "There is no such mailbox: correct the contact's address.",
    "5.1.2": "The address's domain takes no mail: correct the contact's address.",
    "5.1.3": "Correct the contact's address.",
    "5.1.6": "The mailbox has moved: correct the contact's address.",
    "5.1.8": "The server does not accept channels.email.from_address as a sender.",
    "5.1.10": "The address's domain takes no mail: correct the contact's address.",
    "5.2.1": "The mailbox is switched off.",
    "5.2.2": "The mailbox is full.",
    "5.2.3": "The mail is too large for the recipient: lower channels.email.max_attachment_bytes.",
    "5.3.4": "The mail is too large for the server: lower channels.email.max_attachment_bytes.",
    "5.6.7": "The server takes no addresses that are not ASCII: use another address of the contact.",
    "5.7.1": "The server does not let us send this: check channels.email.from_address, and that smtp_username may send as it.",
    "5.7.8": "Check channels.email.smtp_username and WAKELOOP_EMAIL_SMTP_PASSWORD; many providers want an app password.",
    "5.7.9": "The provider wants an app password in WAKELOOP_EMAIL_SMTP_PASSWORD.",
    "5.7.11": 'The server wants an encrypted connection: set channels.email.smtp_security = "starttls" or "tls".',
    "5.7.20": "Set up DKIM for the domain of channels.email.from_address.",
    "5.7.23": "The domain's SPF record does not name the server that sends: correct it.",
    "5.7.26": "Set up SPF and DKIM for the domain of channels.email.from_address.",
    "5.7.27": "The domain of channels.email.from_address takes no mail itself: give it an MX record.",
    "5.7.57": "Set channels.email.smtp_username and WAKELOOP_EMAIL_SMTP_PASSWORD.",
    "5.7.139": "SMTP AUTH is switched off for this mailbox: its administrator can allow it.",
    "530": "Set channels.email.smtp_username and WAKELOOP_EMAIL_SMTP_PASSWORD.",
    "534": "The provider wants an app password in WAKELOOP_EMAIL_SMTP_PASSWORD.",
    "535": "Check channels.email.smtp_username and WAKELOOP_EMAIL_SMTP_PASSWORD; many providers want an app password.",
    "538": 'The server wants an encrypted connection: set channels.email.smtp_security = "starttls" or "tls".',
    "552": "The mail is too large, or the mailbox is full: lower channels.email.max_attachment_bytes.",
}


@dataclass
class _Connection:
    """A connection that is ready for a message. writer: tells when what was written has left. idle_since: on the loop's
    clock. uses: how many messages it carried."""

    client: SMTP
    writer: asyncio.StreamWriter
    idle_since: float = 0.0
    uses: int = 0

    @property
    def is_new(self) -> bool:
        return self.uses == 0


class _NotSent(Exception):
    """The connection was lost before the message had left."""


class SmtpPool:
    """At most `smtp_pool_size` connections to the server, on one event loop at a time; call `close` on that loop before
    leaving it."""

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings
        self._tls: ssl.SSLContext | None = None
        self._idle: list[_Connection] = []
        self._slots: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, mail: Composed) -> str:
        """Hand one message over; the server's last words.

        Raises TemporaryChannelError if the server said 4xx, or the connection was lost or silent before the message had
        left; PermanentChannelError if it said 5xx, or cannot do what is needed. A lost connection or silence after that
        raises a plain ChannelError: the outcome is unknown."""
        async with self._slot():
            connection = await self._ready()
            try:
                return await self._transmit(connection, mail)
            except _NotSent as error:
                if connection.is_new:
                    raise _lost(error) from error
            # The server had closed a connection that we had kept: a new one tells how it is.
            connection = await self._open()
            try:
                return await self._transmit(connection, mail)
            except _NotSent as error:
                raise _lost(error) from error

    async def check(self) -> str:
        """Connect, sign in and say NOOP; to which server, and how safely. Raises ChannelError as `send` does."""
        async with self._slot():
            connection = await self._open()
            client = connection.client
            try:
                response = await client.noop()
                if response.code != COMPLETED:
                    raise _refusal(response.code, response.message)
                tls = client.get_transport_info("ssl_object")
                version = tls.version() if tls is not None else "without TLS"
            except (SMTPServerDisconnected, SMTPTimeoutError) as error:
                raise _lost(error) from error
            finally:
                await self._quit(connection)
        return f"{self._settings.smtp_host}:{self._settings.smtp_port}, {version}"

    async def close(self) -> None:
        """Close all connections. The pool may be used again afterwards."""
        idle, self._idle, self._slots, self._loop = self._idle, [], None, None
        await asyncio.gather(*(self._quit(connection) for connection in idle))

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of the connections there may be. Raises TemporaryChannelError if none becomes free in time."""
        loop = asyncio.get_running_loop()
        if self._slots is None or self._loop is not loop:
            self._loop, self._idle = loop, []
            self._slots = asyncio.Semaphore(self._settings.smtp_pool_size)
        slots = self._slots
        try:
            async with asyncio.timeout(self._settings.smtp_timeout):
                await slots.acquire()
        except TimeoutError:
            raise TemporaryChannelError(
                f"All {self._settings.smtp_pool_size} connections to the SMTP server are busy; nothing was sent. "
                "If this goes on, raise channels.email.smtp_pool_size.",
                code=None,
                retry_after=None,
            ) from None
        try:
            yield
        finally:
            slots.release()

    async def _ready(self) -> _Connection:
        """The connection that was used last, if it is alive; else a new one."""
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            idle = loop.time() - connection.idle_since
            if not connection.client.is_connected:
                _drop(connection.client)
            elif connection.uses >= MOST_USES or idle > IDLE_SECONDS:
                await self._quit(connection)
            elif idle <= FRESH_SECONDS or await self._is_alive(connection):
                return connection
        return await self._open()

    async def _is_alive(self, connection: _Connection) -> bool:
        try:
            alive = (await connection.client.noop()).code == COMPLETED
        except (SMTPException, OSError):
            alive = False
        except BaseException:
            _drop(connection.client)
            raise
        if not alive:
            _drop(connection.client)
        return alive

    async def _open(self) -> _Connection:
        settings = self._settings
        if self._tls is None:
            self._tls = await asyncio.to_thread(settings.tls)
        password = settings.smtp_password
        client = SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            local_hostname=_own_name(settings.domain),
            timeout=settings.smtp_timeout,
            use_tls=settings.smtp_security == "tls",
            start_tls=False,
            tls_context=self._tls,
        )
        try:
            # Step by step: what it does by itself it closes by itself, without waiting for the end of an encrypted one.
            await client.connect()
            if settings.smtp_security == "starttls":
                await client.starttls()
            await client.ehlo()
            if settings.smtp_username is not None and password is not None:
                await client.login(settings.smtp_username, password.get_secret_value())
        except BaseException as error:
            _drop(client)
            if isinstance(error, SMTPException | OSError):
                raise self._unreachable(error) from error
            raise
        transport, protocol = client.transport, client.protocol
        if not isinstance(transport, asyncio.WriteTransport) or protocol is None:
            raise _lost(SMTPServerDisconnected("Connection lost"))
        transport.set_write_buffer_limits(high=0)
        # It closes the transport when it goes, so it lives as long as the connection.
        writer = asyncio.StreamWriter(transport, protocol, None, asyncio.get_running_loop())
        return _Connection(client, writer)

    def _unreachable(self, error: Exception) -> ChannelError:
        where = f"{self._settings.smtp_host}:{self._settings.smtp_port}"
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return TemporaryChannelError(
                    f"No encrypted connection to the SMTP server {where}: {cause.reason or cause}. Check channels.email.smtp_host "
                    "(it must be the name in the server's certificate), smtp_port and smtp_security; for a certificate of "
                    "your own, set ca_file.",
                    code=None,
                    retry_after=None,
                )
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, SMTPResponseException):
            return _refusal(error.code, error.message)
        if isinstance(error, SMTPConnectError | SMTPServerDisconnected | SMTPTimeoutError | OSError):
            return TemporaryChannelError(
                f"The SMTP server {where} could not be reached: {masked(str(error)) or type(error).__name__}",
                code=None,
                retry_after=None,
            )
        return PermanentChannelError(
            f"The SMTP server {where} cannot be used: {masked(str(error))} Check channels.email.smtp_security and smtp_port.",
            code=None,
        )

    async def _transmit(self, connection: _Connection, mail: Composed) -> str:
        """One mail transaction. The connection is kept for the next if it can be used again."""
        client = connection.client
        try:
            words = await self._transaction(connection, mail)
        except SMTPResponseException as error:
            if (
                error.code == CLOSING
                and not isinstance(error, SMTPRecipientRefused)
                and not connection.is_new
            ):
                _drop(client)
                raise _NotSent(str(error.code)) from error
            await self._reset(connection)
            raise _refusal(error.code, error.message) from error
        except PermanentChannelError:
            self._keep(connection)
            raise
        except BaseException:
            _drop(client)
            raise
        connection.uses += 1
        self._keep(connection)
        return words

    async def _transaction(self, connection: _Connection, mail: Composed) -> str:
        client = connection.client
        envelope, recipient = _options(client, mail)
        encoding = "utf-8" if mail.needs_utf8 else "ascii"
        try:
            await client.mail(mail.sender, options=envelope, encoding=encoding)
            await client.rcpt(mail.recipient, options=recipient, encoding=encoding)
            start = await client.execute_command(b"DATA")
            if start.code != START_INPUT:
                raise SMTPResponseException(start.code, start.message)
            await _write(connection, _stuffed(mail.octets), self._settings.smtp_timeout)
        except (SMTPServerDisconnected, SMTPTimeoutError, OSError) as error:
            raise _NotSent(str(error) or type(error).__name__) from error
        try:
            end = await client.execute_command(b".")
        except (SMTPServerDisconnected, SMTPTimeoutError, OSError) as error:
            raise ChannelError(
                f"The SMTP server was lost after delivery {mail.key} had gone out; whether it took it is unknown.",
                code=None,
            ) from error
        if end.code != COMPLETED:
            raise SMTPResponseException(end.code, end.message)
        return end.message

    async def _reset(self, connection: _Connection) -> None:
        """Make the connection ready for another message after a refusal."""
        try:
            ready = (await connection.client.rset()).code == COMPLETED
        except (SMTPException, OSError):
            ready = False
        except BaseException:
            _drop(connection.client)
            raise
        if ready:
            connection.uses += 1
            self._keep(connection)
        else:
            _drop(connection.client)

    def _keep(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop and connection.client.is_connected:
            connection.idle_since = loop.time()
            self._idle.append(connection)
        else:
            _drop(connection.client)

    async def _quit(self, connection: _Connection) -> None:
        transport = connection.client.transport
        try:
            if connection.client.is_connected:
                await connection.client.quit(timeout=QUIT_SECONDS)
        except (SMTPException, OSError):
            pass
        finally:
            _drop(connection.client)
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()


def _drop(client: SMTP) -> None:
    """Let go of a connection at once: an encrypted one would otherwise wait for the server's farewell, beyond the life of
    the loop."""
    transport = client.transport
    client.close()
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def _options(client: SMTP, mail: Composed) -> tuple[list[str], list[str]]:
    """What is said besides the addresses in MAIL and RCPT, as far as the server knows it."""
    envelope, recipient = [], []
    if mail.needs_utf8:
        if not client.supports_extension("smtputf8"):
            raise PermanentChannelError(
                f"The SMTP server takes no addresses that are not ASCII (SMTPUTF8). {ADVICE['5.6.7']}",
                code="5.6.7",
            )
        envelope.append("SMTPUTF8")
    if client.supports_extension("size"):
        envelope.append(f"SIZE={len(mail.octets)}")
    if client.supports_extension("dsn"):  # RFC 3461: the bounce then tells which delivery it is about
        envelope += ["RET=HDRS", f"ENVID={_xtext(mail.key)}"]
        recipient.append("NOTIFY=FAILURE")
    return envelope, recipient


async def _write(connection: _Connection, octets: bytes, timeout: float) -> None:
    """Write until all has left this process. Raises SMTPServerDisconnected or SMTPTimeoutError if it does not."""
    connection.writer.write(octets)
    try:
        async with asyncio.timeout(timeout):
            await connection.writer.drain()
    except TimeoutError as error:
        raise SMTPTimeoutError("Timed out writing the message") from error
    if not connection.client.is_connected:
        raise SMTPServerDisconnected("Connection lost")


def _stuffed(octets: bytes) -> bytes:
    """The message as it follows DATA, without the final dot: RFC 5321 section 4.5.2."""
    return re.sub(rb"(?m)^\.", b"..", octets.removesuffix(b"\r\n")) + b"\r\n"


def _xtext(text: str) -> str:
    """RFC 3461 section 4."""
    return "".join(
        one if "!" <= one <= "~" and one not in "+=" else "".join(f"+{octet:02X}" for octet in one.encode())
        for one in text
    )


def _own_name(domain: str) -> str:
    """What we are called in EHLO: this machine's name if it has a domain, else the sender's domain."""
    name = socket.gethostname()
    return name if "." in name.strip(".") and name.isascii() else domain


def _lost(error: Exception) -> TemporaryChannelError:
    return TemporaryChannelError(
        f"The connection to the SMTP server was lost before the message had left: {masked(str(error))}",
        code=None,
        retry_after=None,
    )


def _refusal(code: int, words: str) -> ChannelError:
    """What an answer that is no success means; `code` is the enhanced one if there is one (RFC 2034)."""
    match = _ENHANCED.match(words)
    enhanced = match[1] if match is not None else None
    said = re.sub(r"\s+", " ", re.sub(r"(^|\n)\s*[245]\.\d{1,3}\.\d{1,3}\b", " ", words)).strip()
    said = masked(said)[:MOST_WORDS].rstrip(".") or "no reason given"
    advice = ADVICE.get(enhanced or "") or ADVICE.get(str(code), "")
    named = f"{code} {enhanced}" if enhanced is not None else str(code)
    message = f"The SMTP server answered {named}: {said}. {advice}".rstrip()
    if 400 <= code < 500:
        return TemporaryChannelError(message, code=enhanced or str(code), retry_after=None)
    return PermanentChannelError(message, code=enhanced or str(code))
