"""A stand-in for Discord: a real HTTP server on loopback that checks, answers and calls back as Discord's API does.

::

    with DiscordStandIn(webhook="http://127.0.0.1:8080/hooks/discord") as discord:
        ...                                   # settings: api_url=discord.url, bot_token, application_id, public_keys
        sent = discord.wait_for(1)[0]
        discord.press(sent, "Approve")        # a signed interaction; gives what the webhook answered
        dialog = discord.press(sent, "Deny with a comment…")
        discord.submit(sent, dialog, "too expensive")
        discord.command("tell", "good morning", by=sent.to)

Modelled on the public reference, https://discord.com/developers/docs. It needs wakeloop[discord].
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wakeloop.testing.stand_in import Answer, Asked, Failure, Given, StandIn, Upload, as_json, post

__all__ = ["APPLICATION_ID", "BOT_TOKEN", "Button", "DiscordMessage", "DiscordStandIn", "Heard", "read"]

APPLICATION_ID = "1200000000000000001"
BOT_TOKEN = "MTIwMDAwMDAwMDAwMDAwMDAwMQ.stand-in.bot-token"
PREFIX = "/api/v10"

MAX_CHARACTERS = 2000
MAX_NONCE = 25
LINK_STYLE = 5
EPOCH_MILLISECONDS = 1_420_070_400_000
STYLES = {1: "primary", 2: "secondary", 3: "success", 4: "danger", 5: "link"}

_MESSAGES = re.compile(r"/channels/(?P<channel>\d+)/messages(?:/(?P<message>\d+))?")
_READ = re.compile(
    r"(?P<url>https?://[^\s<>]+)|\\(?P<plain>[^A-Za-z0-9\s])|(?P<markup>[*_~`|])|(?P<other>.)", re.S
)
_BLOCK = re.compile(r"^(?:#{1,3}|-#|>|>>>|-|\d+\.) ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Button:
    """A button below a message: with a custom_id it is pressed, with a URL it is followed."""

    label: str
    style: str
    custom_id: str = ""
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class DiscordMessage:
    """A message of the bot's, as it stands now. to: the person or, for a channel, None. content: as it was sent; text: as
    people read it. pings: whether it calls anybody. author: whose it is, if not the bot's."""

    channel: str
    id: str
    to: str | None
    content: str
    buttons: tuple[Button, ...] = ()
    reply_to: str | None = None
    files: tuple[Upload, ...] = ()
    pings: bool = False
    author: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return read(self.content)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What the webhook answered to an interaction, and its data if it was taken."""

    status: int
    kind: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)


class _Refused(Exception):
    """The API says no."""

    def __init__(self, status: int, code: int, words: str) -> None:
        super().__init__(words)
        self.status, self.code, self.words = status, code, words


class DiscordStandIn(StandIn):
    """The API for one application, and the people who press its buttons.

    webhook: the interactions endpoint, where what people do is posted. A person can be written to unless they are in
    `closed`; a channel of a server unless it is in `hidden`. channels: those of servers.
    """

    def __init__(
        self,
        *,
        bot_token: str = BOT_TOKEN,
        application_id: str = APPLICATION_ID,
        webhook: str | None = None,
        channels: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.bot_token = bot_token
        self.application_id = application_id
        self.webhook = webhook
        self.endpoint = webhook
        self.channels = set(channels)
        self.hidden: set[str] = set()
        self.closed: set[str] = set()
        self.messages: list[DiscordMessage] = []
        self.key = Ed25519PrivateKey.generate()
        self._private: dict[str, str] = {}
        self._nonces: dict[str, DiscordMessage] = {}
        self._count = 0

    @property
    def url(self) -> str:
        """The API's base URL: the setting `api_url`."""
        return super().url + PREFIX

    @property
    def public_key(self) -> str:
        """The application's: the setting `public_keys`."""
        return self.key.public_key().public_bytes_raw().hex()

    # What people do

    def press(self, message: DiscordMessage, label: str, *, by: str | None = None) -> Heard:
        """Somebody presses a button, in a channel `by` a person. Raises OSError if nobody answers."""
        return self.happen(self.pressed(message, label, by=by))

    def submit(self, message: DiscordMessage, dialog: Heard, text: str, *, by: str | None = None) -> Heard:
        """Somebody fills in the dialog that a press opened."""
        return self.happen(self.submitted(message, dialog.data, text, by=by))

    def command(self, name: str, text: str | None = None, *, by: str) -> Heard:
        """Somebody uses a slash command of the application's, in private."""
        return self.happen(self.commanded(name, text, by=by))

    def happen(self, interaction: Mapping[str, Any] | bytes) -> Heard:
        """Post an interaction, signed; the same one again is a retry."""
        body = interaction if isinstance(interaction, bytes) else json.dumps(interaction).encode()
        answer = self.deliver(body, self.sign(body))
        if answer.status != 200:
            return Heard(status=answer.status)
        found = json.loads(answer.body)
        return Heard(status=200, kind=found["type"], data=found.get("data", {}))

    def deliver(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post these bytes with these headers to the webhook."""
        if self.webhook is None:
            raise RuntimeError("The stand-in has no webhook: pass webhook=, or set the attribute.")
        return post(self.webhook, body, headers)

    def sign(
        self, body: bytes, *, at: float | None = None, key: Ed25519PrivateKey | None = None
    ) -> dict[str, str]:
        """The headers that vouch for a body; `at`: the time that they tell, `key`: somebody else's."""
        timestamp = str(int(time.time() if at is None else at))
        signature = (key or self.key).sign(timestamp.encode() + body).hex()
        return {"X-Signature-Ed25519": signature, "X-Signature-Timestamp": timestamp}

    # What Discord makes of that

    def pressed(self, message: DiscordMessage, label: str, *, by: str | None = None) -> dict[str, Any]:
        """The interaction of a press."""
        found = [button for button in self._now(message).buttons if button.label == label]
        if not found or not found[0].custom_id:
            raise LookupError(f"There is no button {label!r} to press.")
        data = {"component_type": 2, "custom_id": found[0].custom_id, "id": 2}
        return self._interaction(3, data, by or message.to, message)

    def submitted(
        self, message: DiscordMessage, dialog: Mapping[str, Any], text: str, *, by: str | None = None
    ) -> dict[str, Any]:
        """The interaction of a dialog that was filled in. Raises LookupError if it has no field for words."""
        fields = [row["component"] for row in dialog.get("components", []) if row["type"] == 18]
        if not fields:
            raise LookupError("There is no dialog to fill in.")
        filled = {"type": 4, "id": 2, "custom_id": fields[0]["custom_id"], "value": text}
        data = {"custom_id": dialog["custom_id"], "components": [{"type": 18, "id": 1, "component": filled}]}
        return self._interaction(5, data, by or message.to, message)

    def commanded(self, name: str, text: str | None = None, *, by: str) -> dict[str, Any]:
        """The interaction of a slash command."""
        options = [] if text is None else [{"name": "text", "type": 3, "value": text}]
        data = {"id": self._new_id(), "name": name, "type": 1, "options": options}
        return self._interaction(2, data, by, None)

    def ping(self) -> dict[str, Any]:
        """What Discord posts when the address of the endpoint is saved."""
        return {
            "id": self._new_id(),
            "application_id": self.application_id,
            "type": 1,
            "token": "t",
            "version": 1,
        }

    # What was taken

    def wait_for(self, count: int, *, to: str | None = None, timeout: float = 10.0) -> list[DiscordMessage]:
        """The messages taken so far (to that person), once there are `count` of them. Raises TimeoutError."""
        return self._wait(lambda: [one for one in self.messages if to in (None, one.to)], count, timeout)

    def forget_nonces(self) -> None:
        """A few minutes pass."""
        self._nonces.clear()

    def delete(self, message: DiscordMessage) -> None:
        """Somebody deletes a message of the bot's."""
        self.messages.remove(self._now(message))

    def plant(
        self, to: str, content: str, components: Sequence[Any] = (), *, author: str | None = None
    ) -> DiscordMessage:
        """A message from earlier in the conversation with that person, of the bot's or of somebody else's."""
        message = self._create(self._open(to), {"content": content, "components": list(components)}, {})
        self.messages[-1] = replace(message, author=author)
        return self.messages[-1]

    # The API

    def answer(self, asked: Asked) -> Given:
        path = asked.path.removeprefix(PREFIX)
        if asked.headers.get("authorization") != f"Bot {self.bot_token}":
            return _no(401, 0, "401: Unauthorized")
        if not asked.headers.get("user-agent", "").startswith("DiscordBot ("):
            return _no(403, 40333, "internal network error")
        try:
            return as_json(200, self._route(asked, path))
        except _Refused as refused:
            return _no(refused.status, refused.code, refused.words)

    def fail(self, fault: Failure) -> Given:
        if fault.status == 429:
            after = float(fault.retry_after or 1.0)
            body = {"message": "You are being rate limited.", "retry_after": after, "global": False}
            return as_json(429, body, Retry_After=str(int(after)))
        return _no(fault.status, 0, f"{fault.status}: failed")

    def _route(self, asked: Asked, path: str) -> Any:
        if (asked.method, path) == ("GET", "/users/@me"):
            return self._bot()
        if (asked.method, path) == ("GET", "/applications/@me"):
            return {
                "id": self.application_id,
                "name": "Stand-in",
                "verify_key": self.public_key,
                "interactions_endpoint_url": self.endpoint,
            }
        if (asked.method, path) == ("POST", "/users/@me/channels"):
            person = asked.json.get("recipient_id")
            if not isinstance(person, str) or not person.isdigit():
                raise _Refused(400, 50035, "Invalid Form Body")
            return {
                "id": self._open(person),
                "type": 1,
                "recipients": [{"id": person, "username": "somebody"}],
            }
        match = _MESSAGES.fullmatch(path)
        if match is None:
            raise _Refused(404, 0, "404: Not Found")
        channel = self._reachable(match["channel"], reading=asked.method == "GET")
        if asked.method == "GET":
            return self._list(channel, asked.query)
        payload, files = _payload(asked)
        if asked.method == "POST":
            nonce = payload.get("nonce")
            if nonce is not None and payload.get("enforce_nonce") and nonce in self._nonces:
                return self._resource(self._nonces[nonce])
            message = self._create(channel, payload, files)
            if nonce is not None:
                self._nonces[nonce] = message
            return {**self._resource(message), "nonce": nonce}
        return self._resource(self._change(channel, match["message"] or "", payload))

    def _create(
        self, channel: str, payload: Mapping[str, Any], files: Mapping[str, Upload]
    ) -> DiscordMessage:
        content = _checked(payload, bool(files))
        reference = payload.get("message_reference", {})
        target = reference.get("message_id")
        if target is not None and not any(one.id == target for one in self.messages):
            if reference.get("fail_if_not_exists", True):
                raise _Refused(400, 50035, "Invalid Form Body")
            target = None
        calls = payload.get("allowed_mentions", {"parse": ["everyone"]}).get("parse", [])
        message = DiscordMessage(
            channel=channel, id=self._new_id(), to=self._person(channel), content=content,
            buttons=_buttons(payload.get("components", [])), reply_to=target, files=tuple(files.values()),
            pings="everyone" in calls and "@everyone" in content, payload=payload,
        )  # fmt: skip
        self._tell(lambda: self.messages.append(message))
        return message

    def _change(self, channel: str, id: str, payload: Mapping[str, Any]) -> DiscordMessage:
        place = next(
            (place for place, one in enumerate(self.messages) if (one.channel, one.id) == (channel, id)), None
        )
        if place is None:
            raise _Refused(404, 10008, "Unknown Message")
        old = self.messages[place]
        content = _checked({"content": old.content, **payload}, bool(old.files))
        buttons = _buttons(payload["components"]) if "components" in payload else old.buttons
        new = replace(old, content=content, buttons=buttons)

        def change() -> None:
            self.messages[place] = new

        self._tell(change)
        return new

    def _list(self, channel: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Newest first, those next after the id that is given; without nonces, which are not kept."""
        after, limit = int(query.get("after", 0)), int(query.get("limit", 50))
        found = [one for one in self.messages if one.channel == channel and int(one.id) > after]
        return [self._resource(one) for one in found[:limit]][::-1]

    # Inside

    def _resource(self, message: DiscordMessage) -> dict[str, Any]:
        made = (int(message.id) >> 22) + EPOCH_MILLISECONDS
        return {
            "id": message.id,
            "channel_id": message.channel,
            "author": self._bot()
            if message.author is None
            else {"id": message.author, "username": "somebody"},
            "content": message.content,
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(made / 1000)),
            "components": message.payload.get("components", []),
            "type": 0,
        }

    def _interaction(
        self, kind: int, data: Mapping[str, Any], by: str | None, message: DiscordMessage | None
    ) -> dict[str, Any]:
        if by is None:
            raise ValueError("In a channel somebody must do it: pass by=.")
        user = {"id": by, "username": "somebody", "discriminator": "0"}
        channel = self._open(by) if message is None else message.channel
        where: dict[str, Any] = {"user": user, "context": 1}
        if self._person(channel) is None:
            where = {"member": {"user": user, "roles": []}, "guild_id": "1200000000000000099", "context": 0}
        return {
            "id": self._new_id(),
            "application_id": self.application_id,
            "type": kind,
            "token": "a-token-to-answer-with",
            "version": 1,
            "channel_id": channel,
            "data": dict(data),
            **where,
            **({} if message is None else {"message": self._resource(self._now(message))}),
        }

    def _bot(self) -> dict[str, Any]:
        return {"id": self.application_id, "username": "stand-in", "bot": True}

    def _now(self, message: DiscordMessage) -> DiscordMessage:
        return next(one for one in self.messages if one.id == message.id)

    def _open(self, person: str) -> str:
        if person not in self._private:
            self._private[person] = self._new_id()
        return self._private[person]

    def _person(self, channel: str) -> str | None:
        return next((person for person, one in self._private.items() if one == channel), None)

    def _reachable(self, channel: str, *, reading: bool) -> str:
        person = self._person(channel)
        if person is None and channel not in self.channels:
            raise _Refused(404, 10003, "Unknown Channel")
        if channel in self.hidden:
            raise _Refused(403, 50001, "Missing Access")
        if person in self.closed and not reading:
            raise _Refused(403, 50007, "Cannot send messages to this user")
        return channel

    def _new_id(self) -> str:
        with self._changed:
            self._count += 1
            now = int(time.time() * 1000) - EPOCH_MILLISECONDS
            return str((now << 22) + self._count)


def read(content: str) -> str:
    """How a message is read: markup formats and is not shown itself, what stands behind a backslash is."""
    found = []
    for part in _READ.finditer(_BLOCK.sub("", content)):
        found.append(part["url"] or part["plain"] or part["other"] or "")
    return "".join(found)


def _payload(asked: Asked) -> tuple[dict[str, Any], dict[str, Upload]]:
    if not asked.headers.get("content-type", "").startswith("multipart/form-data"):
        return asked.json, {}
    fields, files = asked.form()
    payload = json.loads(fields["payload_json"])
    named = {one["id"] for one in payload.get("attachments", [])}
    if {f"files[{number}]" for number in named} != set(files):
        raise _Refused(400, 50035, "Invalid Form Body")
    return payload, files


def _checked(payload: Mapping[str, Any], has_files: bool) -> str:
    """The content, as Discord keeps it."""
    content, nonce = payload.get("content", ""), payload.get("nonce")
    if not isinstance(content, str) or len(content) > MAX_CHARACTERS:
        raise _Refused(400, 50035, "Invalid Form Body")
    if nonce is not None and len(str(nonce)) > MAX_NONCE:
        raise _Refused(400, 50035, "Invalid Form Body")
    content = content.strip()
    if not content and not has_files:
        raise _Refused(400, 50006, "Cannot send an empty message")
    return content


def _buttons(rows: Sequence[Mapping[str, Any]]) -> tuple[Button, ...]:
    found: list[Button] = []
    if len(rows) > 5 or any(row.get("type") != 1 or not 1 <= len(row["components"]) <= 5 for row in rows):
        raise _Refused(400, 50035, "Invalid Form Body")
    for one in (one for row in rows for one in row["components"]):
        button = Button(
            label=one["label"],
            style=STYLES[one["style"]],
            custom_id=one.get("custom_id", ""),
            url=one.get("url", ""),
        )
        is_link = one["style"] == LINK_STYLE
        wrong = (
            not 1 <= len(button.label) <= 80
            or bool(button.url) != is_link
            or bool(button.custom_id) == is_link
            or len(button.custom_id) > 100
            or len(button.url) > 512
            or (not is_link and any(button.custom_id == other.custom_id for other in found))
        )
        if wrong:
            raise _Refused(400, 50035, "Invalid Form Body")
        found.append(button)
    return tuple(found)


def _no(status: int, code: int, words: str) -> Given:
    return as_json(status, {"message": words, "code": code})
