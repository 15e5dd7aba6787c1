"""Discord's HTTP API, version 10 (https://discord.com/developers/docs/reference), as far as this channel uses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, FormData
from pydantic import HttpUrl

from wakeloop.errors import ChannelError
from wakeloop_channels.http import exchange, json_object, read_bounded, refusal

MAX_ANSWER_BYTES = 8 * 1024 * 1024
USER_AGENT = "DiscordBot (https://wakeloop.example, 0.1)"
"""Its form is prescribed: https://discord.com/developers/docs/reference#user-agent."""

# https://discord.com/developers/docs/topics/opcodes-and-status-codes#json: what a refusal means for whoever mends it.
ADVICE: Mapping[str, str] = {
    "10003": "Correct the contact's channel, or let the bot see it.",
    "10013": "Correct the contact's user ID.",
    "50001": "Let the bot see the channel.",
    "50007": "The person must share a server with the bot, or have the app installed, and allow direct messages.",
    "50013": "Give the bot the permissions to send messages and to read the history of the channel.",
    "50035": "A message has at most 2000 characters, with a backslash before each that Discord would read as markup.",
    "50278": "The person must share a server with the bot, or have the app installed.",
}
UNAUTHORIZED = "Check WAKELOOP_DISCORD_BOT_TOKEN: Bot > Token in Discord's Developer Portal."
UNTAKEN_CODES = frozenset({"20028", "31001", "40003", "40062"})
"""Write or direct message limits that are answered without 429."""

Upload = tuple[str, str, bytes]
"""A file: its name, its content type and its bytes."""


class Api:
    """One request each time, never repeated, never logged. Its connections belong to the loop that runs."""

    def __init__(self, api_url: HttpUrl, bot_token: str, timeout: float) -> None:
        self._base = str(api_url).rstrip("/")
        self._headers = {"Authorization": f"Bot {bot_token}", "User-Agent": USER_AGENT}
        # The connection's timeout always runs out before the total one: what it stops was certainly not sent.
        self._timeout = ClientTimeout(total=2 * timeout, connect=timeout, sock_read=timeout)
        self._session: tuple[asyncio.AbstractEventLoop, ClientSession] | None = None

    async def call(
        self,
        method: str,
        path: str,
        payload: Any = None,
        files: Sequence[Upload] = (),
        *,
        repeatable: bool = False,
    ) -> Any:
        """What Discord answers, read from JSON. repeatable: the request does no harm if it is made twice.

        Raises TemporaryChannelError or PermanentChannelError as `refusal` and `exchange` tell, and a plain ChannelError
        if what was to be sent may have been."""
        body: dict[str, Any] = {} if payload is None else {"json": payload}
        if files:
            form = FormData()
            form.add_field("payload_json", json.dumps(payload), content_type="application/json")
            for number, (name, content_type, data) in enumerate(files):
                form.add_field(f"files[{number}]", data, filename=name, content_type=content_type)
            body = {"data": form}
        repeatable = repeatable or method == "GET"
        try:
            with exchange("Discord", repeatable=repeatable):
                async with self._connections().request(
                    method, self._base + path, headers=self._headers, allow_redirects=False, **body
                ) as answer:
                    found = await read_bounded(answer, MAX_ANSWER_BYTES, what="What Discord sent")
                    status, headers = answer.status, dict(answer.headers)
        except (ClientError, TimeoutError) as error:
            raise ChannelError(
                f"The connection to Discord broke ({type(error).__name__}). Whether the message was taken is unknown.",
                code=None,
            ) from error
        text = found.decode("utf-8", "replace")
        if not 200 <= status < 300:
            raise _refusal(status, headers, text, repeatable)
        try:
            return json.loads(text)
        except ValueError as error:
            raise ChannelError("Discord's answer is no JSON.", code=None) from error

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session[1].close()

    def _connections(self) -> ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session[0] is not loop:
            self._session = (loop, ClientSession(timeout=self._timeout))
        return self._session[1]


def field(answer: Any, name: str) -> str:
    """The text of that name in an answer. Raises ChannelError if it is not there: whatever was asked may be done."""
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise ChannelError(f"Discord's answer has no {name}; what was asked may have been done.", code=None)
    return value


def _refusal(status: int, headers: Mapping[str, str], text: str, repeatable: bool) -> ChannelError:
    answer = json_object(text)
    code = str(answer["code"]) if isinstance(answer.get("code"), int) and answer["code"] else None
    words = answer.get("message")
    after = answer.get("retry_after")
    if isinstance(after, int | float):
        headers = {"retry-after": f"{max(after, 0.0):.3f}"}
    if status == 429 and answer.get("global") is True:
        words = "the limit for the whole bot is reached"
    return refusal(
        "Discord",
        status,
        headers,
        words if isinstance(words, str) else "",
        code=code,
        repeatable=repeatable,
        untaken_codes=UNTAKEN_CODES,
        advice=UNAUTHORIZED if status == 401 else ADVICE.get(code or "", ""),
    )
