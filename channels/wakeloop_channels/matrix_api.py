"""What the Matrix channel asks of a homeserver: the Client-Server API, and what its answers mean.

Written on aiohttp: the clients of libraries wait and ask again by themselves, which is for the outbox to decide, and
keep every room in memory. Source: https://spec.matrix.org/v1.15/client-server-api/.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar

from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop_channels.http import exchange, json_object, read_bounded, refusal

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_MEDIA_BYTES = 25 * 1024 * 1024
DIRECT = "m.direct"

ADVICE: Mapping[str, str] = {
    "M_UNKNOWN_TOKEN": "Log in again and set WAKELOOP_MATRIX_ACCESS_TOKEN anew.",
    "M_MISSING_TOKEN": "Set WAKELOOP_MATRIX_ACCESS_TOKEN.",
    "M_USER_DEACTIVATED": "The account was deactivated; use another.",
    "M_FORBIDDEN": "Invite the account into the room, or let it write there.",
    "M_TOO_LARGE": "Shorten the message, or send a smaller file.",
    "M_NOT_FOUND": "Check the address.",
}
GONE = frozenset({"M_NOT_FOUND", "M_FORBIDDEN"})


class MatrixApi:
    """One account at one homeserver. Its network traffic happens on one event loop at a time.

    Every request here can be repeated: those that write have a transaction id, set something, or make a room or a file
    that nobody misses. So whatever goes wrong on the way is a TemporaryChannelError."""

    def __init__(self, homeserver: str, access_token: str, timeout: float) -> None:
        self._base = homeserver.rstrip("/")
        self._headers = {"Authorization": f"Bearer {access_token}"}
        self._timeout = timeout
        self._http: ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close the connections. They are made again when they are needed."""
        http, self._http, self._loop = self._http, None, None
        if http is not None:
            await http.close()

    # ------------------------------------------------------------------ the account

    async def versions(self) -> list[str]:
        """The versions of the specification that the server speaks."""
        found = (await self.call("GET", "/_matrix/client/versions", authorized=False)).get("versions")
        return [str(one) for one in found] if isinstance(found, list) else []

    async def whoami(self) -> str:
        """The account's user id."""
        return str((await self.call("GET", "/_matrix/client/v3/account/whoami")).get("user_id", ""))

    async def direct_rooms(self, me: str) -> dict[str, list[str]]:
        """The rooms of conversations with one person, by user id, newest first (account data `m.direct`)."""
        found = await self.look_up(f"/_matrix/client/v3/user/{_quoted(me)}/account_data/{DIRECT}") or {}
        return {
            user: [room for room in rooms if isinstance(room, str)]
            for user, rooms in found.items()
            if isinstance(rooms, list)
        }

    async def remember_direct(self, me: str, user: str, room: str) -> None:
        """Put a room first among those of a person."""
        rooms = await self.direct_rooms(me)
        if rooms.get(user, [])[:1] == [room]:
            return
        rooms[user] = [room, *(other for other in rooms.get(user, []) if other != room)]
        await self.call("PUT", f"/_matrix/client/v3/user/{_quoted(me)}/account_data/{DIRECT}", rooms)

    # ------------------------------------------------------------------ rooms

    async def create_direct(self, user: str) -> str:
        """A new room to which a person is invited."""
        body = {"preset": "trusted_private_chat", "is_direct": True, "invite": [user]}
        return str((await self.call("POST", "/_matrix/client/v3/createRoom", body))["room_id"])

    async def join(self, room: str) -> None:
        """Follow an invitation."""
        await self.call("POST", f"/_matrix/client/v3/join/{_quoted(room)}", {})

    async def membership(self, room: str, user: str) -> str | None:
        """`join`, `invite`, `leave`, `ban` or `knock`; None if there is no word of them, or of the room."""
        state = await self.look_up(
            f"/_matrix/client/v3/rooms/{_quoted(room)}/state/m.room.member/{_quoted(user)}"
        )
        return None if state is None else str(state.get("membership"))

    async def is_encrypted(self, room: str) -> bool:
        """Whether what is said there is to be encrypted."""
        state = await self.look_up(f"/_matrix/client/v3/rooms/{_quoted(room)}/state/m.room.encryption/")
        return state is not None

    async def event(self, room: str, id: str) -> dict[str, Any] | None:
        """An event, None if it cannot be seen."""
        return await self.look_up(f"/_matrix/client/v3/rooms/{_quoted(room)}/event/{_quoted(id)}")

    async def put(self, room: str, kind: str, transaction: str, content: Mapping[str, Any]) -> str:
        """Send an event, once for each transaction id; its id."""
        path = f"/_matrix/client/v3/rooms/{_quoted(room)}/send/{_quoted(kind)}/{_quoted(transaction)}"
        id = (await self.call("PUT", path, content)).get("event_id")
        if not isinstance(id, str):
            raise TemporaryChannelError("The homeserver answered without an event_id.", code=None)
        return id

    # ------------------------------------------------------------------ what comes

    async def sync(self, since: str | None, *, filter: str, wait: float) -> dict[str, Any]:
        """What happened since; waits up to `wait` seconds for something."""
        query = {"filter": filter, "timeout": str(int(wait * 1000)), "set_presence": "offline"}
        if since is not None:
            query["since"] = since
        return await self.call("GET", f"/_matrix/client/v3/sync?{urlencode(query)}", patience=wait)

    async def messages(self, room: str, *, start: str, end: str, filter: str) -> dict[str, Any]:
        """Earlier events of a room, newest first: from `start` back to `end`."""
        query = {"dir": "b", "from": start, "to": end, "limit": "100", "filter": filter}
        return await self.call("GET", f"/_matrix/client/v3/rooms/{_quoted(room)}/messages?{urlencode(query)}")

    # ------------------------------------------------------------------ files

    async def upload(self, data: bytes, content_type: str, name: str) -> str:
        """Keep a file at the homeserver; its `mxc:` address."""
        path = f"/_matrix/media/v3/upload?{urlencode({'filename': name})}"
        return str((await self.call("POST", path, data=data, content_type=content_type))["content_uri"])

    async def download(self, url: str) -> bytes:
        """The bytes at an `mxc:` address. Raises PermanentChannelError if it is none, is gone or is too large."""
        server, slash, media = url.removeprefix("mxc://").partition("/")
        if not url.startswith("mxc://") or not server or not slash or not media or "/" in media:
            raise PermanentChannelError("The file has no mxc: address.", code=None)
        path = f"/_matrix/client/v1/media/download/{_quoted(server)}/{_quoted(media)}"
        with exchange("The homeserver", repeatable=True):
            async with self._session().get(
                self._base + path, headers=self._headers, allow_redirects=False
            ) as response:
                if response.status != 200:
                    text = (await response.content.read(MAX_MEDIA_BYTES)).decode("utf-8", "replace")
                    raise _refusal("GET", response.status, response.headers, text)
                return await read_bounded(response, MAX_MEDIA_BYTES, what="The file")

    # ------------------------------------------------------------------ the wire

    async def look_up(self, path: str) -> dict[str, Any] | None:
        """What is there; None if it is not, or not to be seen."""
        try:
            return await self.call("GET", path)
        except PermanentChannelError as error:
            if error.code in GONE:
                return None
            raise

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        data: bytes | None = None,
        content_type: str = "application/json",
        authorized: bool = True,
        patience: float = 0.0,
    ) -> dict[str, Any]:
        """The JSON object that is answered. Raises TemporaryChannelError and PermanentChannelError with the error code
        of Matrix. patience: seconds that the answer may take beyond the usual."""
        if body is not None:
            data = json.dumps(body).encode()
        headers = dict(self._headers) if authorized else {}
        if data is not None:
            headers["Content-Type"] = content_type
        timeout = ClientTimeout(
            total=2 * self._timeout + patience, connect=self._timeout, sock_read=self._timeout + patience
        )
        with exchange("The homeserver", repeatable=True):
            async with self._session().request(
                method, self._base + path, data=data, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                answered = await read_bounded(response, MAX_ANSWER_BYTES, what="The answer of the homeserver")
                text = answered.decode("utf-8", "replace")
                if response.status != 200:
                    raise _refusal(method, response.status, response.headers, text)
                return json_object(text)

    def _session(self) -> ClientSession:
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            self._loop = loop
            timeout = ClientTimeout(total=10 * self._timeout, connect=self._timeout, sock_read=self._timeout)
            self._http = ClientSession(
                timeout=timeout, cookie_jar=DummyCookieJar(), requote_redirect_url=False
            )
        return self._http


def _refusal(method: str, status: int, headers: Mapping[str, str], text: str) -> ChannelError:
    answer = json_object(text)
    code = answer.get("errcode")
    code = code if isinstance(code, str) else None
    # Words of homeservers name rooms and people; the code says as much.
    error = refusal(
        "The homeserver",
        status,
        headers,
        "refused" if code else "no reason given",
        code=code,
        method=method,
        repeatable=True,
        untaken_codes=frozenset({"M_LIMIT_EXCEEDED"}),
        advice=ADVICE.get(code or "", ""),
    )
    waits = answer.get("retry_after_ms")  # deprecated since v1.10, and still all that some send
    if not isinstance(waits, int | float) or isinstance(waits, bool):
        return error
    if isinstance(error, TemporaryChannelError) and error.retry_after is None:
        error.retry_after = max(0.0, waits / 1000)
    return error


def _quoted(part: str) -> str:
    return quote(part, safe="")
