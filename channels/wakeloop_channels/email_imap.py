"""Mail fetched from a mailbox (IMAP4rev1, RFC 3501): it is waited for with IDLE (RFC 2177), or asked for where the server
has none, and each message is recorded before anything is done to it.

How far it has come is kept as `UIDVALIDITY:UID`. A server that gives out new UIDs says so by another UIDVALIDITY: then
all of the last days is looked at again, and what was recorded before counts once.

imap-tools and imaplib beneath it block, so each connection has a thread; to stop it, its socket is shut down.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from imaplib import IMAP4
from typing import Any, TypeVar

from imap_tools import BaseMailBox, MailBox, MailBoxStartTls, MailBoxUnencrypted
from imap_tools.errors import (
    ImapToolsError,
    MailboxFolderSelectError,
    MailboxLoginError,
    UnexpectedCommandStatusError,
)
from imap_tools.imap_utf7 import utf7_encode

from wakeloop.channel import DeliveryUpdate, Incoming, Inlet
from wakeloop.errors import ChannelError, PermanentChannelError
from wakeloop_channels.email_parts import Unreadable
from wakeloop_channels.email_reading import read_message
from wakeloop_channels.email_settings import EmailSettings

MAX_BYTES = 30 * 1024 * 1024
"""Of one message; larger ones are passed over."""

_log = logging.getLogger(__name__)
_R = TypeVar("_R")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SIZE = re.compile(rb"RFC822\.SIZE (\d+)")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds: of one IDLE, well below the 29 minutes of RFC 2177 and the patience of firewalls; between two looks at a
    server without IDLE; before the first and at most before any further attempt to connect. first_days: how old unseen
    mail may be when a mailbox is looked at for the first time. again_days: what is looked at again when UIDs are new."""

    idle: float = 300.0
    poll: float = 30.0
    backoff: float = 1.0
    max_backoff: float = 60.0
    first_days: int = 1
    again_days: int = 7


async def listen(settings: EmailSettings, inlet: Inlet, pace: Pace | None = None) -> None:
    """Hand in what comes into the mailbox until cancelled. A lost connection is made again, after longer and longer, and
    what came meanwhile is fetched.

    Raises PermanentChannelError if the server refuses the login or has no such folder."""
    pace = pace or Pace()
    place, wait = _Place(inlet.cursor), pace.backoff
    while True:
        session = _Session(settings)
        try:
            await session.run(session.connect)
            while True:
                while await _take_new(session, settings, inlet, place, pace):
                    pass
                wait = pace.backoff
                if session.idles:
                    await session.run(session.idle, pace.idle)
                else:
                    await asyncio.sleep(pace.poll)
                    await session.run(session.noop)
        except (OSError, IMAP4.error, ImapToolsError) as error:
            _log.warning(
                "the mailbox was lost; connecting again",
                extra={"channel": "email", "error": type(error).__name__, "seconds": wait},
            )
        finally:
            session.end()
        await asyncio.sleep(wait)
        wait = min(2 * wait, pace.max_backoff)


async def check(settings: EmailSettings) -> str:
    """Log in and open the folder, as `listen` would; who and where, in a few words.

    Raises ChannelError, PermanentChannelError if the server refuses the login or has no such folder."""
    session = _Session(settings)
    try:
        await session.run(session.connect)
        return f"{settings.imap_folder} at {settings.imap_host}, {'IDLE' if session.idles else 'asked regularly'}"
    except (OSError, IMAP4.error, ImapToolsError) as error:
        raise ChannelError(
            f"The IMAP server {settings.imap_host}:{settings.imap_port} cannot be used ({type(error).__name__}: "
            f"{_words(error)}); check channels.email.imap_host, imap_port and imap_security."
        ) from error
    finally:
        session.end()


@dataclass
class _Place:
    """How far the mailbox was recorded, as `UIDVALIDITY:UID`; None if never."""

    cursor: str | None


async def _take_new(
    session: _Session, settings: EmailSettings, inlet: Inlet, place: _Place, pace: Pace
) -> bool:
    """Record what is new, one message at a time and in the order in which it came; whether to look again before waiting.

    While a first look, or one after new UIDs, is under way the cursor stays: were it cut short, all of it is looked at
    again. What came since the folder was opened is looked at again in any case."""
    known, _, last = (place.cursor or "").partition(":")
    going = known == session.validity and last.isdigit()
    if going:
        uids = [uid for uid in await session.run(session.search, f"UID {int(last) + 1}:*") if uid > int(last)]
    elif place.cursor is None:
        uids = await session.run(session.search, f"UNSEEN SINCE {_date(pace.first_days)}")
    else:
        uids = await session.run(session.search, f"SINCE {_date(pace.again_days)}")
    for uid in uids:
        items = await session.run(_read, session, settings, uid)
        if going:
            await inlet.take(items, cursor=f"{session.validity}:{uid}")
            place.cursor = f"{session.validity}:{uid}"
        else:
            await inlet.take(items)
        await session.run(session.dispose, uid)
    if not going:
        place.cursor = f"{session.validity}:{session.next_uid - 1}"
        await inlet.take([], cursor=place.cursor)
    return bool(uids) or not going or session.told_of_more


def _read(session: _Session, settings: EmailSettings, uid: int) -> Sequence[Incoming | DeliveryUpdate]:
    """What a message says; nothing if it cannot be read, is too large, or is gone: those behind it must not wait."""
    try:
        size = session.size(uid)
        if size is not None and size > MAX_BYTES:
            raise Unreadable(f"it has {size} bytes, more than {MAX_BYTES}")
        raw = session.fetch(uid) if size is not None else None
        return read_message(raw, settings) if raw is not None else []
    except (Unreadable, _Refused) as error:
        _log.warning("mail passed over", extra={"channel": "email", "uid": uid, "error": _words(error)})
        return []


class _Session:
    """One connection and its thread. Its methods block; `run` has them done in the thread."""

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wakeloop-imap")
        self._mailbox: BaseMailBox | None = None
        self._abilities: frozenset[str] = frozenset()
        self.validity = ""
        self.next_uid = 1

    async def run(self, call: Callable[..., _R], *arguments: Any) -> _R:
        """Do this in the thread; if that is cancelled, cut the connection so that the thread comes free."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
        except asyncio.CancelledError:
            self._cut()
            raise

    def end(self) -> None:
        """Let go of the connection and the thread, without waiting for them."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    @property
    def idles(self) -> bool:
        """Whether the server has IDLE."""
        return "IDLE" in self._abilities

    @property
    def told_of_more(self) -> bool:
        """Whether the server told of messages since it began to search: it tells once, and not again in IDLE."""
        return "EXISTS" in self._client.untagged_responses

    def connect(self) -> None:
        """Log in and open the folder."""
        settings = self._settings
        host, port, timeout = settings.imap_host or "", settings.imap_port, settings.imap_timeout
        if settings.imap_security == "tls":
            self._mailbox = MailBox(host, port, timeout=timeout, ssl_context=settings.tls())
        elif settings.imap_security == "starttls":
            self._mailbox = MailBoxStartTls(host, port, timeout=timeout, ssl_context=settings.tls())
        else:
            self._mailbox = MailBoxUnencrypted(host, port, timeout=timeout)
        username = settings.imap_username or ""
        password = settings.imap_password.get_secret_value() if settings.imap_password is not None else ""
        plain = username.isascii() and password.isascii()
        log_in = self._mailbox.login if plain else self._mailbox.login_utf8
        try:
            log_in(username, password, initial_folder=None)
        except (MailboxLoginError, IMAP4.error) as error:
            if isinstance(error, IMAP4.abort):
                raise
            raise PermanentChannelError(
                f"The IMAP server {host} refuses the login ({_words(error)}); check channels.email.imap_username and "
                "WAKELOOP_EMAIL_IMAP_PASSWORD, which many providers want to be an app password."
            ) from error
        try:
            self._mailbox.folder.set(settings.imap_folder)
        except MailboxFolderSelectError as error:
            raise PermanentChannelError(
                f"The IMAP server {host} cannot open {settings.imap_folder!r} ({_words(error)}); check "
                "channels.email.imap_folder."
            ) from error
        self.validity = self._told("UIDVALIDITY") or "0"
        next_uid = self._told("UIDNEXT")
        self.next_uid = int(next_uid) if next_uid else max(self.search("UID *:*"), default=0) + 1
        self._abilities = frozenset(
            word.decode("ascii", "replace").upper()
            for line in self._done(self._client.capability())
            for word in (line or b"").split()
        )

    def search(self, criteria: str) -> list[int]:
        """The UIDs of messages that fit, ascending."""
        self._client.untagged_responses.pop("EXISTS", None)
        found = self._done(self._client.uid("SEARCH", criteria))
        return sorted({int(uid) for line in found if line for uid in line.split()})

    def size(self, uid: int) -> int | None:
        """How many octets a message has; None if it is gone."""
        for line in self._done(self._client.uid("FETCH", str(uid), "(RFC822.SIZE)")):
            match = _SIZE.search(line) if isinstance(line, bytes) else None
            if match:
                return int(match[1])
        return None

    def fetch(self, uid: int) -> bytes | None:
        """A message as it came, left unseen; None if it is gone."""
        for part in self._done(self._client.uid("FETCH", str(uid), "(BODY.PEEK[])")):
            if isinstance(part, tuple):
                return bytes(part[1])
        return None

    def dispose(self, uid: int) -> None:
        """Mark a message that was recorded as seen, and move it, if the settings ask for that. A server that refuses
        keeps it as it is: that is logged."""
        settings, client = self._settings, self._client
        try:
            if settings.imap_mark_seen:
                self._done(client.uid("STORE", str(uid), "+FLAGS.SILENT", r"(\Seen)"))
            if settings.imap_move_to is not None:
                folder = _quoted(settings.imap_move_to)
                if "MOVE" in self._abilities:
                    self._done(client.uid("MOVE", str(uid), folder))
                else:
                    self._done(client.uid("COPY", str(uid), folder))
                    self._done(client.uid("STORE", str(uid), "+FLAGS.SILENT", r"(\Deleted)"))
        except _Refused as error:
            _log.warning(
                "mail was recorded, but could not be marked or moved",
                extra={"channel": "email", "uid": uid, "error": _words(error)},
            )

    def idle(self, seconds: float) -> None:
        """Wait until the server tells of something, or for so long."""
        idle: Any = self._box.idle
        with idle:
            if not self._read_ahead():
                idle.poll(timeout=seconds)

    def noop(self) -> None:
        """Let the server tell what is new."""
        self._done(self._client.noop())

    def _read_ahead(self) -> bool:
        """Whether what the server told with its first answer to IDLE was read with it. It then waits in the buffer,
        where polling the socket would not see it."""
        client = self._client
        reader: Any = getattr(client, "_file", None) or client.file
        client.sock.settimeout(0)
        try:
            return bool(reader.peek(1))
        except (BlockingIOError, OSError):
            return False
        finally:
            client.sock.settimeout(self._settings.imap_timeout)

    @property
    def _box(self) -> BaseMailBox:
        if self._mailbox is None:
            raise ConnectionError("not connected")
        return self._mailbox

    @property
    def _client(self) -> IMAP4:
        return self._box.client

    def _told(self, name: str) -> str | None:
        """What the server said when the folder was opened."""
        told = [data for data in self._client.untagged_responses.get(name, ()) if isinstance(data, bytes)]
        return told[-1].decode("ascii", "replace") if told else None

    def _done(self, answer: tuple[str, list[Any]]) -> list[Any]:
        status, data = answer
        if status != "OK":
            raise _Refused(f"{status} {data[0].decode('utf-8', 'replace') if data and data[0] else ''}")
        return data

    def _cut(self) -> None:
        """Shut the socket under the thread. Its own object is the thread's; another one for it is ours to use."""
        mailbox = self._mailbox
        try:
            if mailbox is not None:
                with socket.fromfd(mailbox.client.sock.fileno(), socket.AF_INET, socket.SOCK_STREAM) as own:
                    own.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already

    def _close(self) -> None:
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            try:
                mailbox.client.shutdown()
            except (OSError, ValueError):
                pass  # lost already


class _Refused(IMAP4.error):
    """The server answered NO or BAD."""


def _date(days: int) -> str:
    """So many days ago, as SEARCH has dates; a day more, for the server's time zone is its own."""
    day = datetime.now(tz=UTC) - timedelta(days=days)
    return f"{day.day}-{_MONTHS[day.month - 1]}-{day.year}"


def _quoted(name: str) -> str:
    """A folder's name as commands have it: modified UTF-7, quoted."""
    encoded = utf7_encode(name).decode("ascii").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{encoded}"'


def _words(error: BaseException) -> str:
    """An error, or the server's own words in it, in one short line and without what might be an address."""
    if isinstance(error, UnexpectedCommandStatusError):
        told = [
            word.decode("utf-8", "replace") for word in error.command_result[1] if isinstance(word, bytes)
        ]
    else:
        told = [str(error)]
    return re.sub(r"[^\s<>@'\"]+@[^\s<>@'\"]+", "…", " ".join(" ".join(told).split()))[:200]
