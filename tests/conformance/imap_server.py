"""An IMAP server on loopback for tests: as much of RFC 3501, with IDLE (RFC 2177) and MOVE (RFC 6851), as a mailbox that is
watched is asked for. It refuses what a real one refuses: a wrong password, an unknown folder, a command out of turn or
that it does not know. It can lose connections and give out new UIDs."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email import message_from_bytes
from types import TracebackType
from typing import Self

USER, PASSWORD = "agents@example.com", 'pass "word"'
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"|(\([^)]*\)|[^\s"]+)')
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(kw_only=True)
class Stored:
    """A message in a folder."""

    uid: int
    raw: bytes
    arrived: date
    flags: set[str] = field(default_factory=set)


@dataclass
class ImapServer:
    """`async with ImapServer() as server`: listens on server.port. commands: what clients said, passwords left out.
    capabilities: what it has besides IMAP4rev1. refuse_uids: messages that cannot be fetched."""

    capabilities: tuple[str, ...] = ("IDLE", "MOVE", "UIDPLUS")
    tls: ssl.SSLContext | None = None
    validity: int = 1
    commands: list[str] = field(default_factory=list)
    refuse_uids: set[int] = field(default_factory=set)
    folders: dict[str, list[Stored]] = field(default_factory=lambda: {"INBOX": [], "Done": []})
    port: int = 0
    logins: int = 0
    idling: int = 0

    async def __aenter__(self) -> Self:
        self._next_uid = 1
        self._writers: set[asyncio.StreamWriter] = set()
        self._changed: set[asyncio.Event] = set()
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, limit=1 << 20
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Go away, cutting every connection."""
        self._server.close()
        self.drop()
        await self._server.wait_closed()

    async def restart(self) -> None:
        """Be there again, at the same port."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, limit=1 << 20
        )

    def drop(self) -> None:
        """Lose every connection, without a word."""
        for writer in list(self._writers):
            writer.transport.abort()

    def deliver(
        self, raw: bytes, *, arrived: date | None = None, seen: bool = False, folder: str = "INBOX"
    ) -> int:
        """Put a message into a folder, and tell those who wait; its UID."""
        uid, self._next_uid = self._next_uid, self._next_uid + 1
        flags = {r"\Seen"} if seen else set()
        self.folders[folder].append(
            Stored(uid=uid, raw=raw, arrived=arrived or datetime.now(tz=UTC).date(), flags=flags)
        )
        for changed in self._changed:
            changed.set()
        return uid

    def renumber(self) -> None:
        """Give every message another UID, as servers do that lost their index."""
        self.validity += 1
        self._next_uid = 1
        for stored in self.folders["INBOX"]:
            stored.uid, self._next_uid = self._next_uid, self._next_uid + 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await _Connection(self, reader, writer).serve()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


class _Connection:
    def __init__(
        self, server: ImapServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.known = False
        self.folder: str | None = None
        self.told = 0

    async def serve(self) -> None:
        self._say(f"* OK [CAPABILITY {self._capabilities()}] ready")
        while line := await self.reader.readline():
            tag, _, rest = line.strip().partition(b" ")
            words = [
                m[1].replace(b'\\"', b'"').replace(b"\\\\", b"\\") if m[2] is None else m[2]
                for m in _QUOTED.finditer(rest)
            ]
            text = [word.decode() for word in words]
            name = text[0].upper() if text else ""
            if name == "UID" and len(text) > 1:
                name, text = f"UID {text[1].upper()}", text[1:]
            self.server.commands.append("LOGIN" if name == "LOGIN" else rest.decode())
            if name == "LOGOUT":
                self._say("* BYE", f"{tag.decode()} OK bye")
                return
            answer = await self._answer(name, text[1:])
            if self.folder is not None:
                self._tell()  # once, after whatever command, and then not again
            self._say(f"{tag.decode()} {answer}")
            await self.writer.drain()

    async def _answer(self, name: str, words: list[str]) -> str:
        anytime: dict[str, Callable[[list[str]], Awaitable[str]]] = {
            "CAPABILITY": self._capability,
            "LOGIN": self._login,
            "NOOP": self._noop,
        }
        inside: dict[str, Callable[[list[str]], Awaitable[str]]] = {
            "IDLE": self._idle,
            "UID SEARCH": self._search,
            "UID FETCH": self._fetch,
            "UID STORE": self._store,
            "UID COPY": self._copy,
            "UID MOVE": self._move,
        }
        if name in anytime:
            return await anytime[name](words)
        if not self.known:
            return "NO log in first"
        if name in ("SELECT", "EXAMINE"):
            return await self._select(words)
        optional = {"IDLE": "IDLE", "UID MOVE": "MOVE"}
        if name not in inside or (name in optional and optional[name] not in self.server.capabilities):
            return "BAD unknown command"
        return await inside[name](words) if self.folder is not None else "BAD no folder selected"

    async def _capability(self, words: list[str]) -> str:
        self._say(f"* CAPABILITY {self._capabilities()}")
        return "OK done"

    async def _login(self, words: list[str]) -> str:
        if words != [USER, PASSWORD]:
            return "NO [AUTHENTICATIONFAILED] wrong user or password"
        self.known = True
        self.server.logins += 1
        return "OK logged in"

    async def _noop(self, words: list[str]) -> str:
        return "OK done"

    async def _select(self, words: list[str]) -> str:
        if words[0] not in self.server.folders:
            return "NO [NONEXISTENT] no such folder"
        self.folder = words[0]
        self.told = len(self._messages())
        self._say(
            r"* FLAGS (\Seen \Deleted)",
            f"* {self.told} EXISTS",
            "* 0 RECENT",
            f"* OK [UIDVALIDITY {self.server.validity}] valid",
            f"* OK [UIDNEXT {self.server._next_uid}] next",
        )
        return "OK [READ-WRITE] selected"

    async def _idle(self, words: list[str]) -> str:
        changed = asyncio.Event()
        self.server._changed.add(changed)
        self.server.idling += 1
        # In one packet with what is new, as real servers do.
        news = [f"* {len(self._messages())} EXISTS"] if len(self._messages()) != self.told else []
        self.told = len(self._messages())
        self._say("+ idling", *news)
        done = asyncio.ensure_future(self.reader.readline())
        try:
            while not done.done():
                waiting = asyncio.ensure_future(changed.wait())
                await asyncio.wait({done, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if changed.is_set():
                    changed.clear()
                    self._tell()
            line = (await done).strip().upper()
        finally:
            done.cancel()
            self.server.idling -= 1
            self.server._changed.discard(changed)
        if not line:
            raise ConnectionResetError
        self.server.commands.append(line.decode())
        return "OK done" if line == b"DONE" else "BAD expected DONE"

    async def _search(self, words: list[str]) -> str:
        found = self._messages()
        position = 0
        # A key in parentheses is one word so far.
        words = [
            part for one in words for part in (re.findall(r'[^\s"()]+', one) if one[0] == "(" else [one])
        ]
        while position < len(words):
            key = words[position].upper()
            if key == "UNSEEN":
                found = [one for one in found if r"\Seen" not in one.flags]
                position += 1
            elif key == "SINCE":
                day, month, year = words[position + 1].split("-")
                since = date(int(year), _MONTHS.index(month) + 1, int(day))
                found = [one for one in found if one.arrived >= since]
                position += 2
            elif key == "UID":
                first, _, last = words[position + 1].partition(":")
                highest = max((one.uid for one in self._messages()), default=0)
                ends = [highest if end == "*" else int(end) for end in (first, last or first)]
                found = [one for one in found if min(ends) <= one.uid <= max(ends)]
                position += 2
            elif key == "CHARSET":
                position += 2
            elif key == "HEADER":
                name, part = (word.lower() for word in words[position + 1 : position + 3])
                found = [one for one in found if part in str(message_from_bytes(one.raw)[name]).lower()]
                position += 3
            else:
                return f"BAD unknown search key {key}"
        self._say(" ".join(["* SEARCH", *(str(one.uid) for one in found)]))
        return "OK done"

    async def _fetch(self, words: list[str]) -> str:
        uid = int(words[0])
        for number, one in enumerate(self._messages(), 1):
            if one.uid != uid:
                continue
            if words[1] == "(RFC822.SIZE)":
                self._say(f"* {number} FETCH (UID {uid} RFC822.SIZE {len(one.raw)})")
            elif words[1].startswith("(BODY.PEEK[HEADER]"):
                head = one.raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                self.writer.write(
                    b"* %d FETCH (UID %d FLAGS () RFC822.SIZE %d BODY[HEADER] {%d}\r\n%s)\r\n"
                    % (number, uid, len(one.raw), len(head), head)
                )
            elif words[1] == "(BODY.PEEK[])":
                if uid in self.server.refuse_uids:
                    return "NO [SERVERBUG] cannot read it"
                self.writer.write(
                    b"* %d FETCH (UID %d BODY[] {%d}\r\n%s)\r\n" % (number, uid, len(one.raw), one.raw)
                )
            else:
                return "BAD unknown item"
        return "OK done"

    async def _store(self, words: list[str]) -> str:
        if words[1] != "+FLAGS.SILENT":
            return "BAD unknown item"
        for one in self._messages():
            if one.uid == int(words[0]):
                one.flags.update(words[2].strip("()").split())
        return "OK done"

    async def _copy(self, words: list[str]) -> str:
        if words[1] not in self.server.folders:
            return "NO [TRYCREATE] no such folder"
        for one in self._messages():
            if one.uid == int(words[0]):
                self.server.deliver(one.raw, arrived=one.arrived, folder=words[1])
        return "OK done"

    async def _move(self, words: list[str]) -> str:
        answer = await self._copy(words)
        if answer.startswith("OK"):
            for number, one in enumerate(list(self._messages()), 1):
                if one.uid == int(words[0]):
                    self._messages().remove(one)
                    self.told -= 1
                    self._say(f"* {number} EXPUNGE")
        return answer

    def _messages(self) -> list[Stored]:
        return self.server.folders[self.folder or "INBOX"]

    def _tell(self) -> None:
        if len(self._messages()) != self.told:
            self.told = len(self._messages())
            self._say(f"* {self.told} EXISTS")

    def _capabilities(self) -> str:
        return " ".join(("IMAP4rev1", *self.server.capabilities))

    def _say(self, *lines: str) -> None:
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
