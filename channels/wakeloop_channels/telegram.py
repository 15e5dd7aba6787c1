"""The Telegram channel: a bot, through the Bot API (https://core.telegram.org/bots/api).

Telegram takes no idempotency key and has no list of what a bot has sent: a message whose fate is unknown is sent again,
and may then arrive twice. Set-up, settings and groups: docs/channels/telegram.md.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator
from telegram import (
    Bot,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputFile,
    LinkPreviewOptions,
    ReplyParameters,
)

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryUpdate,
    Incoming,
    Inlet,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
    Sent,
)
from wakeloop.errors import ChannelError, InvalidWebhook, PermanentChannelError
from wakeloop.events import Attachment
from wakeloop_channels.data_urls import file_name, held_bytes
from wakeloop_channels.explaining import Secrets, read_settings
from wakeloop_channels.http import json_object
from wakeloop_channels.json_bodies import read_object
from wakeloop_channels.telegram_http import Request, carried
from wakeloop_channels.telegram_updates import (
    ALLOWED_UPDATES,
    FILE_SCHEME,
    message_id,
    press_to_answer,
    read_update,
    split_id,
)
from wakeloop_channels.text import well_formed

log = logging.getLogger("wakeloop.channels.telegram")

MAX_UNITS = 4096
"""Of UTF-16, in one message, by https://core.telegram.org/bots/api#sendmessage."""

MAX_BYTES = 1024 * 1024
MAX_FILE_BYTES = 20 * 1024 * 1024
MAX_PHOTO_BYTES = 10 * 1024 * 1024
MAX_BUTTON_UNITS = 128

PHOTOS = frozenset({"image/jpeg", "image/png", "image/webp"})
FETCHED_DOCUMENTS = frozenset({"application/pdf", "application/zip", "image/gif"})
"""Kinds of document that Telegram fetches from an address: https://core.telegram.org/bots/api#sending-files."""

STYLES = {"yes": "success", "no": "danger"}
GONE = ("message to edit not found", "message is not modified", "message_id_invalid")

_TOKEN = re.compile(r"(\d{1,20}):[\w-]+", re.ASCII)
_SECRET = re.compile(r"[A-Za-z0-9_-]{1,256}")
_CHAT = re.compile(r"-?[1-9]\d{0,18}", re.ASCII)


class TelegramSettings(BaseModel):
    """The table `[channels.telegram]`, with the secrets of the environment merged in.

    secret_tokens: what Telegram was given with the webhook; each is accepted, so that one can be changed. polling: fetch
    messages instead of being called. poll_seconds: how long Telegram holds each such request. responders: by the number
    of a group, the people (their own numbers) who may answer there. timeout: seconds allowed for connecting, and as many
    again for the answer. api_url: another server of the Bot API."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bot_token: SecretStr
    secret_tokens: Secrets = ()
    polling: bool = False
    poll_seconds: int = Field(default=30, ge=1, le=50)
    responders: Mapping[str, frozenset[int]] = Field(default_factory=dict)
    timeout: float = Field(default=10.0, gt=0, le=300)
    api_url: HttpUrl = HttpUrl("https://api.telegram.org")

    @field_validator("bot_token")
    @classmethod
    def _check_token(cls, value: SecretStr) -> SecretStr:
        if not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("it must be the bot's number, a colon and a secret")
        return value

    @field_validator("secret_tokens")
    @classmethod
    def _check_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(_SECRET.fullmatch(secret.get_secret_value()) for secret in value):
            raise ValueError("each must have 1 to 256 of A-Z, a-z, 0-9, _ and -")
        return value

    @field_validator("responders")
    @classmethod
    def _check_groups(cls, value: Mapping[str, frozenset[int]]) -> Mapping[str, frozenset[int]]:
        if not all(_CHAT.fullmatch(group) and group.startswith("-") for group in value):
            raise ValueError("each key must be the number of a group, which begins with -")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if not self.polling and not self.secret_tokens:
            raise ValueError(
                "set the environment variable WAKELOOP_TELEGRAM_SECRET_TOKENS to what setWebhook is given as "
                "secret_token, or channels.telegram.polling = true in wakeloop.toml to fetch messages instead"
            )
        return self


HINTS = {
    "bot_token": "@BotFather gives it, as 110201543:AAH…",
    "secret_tokens": "any text that you also give to setWebhook as secret_token; several with commas between",
    "responders": 'a table of people by group, as "-1001234567890" = [123456789]',
}


class TelegramChannel:
    """Telegram through a bot. All network traffic of one instance happens on one event loop at a time; call `close` on
    that loop before leaving it."""

    name: ClassVar[str] = "telegram"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True,
        buttons=True,
        threads=True,
        media=True,
        amends=True,
        # Of any text: a character outside the basic plane, such as most emoji, is two units of UTF-16.
        max_length=MAX_UNITS // 2,
        body_limit=MAX_BYTES,
    )

    def __init__(self, settings: TelegramSettings, services: ChannelServices) -> None:
        self.settings = settings
        self._webhook_url = services.webhook_url
        token = settings.bot_token.get_secret_value()
        self._number = token.partition(":")[0]
        api = str(settings.api_url).rstrip("/")
        self._api, self._files = f"{api}/bot{token}", f"{api}/file/bot{token}"
        self._secrets = tuple(secret.get_secret_value().encode() for secret in settings.secret_tokens)
        self._client: tuple[asyncio.AbstractEventLoop, Bot, Request] | None = None

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.telegram]`; nothing is sent. Raises ConfigurationError."""
        settings = read_settings(TelegramSettings, section, channel="telegram", title="Telegram", hints=HINTS)
        return cls(settings, services)

    def normalize(self, address: str) -> str:
        """The number of a chat. Raises ValueError with the reason."""
        text = address.strip()
        if not _CHAT.fullmatch(text):
            raise ValueError(
                "it must be the number of a chat, such as 123456789: a bot cannot write to an @name or to a telephone "
                "number; `wakeloop inbox` shows the number of whoever wrote to the bot"
            )
        return text

    # ------------------------------------------------------------------ out

    async def send(self, message: Outgoing) -> Receipt:
        """Send the files, then the text with its buttons, in answer to the last message of the conversation.

        The text goes as it is, without formatting and without a preview of its links; a subject goes above it. Raises
        TemporaryChannelError if no connection was made or Telegram said 429; PermanentChannelError if it refused. A lost
        answer or a 5xx leaves it open whether the message was taken; so does a failure after the first file went."""
        chat, text = int(message.address), well_formed(message.text)
        if message.subject is not None:
            text = f"{well_formed(message.subject)}\n\n{text}"
        before = _answered(message.thread, self._number, chat)
        bot = self._connected()[0]
        with carried():
            for number, attachment in enumerate(message.attachments, start=1):
                link = await self._send_file(bot, chat, attachment, number)
                if link is not None:
                    text = f"{text}\n{link}"
            sent = await bot.send_message(
                chat,
                text,
                reply_markup=_keyboard(message),
                reply_parameters=before,
                link_preview_options=LinkPreviewOptions(is_disabled=True),
            )
        provider_id = message_id(self._number, sent.chat.id, sent.message_id)
        return Receipt(provider_id=provider_id, raw={"date": sent.date.isoformat()})

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Never called: a bot cannot read what it sent."""
        return None

    async def amend(self, sent: Sent, text: str) -> None:
        """Replace the text and take the buttons away; a longer text than Telegram takes is cut."""
        found = split_id(sent.provider_id)
        if found is None:
            raise PermanentChannelError("The id of the message to change is none of Telegram's.", code=None)
        bot = self._connected()[0]
        try:
            with carried():
                await bot.edit_message_text(
                    _cut(text, MAX_UNITS),
                    chat_id=found[1],
                    message_id=found[2],
                    link_preview_options=LinkPreviewOptions(is_disabled=True),
                )
        except PermanentChannelError as error:
            if not any(words in str(error).lower() for words in GONE):
                raise

    async def fetch(self, attachment: Attachment) -> bytes:
        """The bytes of a file that a person sent, of at most MAX_FILE_BYTES.

        Raises PermanentChannelError if it is gone, too large, or not one of Telegram's."""
        if not attachment.url.startswith(FILE_SCHEME):
            raise PermanentChannelError("The attachment is none of Telegram's.", code=None)
        bot, request = self._connected()
        with carried():
            file = await bot.get_file(attachment.url.removeprefix(FILE_SCHEME))
        path = (file.file_path or "").removeprefix(self._files + "/")
        if not path or path.startswith("/") or (file.file_size or 0) > MAX_FILE_BYTES:
            raise PermanentChannelError(
                "The file is too large to be fetched, or lies on the disk of a server run with --local.",
                code=None,
            )
        return await request.call(f"{self._files}/{path}", "GET", {}, {})

    # ------------------------------------------------------------------ in

    def verify(self, request: RawRequest) -> None:
        """Check X-Telegram-Bot-Api-Secret-Token against every secret token, in constant time.

        Raises InvalidWebhook: 403 if it is missing, wrong, or none was set."""
        given = request.headers.get("x-telegram-bot-api-secret-token", "").encode("utf-8", "surrogatepass")
        matches = [hmac.compare_digest(secret, given) for secret in self._secrets]
        if not any(matches):
            raise InvalidWebhook(
                "X-Telegram-Bot-Api-Secret-Token is missing, or none of WAKELOOP_TELEGRAM_SECRET_TOKENS: the request is "
                "forged, or setWebhook was called with another secret_token."
            )

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """What a person wrote, pressed, or wishes. Raises InvalidWebhook (400, 405, 413 or 415)."""
        update = read_object(request, limit=MAX_BYTES, provider="Telegram")
        return [*read_update(update, self._number, self.settings.responders)]

    def respond(self, request: RawRequest) -> RawResponse:
        """For a press, the call by which its button stops spinning: a webhook's answer may hold one."""
        update = read_object(request, limit=MAX_BYTES, provider="Telegram")
        answer = press_to_answer(update, self.settings.responders)
        if answer is None:
            return RawResponse()
        body = json.dumps({"method": "answerCallbackQuery", **answer}).encode()
        return RawResponse(body=body, content_type="application/json")

    @property
    def listens(self) -> bool:
        return self.settings.polling

    async def listen(self, inlet: Inlet) -> None:
        """Fetch updates and hand them in, until cancelled. Telegram forgets an update when the next request names a
        later one, so only after it was taken.

        No cursor is kept: what was taken and not yet forgotten comes again and counts once. A number kept for long would
        lose messages, for after a quiet week Telegram counts on from anywhere.

        Raises PermanentChannelError if a webhook is set or another program fetches, TemporaryChannelError if Telegram
        cannot be reached."""
        after: int | None = None
        while True:
            updates = await self._fetch(after)
            await inlet.take([item for update in updates for item in self._items(update)])
            after = max((update["update_id"] + 1 for update in updates), default=None)
            for update in updates:
                await self._stop_spinning(update)

    async def check(self) -> str:
        """Which bot this is, and how its messages come. Raises ChannelError if none would, or the token is wrong."""
        bot = self._connected()[0]
        with carried():
            me = await bot.get_me()
            webhook = await bot.get_webhook_info()
        if self.settings.polling and webhook.url:
            raise PermanentChannelError(
                "A webhook is set, and channels.telegram.polling is true: Telegram does only one of the two. "
                "Call deleteWebhook, or set polling = false.",
                code=None,
            )
        if not self.settings.polling and webhook.url != (self._webhook_url or webhook.url or None):
            raise PermanentChannelError(
                f"Telegram calls {webhook.url or 'nobody'}, not {self._webhook_url or 'this server'}: call setWebhook.",
                code=None,
            )
        how = "fetching messages" if self.settings.polling else "webhook set"
        waiting = f", {webhook.pending_update_count} waiting" if webhook.pending_update_count else ""
        failed = f", last error: {webhook.last_error_message}" if webhook.last_error_message else ""
        return f"@{me.username}, {how}{waiting}{failed}"

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        """The one call to make; @BotFather has no place for it. None if messages are fetched: the call would end that."""
        if self.settings.polling:
            return []
        return [
            ("POST …/bot<token>/setWebhook, url", webhook_url),
            ("secret_token", "the first of WAKELOOP_TELEGRAM_SECRET_TOKENS"),
            ("allowed_updates", json.dumps(ALLOWED_UPDATES)),
        ]

    async def close(self) -> None:
        """Close the connections to Telegram. The channel may be used again afterwards."""
        client, self._client = self._client, None
        if client is not None:
            await client[2].shutdown()

    # ------------------------------------------------------------------ inside

    def _connected(self) -> tuple[Bot, Request]:
        """The client, over connections that belong to the running loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            request = Request(self.settings.timeout)
            token = self.settings.bot_token.get_secret_value()
            bot = Bot(
                token,
                base_url=self._api.removesuffix(token),
                base_file_url=self._files.removesuffix(token),
                request=request,
                get_updates_request=request,
            )
            self._client = (loop, bot, request)
        return self._client[1], self._client[2]

    async def _send_file(self, bot: Bot, chat: int, attachment: Attachment, number: int) -> str | None:
        """Send one file; give its address instead if Telegram would not fetch that."""
        data = held_bytes(attachment)
        name = file_name(attachment, number)
        what: str | InputFile = attachment.url if data is None else InputFile(data, filename=name)
        kind = attachment.content_type.partition(";")[0].strip().lower()
        if kind in PHOTOS and len(data or b"") <= MAX_PHOTO_BYTES:
            await bot.send_photo(chat, what)
        elif data is not None or kind in FETCHED_DOCUMENTS:
            await bot.send_document(chat, what)
        else:
            return f"{name}: {attachment.url}"
        return None

    async def _fetch(self, after: int | None) -> list[dict[str, Any]]:
        """Updates, as they came: the client's own call would log them if one of them was new to it."""
        wait = self.settings.poll_seconds
        fields = {"timeout": str(wait), "allowed_updates": json.dumps(ALLOWED_UPDATES)}
        if after is not None:
            fields["offset"] = str(after)
        body = await self._connected()[1].call(f"{self._api}/getUpdates", "POST", fields, {}, waits=wait)
        updates = json_object(body.decode("utf-8", "replace")).get("result")
        if not isinstance(updates, list) or not all(
            isinstance(update, dict) and type(update.get("update_id")) is int for update in updates
        ):
            raise ChannelError("Telegram's answer to getUpdates has no list of updates.", code=None)
        return updates

    def _items(self, update: dict[str, Any]) -> list[Incoming]:
        """One that cannot be read is passed over: it would come again and again, and hold up all that follow."""
        body = json.dumps(update).encode()
        headers = {"content-type": "application/json"}
        request = RawRequest(method="POST", url=self._webhook_url or "", headers=headers, body=body)
        try:
            found = self.parse(request)
        except InvalidWebhook as error:
            log.warning(
                "an update cannot be read", extra={"update": update["update_id"], "error": str(error)}
            )
            return []
        return [
            replace(item, auth=item.auth or "fetched with the bot's token")
            for item in found
            if isinstance(item, Incoming)
        ]

    async def _stop_spinning(self, update: dict[str, Any]) -> None:
        """Nothing depends on it, and after a while Telegram does not take it any more."""
        try:
            answer = press_to_answer(update, self.settings.responders)
            if answer is not None:
                await self._connected()[1].call(f"{self._api}/answerCallbackQuery", "POST", answer, {})
        except ChannelError as error:
            log.info("a press was not acknowledged", extra={"code": error.code})


def _answered(thread: Sequence[str], bot: str, chat: int) -> ReplyParameters | None:
    """What to answer: the last message of the conversation that stands in this chat."""
    for provider_id in reversed(thread):
        found = split_id(provider_id)
        if found is not None and found[:2] == (bot, chat):
            return ReplyParameters(message_id=found[2], allow_sending_without_reply=True)
    return None


def _keyboard(message: Outgoing) -> InlineKeyboardMarkup | None:
    """A row for each button, and one for the person's page."""
    rows = [
        [
            InlineKeyboardButton(
                _cut(button.label, MAX_BUTTON_UNITS),
                callback_data=button.value,
                style=STYLES.get(button.style),
            )
        ]
        for button in message.buttons
    ]
    if message.link is not None and _is_public(message.link):
        rows.append([InlineKeyboardButton("Open page", url=message.link)])
    return InlineKeyboardMarkup(rows) if rows else None


def _is_public(url: str) -> bool:
    """Telegram refuses the whole message if a button leads to this machine or a network of one's own."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        return parts.scheme in {"http", "https"} and ipaddress.ip_address(host).is_global
    except ValueError:
        return parts.scheme in {"http", "https"} and "." in host and not host.endswith(".localhost")


def _cut(text: str, units: int) -> str:
    """The text, if it has no more than so many units of UTF-16, else its beginning."""
    text = well_formed(text)
    data = text.encode("utf-16-le")
    if len(data) <= 2 * units:
        return text
    return data[: 2 * units - 2].decode("utf-16-le", "ignore") + "…"
