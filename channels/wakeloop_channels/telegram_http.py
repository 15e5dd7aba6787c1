"""How Telegram's client talks HTTP here: python-telegram-bot's port for it, over aiohttp, with errors in our own terms.

Its own implementation is not used: httpx logs the address of every request at INFO, and the bot's token is in it. It
also keeps from us which requests certainly had no effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, FormData
from telegram.error import TelegramError
from telegram.request import BaseRequest, RequestData

from wakeloop.errors import ChannelError
from wakeloop_channels.http import exchange, json_object, read_bounded, refusal

MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Of an answer, and so of a file: Telegram hands out files of up to 20 MB."""

# https://core.telegram.org/bots/api#making-requests: descriptions may change, so they only add advice.
ADVICE = (
    ("unauthorized", "Check WAKELOOP_TELEGRAM_BOT_TOKEN: @BotFather tells it."),
    ("webhook is active", "Call deleteWebhook, or set channels.telegram.polling = false."),
    (
        "terminated by other getupdates",
        "Another program fetches this bot's messages: a bot has only one such.",
    ),
    ("blocked by the user", "Only the person can undo that, by starting the bot again."),
    ("can't initiate conversation", "The person must write to the bot first."),
    ("chat not found", "The person must write to the bot first; the address is the number of that chat."),
    ("user is deactivated", "The account was deleted."),
    ("bot was kicked", "Add the bot to the group again."),
    ("rights", "Let the bot post in the group."),
    ("too long", "Shorten the message to 4096 characters; some, such as emoji, count twice."),
    ("web page content", "Telegram could not use the address of an attachment: send its bytes."),
    ("http url content", "Telegram could not fetch the address of an attachment: send its bytes."),
)

_SENDING = re.compile(r"send\w+")


class Carried(TelegramError):
    """Brings a ChannelError past the client, which passes on its own errors only."""

    def __init__(self, error: ChannelError) -> None:
        super().__init__(type(error).__name__)
        self.error = error


@contextmanager
def carried() -> Iterator[None]:
    """Around calls of the client. Raises the ChannelError that `Request` meant."""
    try:
        yield
    except Carried as carrier:
        raise carrier.error from carrier.error.__cause__


class Request(BaseRequest):
    """One request each time, never repeated, never logged."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._session: ClientSession | None = None

    @property
    def read_timeout(self) -> float:
        return self._timeout

    async def initialize(self) -> None:
        """Nothing to do: the session begins with the first request, on the loop that makes it."""

    async def shutdown(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @staticmethod
    def parse_json_payload(payload: bytes) -> dict[str, Any]:
        """As the client's own, without logging what was said."""
        found = json_object(payload.decode("utf-8", "replace"))
        if "result" not in found:
            raise Carried(ChannelError("Telegram's answer is no JSON with a result.", code=None))
        return found

    async def do_request(
        self,
        url: str,
        method: str,
        request_data: RequestData | None = None,
        read_timeout: Any = None,
        write_timeout: Any = None,
        connect_timeout: Any = None,
        pool_timeout: Any = None,
    ) -> tuple[int, bytes]:
        """The status and body of a 2xx. Raises Carried for everything else."""
        fields = {} if request_data is None else request_data.json_parameters
        files = {} if request_data is None else request_data.multipart_data
        try:
            return 200, await self.call(url, method, fields, files)
        except ChannelError as error:
            raise Carried(error) from error

    async def call(
        self,
        url: str,
        method: str,
        fields: Mapping[str, str],
        files: Mapping[str, Any],
        *,
        waits: float = 0.0,
    ) -> bytes:
        """The body of the answer. `waits`: for how many seconds the answer may be held back on purpose.

        Raises TemporaryChannelError or PermanentChannelError as `refusal` and `exchange` tell, and a plain ChannelError
        if what was to be sent may have been."""
        name = url.rpartition("/")[2]
        repeatable = _SENDING.fullmatch(name) is None
        form: FormData | dict[str, str] = dict(fields)
        if files:
            form = FormData(fields)
            for part, (file_name, content, content_type) in files.items():
                form.add_field(part, content, filename=file_name, content_type=content_type)
        try:
            with exchange("Telegram", repeatable=repeatable):
                async with self._connections().request(
                    method, url, data=form or None, allow_redirects=False, timeout=self._patience(waits)
                ) as answer:
                    body = await read_bounded(answer, MAX_ANSWER_BYTES, what="What Telegram sent")
                    if 200 <= answer.status < 300:
                        return body
                    status, headers = answer.status, dict(answer.headers)
        except (ClientError, TimeoutError) as error:
            raise ChannelError(
                f"The connection to Telegram broke ({type(error).__name__}). Whether the message was taken is unknown.",
                code=None,
            ) from error
        raise _refusal(status, headers, body, repeatable)

    def _connections(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession()
        return self._session

    def _patience(self, waits: float) -> ClientTimeout:
        """The connection's always runs out before the total one: what it stops was certainly not sent."""
        timeout = self._timeout
        return ClientTimeout(total=2 * timeout + waits, connect=timeout, sock_read=timeout + waits)


def _refusal(status: int, headers: Mapping[str, str], body: bytes, repeatable: bool) -> ChannelError:
    answer = json_object(body.decode("utf-8", "replace"))
    words = answer.get("description")
    words = words if isinstance(words, str) else ""
    parameters = answer.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    advice = next((advice for part, advice in ADVICE if part in words.lower()), "")
    if status == 404 and not advice:
        advice = ADVICE[0][1]  # what Telegram says to a token that is none
    if isinstance(parameters.get("migrate_to_chat_id"), int):
        advice = f"Set the contact's address to the group's new one, {parameters['migrate_to_chat_id']}."
    if isinstance(parameters.get("retry_after"), int):
        headers = {"retry-after": str(parameters["retry_after"])}
    return refusal("Telegram", status, headers, words, code=str(status), repeatable=repeatable, advice=advice)
