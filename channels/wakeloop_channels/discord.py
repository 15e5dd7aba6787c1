"""The Discord channel: messages by a bot, and answers by its interactions endpoint, without a gateway connection.

So people answer by buttons, by dialogs and by slash commands; what they just type is not seen. Discord recognises a
message that is sent again for a few minutes (its nonce), which is too short to rely on: one whose fate is unknown is
looked for in the channel first (`find_sent`).

No Python client is used. discord.py has no base URL that can be set for one client; hikari waits out rate limits and
repeats requests by itself, so that nobody can tell what was certainly not sent. Six calls of the HTTP API are made, over
aiohttp. Set-up and settings: docs/channels/discord.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, HttpUrl, SecretStr, field_validator

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryUpdate,
    Incoming,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
    Sent,
)
from wakeloop.errors import ChannelError, PermanentChannelError
from wakeloop_channels.data_urls import file_name, held_bytes
from wakeloop_channels.discord_http import Api, Upload, field
from wakeloop_channels.discord_interactions import (
    CHANNEL,
    check_signature,
    is_snowflake,
    read_interaction,
    response,
)
from wakeloop_channels.discord_messages import MAX_CHARACTERS, components, escaped, fitting
from wakeloop_channels.explaining import read_settings, split_secrets
from wakeloop_channels.json_bodies import read_object

MAX_BYTES = 1024 * 1024
MAX_FILES = 10
MAX_LISTED = 100
CLOCK_SKEW_SECONDS = 5.0
NONCE_LENGTH = 25
EPOCH_MILLISECONDS = 1_420_070_400_000
"""Where Discord's ids begin to count: https://discord.com/developers/docs/reference#snowflakes."""

SUPPRESS_EMBEDS = 1 << 2
GONE = frozenset({"10003", "10008"})

_KEY = re.compile(r"[0-9a-fA-F]{64}")
_TOKEN = re.compile(r"[\w.-]+", re.ASCII)


class DiscordSettings(BaseModel):
    """The table `[channels.discord]`, with the secrets of the environment merged in.

    application_id, public_keys: the application's, as its page in the Developer Portal has them; several keys if it is
    replaced by another application. responders: by the number of a channel, the people (their user IDs) who may answer
    there. timeout: seconds allowed for connecting, and as many again for the answer. api_url: another address of the
    API."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bot_token: SecretStr
    application_id: str
    public_keys: Annotated[tuple[str, ...], BeforeValidator(split_secrets)] = Field(min_length=1)
    responders: Mapping[str, frozenset[str]] = Field(default_factory=dict)
    timeout: float = Field(default=10.0, gt=0, le=300)
    api_url: HttpUrl = HttpUrl("https://discord.com/api/v10")

    @field_validator("bot_token")
    @classmethod
    def _check_token(cls, value: SecretStr) -> SecretStr:
        if not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("it must be a bot's token, without the word Bot before it")
        return value

    @field_validator("application_id")
    @classmethod
    def _check_application(cls, value: str) -> str:
        if not is_snowflake(value):
            raise ValueError("it must be a number in quotes")
        return value

    @field_validator("public_keys")
    @classmethod
    def _check_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_KEY.fullmatch(key) for key in value):
            raise ValueError("each must have 64 hexadecimal digits")
        return value

    @field_validator("responders")
    @classmethod
    def _check_channels(cls, value: Mapping[str, frozenset[str]]) -> Mapping[str, frozenset[str]]:
        if not all(is_snowflake(id) for channel, people in value.items() for id in (channel, *people)):
            raise ValueError("channels and people must be given by their numbers, in quotes")
        return value


HINTS = {
    "bot_token": "Bot > Token in Discord's Developer Portal",
    "application_id": "General Information > Application ID in Discord's Developer Portal",
    "public_keys": "General Information > Public Key in Discord's Developer Portal",
    "responders": 'a table of people by channel, as "1200000000000000001" = ["1200000000000000002"]',
}


class DiscordChannel:
    """Discord through a bot. All network traffic of one instance happens on one event loop at a time; call `close` on
    that loop before leaving it."""

    name: ClassVar[str] = "discord"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True,
        buttons=True,
        threads=True,
        media=True,
        amends=True,
        reconcile=True,
        # Of any text: each character of it may need a backslash.
        max_length=MAX_CHARACTERS // 2,
        body_limit=MAX_BYTES,
    )

    def __init__(self, settings: DiscordSettings, services: ChannelServices) -> None:
        self.settings = settings
        self._webhook_url = services.webhook_url
        self._keys = tuple(
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)) for key in settings.public_keys
        )
        self._api = Api(settings.api_url, settings.bot_token.get_secret_value(), settings.timeout)
        self._private: dict[str, str] = {}

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.discord]`; nothing is sent. Raises ConfigurationError."""
        settings = read_settings(DiscordSettings, section, channel="discord", title="Discord", hints=HINTS)
        return cls(settings, services)

    def normalize(self, address: str) -> str:
        """A user ID, or `channel:` and a channel's. Raises ValueError with the reason."""
        text = address.strip()
        if not is_snowflake(text.removeprefix(CHANNEL)):
            raise ValueError(
                'it must be a user ID, or "channel:" and the ID of a channel: in Discord switch on Settings > Advanced > '
                "Developer Mode, then Copy User ID or Copy Channel ID"
            )
        return text

    # ------------------------------------------------------------------ out

    async def send(self, message: Outgoing) -> Receipt:
        """Send the message with its files and buttons, in answer to the last of its conversation.

        The text is read as it was written: no markup, no mention that calls anybody, no preview of links. Raises
        TemporaryChannelError if no connection was made or Discord said 429; PermanentChannelError if it refused. A lost
        answer or a 5xx leaves it open whether the message was taken: `find_sent` tells."""
        channel = await self._channel(message.address)
        files, text = _files(message)
        payload: dict[str, Any] = {
            "content": text,
            "nonce": hashlib.sha256(message.key.encode()).hexdigest()[:NONCE_LENGTH],
            "enforce_nonce": True,
            "allowed_mentions": {"parse": []},
            "flags": SUPPRESS_EMBEDS,
            "components": components(message),
        }
        before = _last_in(channel, message.thread)
        if before is not None:
            payload["message_reference"] = {"message_id": before, "fail_if_not_exists": False}
        if files:
            payload["attachments"] = [
                {"id": number, "filename": name} for number, (name, _, _) in enumerate(files)
            ]
        sent = await self._api.call("POST", f"/channels/{channel}/messages", payload, files)
        return Receipt(provider_id=f"{channel}:{field(sent, 'id')}", raw={"timestamp": sent.get("timestamp")})

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """The oldest message of the bot's in that channel with this text, since `claimed_at`, whose id is not in `known`;
        None if there is none among the first MAX_LISTED since then.

        Raises ChannelError if the list could not be read."""
        channel = await self._channel(message.address)
        me = field(await self._api.call("GET", "/users/@me"), "id")
        since = message.claimed_at - timedelta(seconds=CLOCK_SKEW_SECONDS)
        after = max(int(since.timestamp() * 1000) - EPOCH_MILLISECONDS, 0) << 22
        listed = await self._api.call("GET", f"/channels/{channel}/messages?after={after}&limit={MAX_LISTED}")
        _, text = _files(message)
        found = [
            f"{channel}:{field(one, 'id')}"
            for one in listed
            if field(one.get("author"), "id") == me and field(one, "content").strip() == text.strip()
        ]
        fresh = sorted((id for id in found if id not in known), key=lambda id: int(id.partition(":")[2]))
        return Receipt(provider_id=fresh[0]) if fresh else None

    async def amend(self, sent: Sent, text: str) -> None:
        """Replace the text and take the buttons away; a longer text than Discord takes is cut."""
        channel, _, number = sent.provider_id.partition(":")
        if not is_snowflake(channel) or not is_snowflake(number):
            raise PermanentChannelError("The id of the message to change is none of Discord's.", code=None)
        payload = {"content": fitting(text), "components": [], "allowed_mentions": {"parse": []}}
        try:
            await self._api.call("PATCH", f"/channels/{channel}/messages/{number}", payload, repeatable=True)
        except PermanentChannelError as error:
            if error.code not in GONE:
                raise

    # ------------------------------------------------------------------ in

    def verify(self, request: RawRequest) -> None:
        """Check X-Signature-Ed25519 against every public key, and that it is not older than five minutes.

        Raises InvalidWebhook with 401."""
        check_signature(request, self._keys)

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """What a person pressed or wrote. Raises InvalidWebhook (400, 405, 413 or 415)."""
        interaction = read_object(request, limit=MAX_BYTES, provider="Discord")
        return [*read_interaction(interaction, self.settings.application_id, self.settings.responders)]

    def respond(self, request: RawRequest) -> RawResponse:
        """A dialog, a word that only the person sees, or the acknowledgement that Discord waits for."""
        interaction = read_object(request, limit=MAX_BYTES, provider="Discord")
        body = json.dumps(response(interaction, self.settings.responders)).encode()
        return RawResponse(body=body, content_type="application/json")

    async def check(self) -> str:
        """Which application this is. Raises ChannelError if the settings are those of another one, or if Discord calls
        somebody else."""
        found = await self._api.call("GET", "/applications/@me")
        settings, id = self.settings, field(found, "id")
        problems = []
        if id != settings.application_id:
            problems.append(f"The token is that of application {id}: set channels.discord.application_id.")
        if field(found, "verify_key").lower() not in [key.lower() for key in settings.public_keys]:
            problems.append("Its public key is not among channels.discord.public_keys.")
        called = found.get("interactions_endpoint_url")
        if self._webhook_url is not None and called != self._webhook_url:
            problems.append(
                f"Discord calls {called or 'nobody'}: set General Information > Interactions Endpoint URL to "
                f"{self._webhook_url}."
            )
        if problems:
            raise PermanentChannelError(" ".join(problems), code=None)
        return f"application {field(found, 'name')}, {'called back' if called else 'sending only'}"

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        """Discord tries the address when it is saved, so wakeloop must be running by then."""
        return [("General Information > Interactions Endpoint URL", webhook_url)]

    async def close(self) -> None:
        """Close the connections to Discord. The channel may be used again afterwards."""
        await self._api.close()

    # ------------------------------------------------------------------ inside

    async def _channel(self, address: str) -> str:
        """The channel that an address means; that with a person is asked for once."""
        if address.startswith(CHANNEL):
            return address.removeprefix(CHANNEL)
        if address not in self._private:
            opened = await self._api.call(
                "POST", "/users/@me/channels", {"recipient_id": address}, repeatable=True
            )
            try:
                self._private[address] = field(opened, "id")
            except ChannelError:
                raise ChannelError("Discord opened no conversation; nothing was sent.", code=None) from None
        return self._private[address]


def _files(message: Outgoing) -> tuple[list[Upload], str]:
    """The files to upload, and the text, which names the address of whatever is not held here.

    Raises PermanentChannelError if there are more than Discord takes."""
    text = escaped(message.text)
    if message.subject is not None:
        text = f"{escaped(message.subject)}\n\n{text}"
    files = []
    for number, attachment in enumerate(message.attachments, start=1):
        name, data = file_name(attachment, number), held_bytes(attachment)
        if data is None:
            text += f"\n{escaped(name)}: {attachment.url}"
        else:
            files.append((name, attachment.content_type, data))
    if len(files) > MAX_FILES:
        raise PermanentChannelError(f"A message to Discord has at most {MAX_FILES} files.", code=None)
    return files, text


def _last_in(channel: str, thread: Sequence[str]) -> str | None:
    """The last message of the conversation that stands in this channel."""
    for provider_id in reversed(thread):
        place, _, number = provider_id.partition(":")
        if place == channel and is_snowflake(number):
            return number
    return None
