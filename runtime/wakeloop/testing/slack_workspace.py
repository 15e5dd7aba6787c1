"""A Slack workspace for one app: its members, conversations, messages and dialogs, and the Web API that changes them.

Modelled on the methods' public reference at https://docs.slack.dev/reference/methods.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from wakeloop.clock import Clock
from wakeloop.testing.slack_blocks import InvalidBlocks, TooLong, check_blocks, check_view, shown, unescaped

TEXT_CHARACTERS = 40_000
TRIGGER_SECONDS = 3.0

BOT_USER = "U0BOT00001"
BOT_ID = "B0BOT00001"
APP_ID = "A0APP00001"
TEAM_ID = "T0TEAM0001"

SCOPES = (
    "app_mentions:read", "channels:history", "chat:write", "files:read", "groups:history", "im:history", "im:write",
    "mpim:history",
)  # fmt: skip
_HISTORY = {"C": "channels:history", "G": "groups:history", "D": "im:history"}


class Refused(Exception):
    """The API answers `ok: false` with this error and these facts."""

    def __init__(self, error: str, **facts: Any) -> None:
        super().__init__(error)
        self.error = error
        self.facts = facts


@dataclass(kw_only=True)
class StandInMessage:
    """A message in a conversation; `text` and `blocks` change when the app changes it. user: who wrote it."""

    channel: str
    ts: str
    user: str
    text: str = ""
    blocks: list[dict[str, Any]] = field(default_factory=list)
    thread_ts: str | None = None
    metadata: dict[str, Any] | None = None
    edited: int = 0

    @property
    def shown(self) -> str:
        """The text that people see."""
        return shown(self.blocks) if self.blocks else unescaped(self.text)

    @property
    def body(self) -> str:
        """What they see, without a title in bold."""
        bold = [part["text"] for part in self._parts() if part.get("style") == {"bold": True}]
        return self.shown.removeprefix("".join(bold))

    @property
    def labels(self) -> list[str]:
        """What can be pressed."""
        found = [element for block in self.blocks for element in block.get("elements", ())]
        return [element["text"]["text"] for element in found if element["type"] == "button"]

    def _parts(self) -> list[dict[str, Any]]:
        """Those of rich text."""
        sections = [
            section for block in self.blocks if block["type"] == "rich_text" for section in block["elements"]
        ]
        return [part for section in sections for part in section["elements"]]


@dataclass(frozen=True, kw_only=True)
class Ephemeral:
    """A text that only one person sees."""

    channel: str
    user: str
    text: str


@dataclass(kw_only=True)
class View:
    """A dialog that the app opened for somebody."""

    id: str
    user: str
    view: dict[str, Any]
    closed: bool = False


class Workspace:
    """All methods are called under `changed`, which is notified of every change.

    channels: the members of each channel's id; the app is in those in which BOT_USER is. users: further people. scopes:
    what the bot's token may do."""

    def __init__(
        self,
        *,
        clock: Clock,
        bot_token: str,
        app_token: str,
        channels: Mapping[str, Iterable[str]],
        users: Iterable[str],
        scopes: Iterable[str] = SCOPES,
    ) -> None:
        self.clock = clock
        self.bot_token = bot_token
        self.app_token = app_token
        self.channels = {channel: set(members) for channel, members in channels.items()}
        self.users = set(users) | {user for members in self.channels.values() for user in members}
        self.scopes = list(scopes)
        self.archived: set[str] = set()
        self.messages: list[StandInMessage] = []
        self.ephemerals: list[Ephemeral] = []
        self.views: list[View] = []
        self.tickets: set[str] = set()
        self.changed = threading.Condition()
        self._triggers: dict[str, tuple[str, float]] = {}
        self._numbers = itertools.count(1)
        self._last_ts = 0

    def call(self, method: str, token: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a method asks for. Raises Refused."""
        handle = self._METHODS.get(method)
        if handle is None:
            raise Refused("unknown_method", req_method=method)
        if not token:
            raise Refused("not_authed")
        if token not in (self.bot_token, self.app_token):
            raise Refused("invalid_auth")
        if (token == self.app_token) != (method == "apps.connections.open"):
            raise Refused("not_allowed_token_type")
        return {"ok": True, **handle(self, arguments)}

    def direct(self, user: str) -> str:
        """The id of the conversation between a person and the app."""
        return "D" + user[1:]

    def new_ts(self) -> str:
        """A time that no other message has, in microseconds."""
        micros = max(int(self.clock.now().timestamp() * 1_000_000), self._last_ts + 1)
        self._last_ts = micros
        return f"{micros // 1_000_000}.{micros % 1_000_000:06d}"

    def new_id(self, letter: str) -> str:
        """An id as Slack's look."""
        return f"{letter}{next(self._numbers):09d}"

    def new_trigger(self, user: str) -> str:
        """What lets the app open a dialog for this person, once, for three seconds."""
        trigger = f"{next(self._numbers)}.{TEAM_ID}.{self.clock.new_id().hex}"
        self._triggers[trigger] = (user, self.clock.now().timestamp())
        return trigger

    def find(self, channel: str, ts: str) -> StandInMessage | None:
        """A message by its id."""
        return next((one for one in self.messages if (one.channel, one.ts) == (channel, ts)), None)

    def resource(self, message: StandInMessage, *, metadata: bool) -> dict[str, Any]:
        """A message as the API shows it."""
        found: dict[str, Any] = {
            "type": "message", "user": message.user, "ts": message.ts, "text": message.text, "team": TEAM_ID,
        }  # fmt: skip
        if message.user == BOT_USER:
            found |= {"bot_id": BOT_ID, "app_id": APP_ID, "blocks": message.blocks}
        if message.thread_ts is not None:
            root = self.find(message.channel, message.thread_ts)
            found |= {"thread_ts": message.thread_ts, "parent_user_id": root.user if root else None}
        if metadata and message.metadata is not None:
            found["metadata"] = message.metadata
        return found

    # ------------------------------------------------------------------ methods

    def _auth_test(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "url": "https://stand-in.slack.com/", "team": "Stand-in", "user": "wakeloop", "team_id": TEAM_ID,
            "user_id": BOT_USER, "bot_id": BOT_ID,
        }  # fmt: skip

    def _connections_open(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        ticket = self.clock.new_id().hex
        self.tickets.add(ticket)
        return {"url": f"ws://{{host}}/link?ticket={ticket}&app_id={APP_ID}"}

    def _conversations_open(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self._need_scope("im:write")
        user = arguments.get("users")
        if not isinstance(user, str) or user not in self.users:
            raise Refused("user_not_found")
        if user == BOT_USER:
            raise Refused("cannot_dm_bot")
        return {"channel": {"id": self.direct(user)}}

    def _post_message(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self._need_scope("chat:write")
        channel = self._conversation(arguments, write=True)
        thread = arguments.get("thread_ts")
        if thread is not None:
            root = self.find(channel, str(thread))
            if root is None or root.thread_ts is not None:
                raise Refused("cannot_reply_to_message")
        metadata = arguments.get("metadata")
        if metadata is not None and not (
            isinstance(metadata, dict)
            and isinstance(metadata.get("event_type"), str)
            and isinstance(metadata.get("event_payload"), dict)
        ):
            raise Refused("invalid_metadata_format")
        text, blocks = self._content(arguments)
        message = StandInMessage(
            channel=channel, ts=self.new_ts(), user=BOT_USER, text=text, blocks=blocks, metadata=metadata,
            thread_ts=str(thread) if thread is not None else None,
        )  # fmt: skip
        self.messages.append(message)
        self.changed.notify_all()
        return {
            "channel": channel,
            "ts": message.ts,
            "message": json.loads(json.dumps(self.resource(message, metadata=True))),
        }

    def _post_ephemeral(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self._need_scope("chat:write")
        channel = self._conversation(arguments, write=True)
        user = str(arguments.get("user"))
        if not channel.startswith("D") and user not in self.channels[channel]:
            raise Refused("user_not_in_channel")
        text, _ = self._content(arguments)
        self.ephemerals.append(Ephemeral(channel=channel, user=user, text=unescaped(text)))
        self.changed.notify_all()
        return {"message_ts": self.new_ts()}

    def _update(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self._need_scope("chat:write")
        channel = self._conversation(arguments, write=True)
        message = self.find(channel, str(arguments.get("ts")))
        if message is None:
            raise Refused("message_not_found")
        if message.user != BOT_USER:
            raise Refused("cant_update_message")
        message.text, message.blocks = self._content(arguments)
        message.edited += 1
        self.changed.notify_all()
        return {"channel": channel, "ts": message.ts, "text": message.text}

    def _history(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        channel = self._conversation(arguments)
        found = [one for one in self.messages if one.channel == channel and one.thread_ts is None]
        return self._page(found[::-1], channel, arguments)

    def _replies(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        channel, root = self._conversation(arguments), str(arguments.get("ts"))
        if self.find(channel, root) is None:
            raise Refused("thread_not_found")
        found = [one for one in self.messages if one.channel == channel and root in (one.ts, one.thread_ts)]
        return self._page(found, channel, arguments)

    def _views_open(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        trigger = arguments.get("trigger_id")
        user, made = self._triggers.get(str(trigger), ("", 0.0))
        if not user:
            raise Refused("invalid_trigger_id")
        if made < 0:
            raise Refused("exchanged_trigger_id")
        if self.clock.now().timestamp() - made > TRIGGER_SECONDS:
            raise Refused("expired_trigger_id")
        try:
            view = check_view(arguments.get("view"))
        except InvalidBlocks as error:
            raise Refused("invalid_arguments", response_metadata={"messages": [str(error)]}) from error
        self._triggers[str(trigger)] = (user, -1.0)
        opened = View(id=self.new_id("V"), user=user, view=view)
        self.views.append(opened)
        self.changed.notify_all()
        return {"view": {**view, "id": opened.id}}

    _METHODS: ClassVar[Mapping[str, Callable[..., dict[str, Any]]]] = {
        "apps.connections.open": _connections_open,
        "auth.test": _auth_test,
        "chat.postEphemeral": _post_ephemeral,
        "chat.postMessage": _post_message,
        "chat.update": _update,
        "conversations.history": _history,
        "conversations.open": _conversations_open,
        "conversations.replies": _replies,
        "views.open": _views_open,
    }

    # ------------------------------------------------------------------ what they share

    def _need_scope(self, scope: str) -> None:
        if scope not in self.scopes:
            raise Refused("missing_scope", needed=scope, provided=",".join(self.scopes))

    def _conversation(self, arguments: Mapping[str, Any], *, write: bool = False) -> str:
        channel = str(arguments.get("channel"))
        if not write:
            self._need_scope(_HISTORY.get(channel[:1], "channels:history"))
        if channel in {self.direct(user) for user in self.users}:
            return channel
        if channel not in self.channels:
            raise Refused("channel_not_found")
        if BOT_USER not in self.channels[channel]:
            raise Refused("not_in_channel")
        if write and channel in self.archived:
            raise Refused("is_archived")
        return channel

    def _content(self, arguments: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        text, blocks = str(arguments.get("text") or ""), arguments.get("blocks") or []
        if not text and not blocks:
            raise Refused("no_text")
        try:
            return text[:TEXT_CHARACTERS], check_blocks(blocks)
        except InvalidBlocks as error:
            raise Refused("invalid_blocks", response_metadata={"messages": [str(error)]}) from error
        except TooLong as error:
            raise Refused("msg_blocks_too_long") from error

    def _page(
        self, found: list[StandInMessage], channel: str, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        oldest, inclusive = float(arguments.get("oldest") or 0), arguments.get("inclusive") == "true"
        found = [one for one in found if float(one.ts) > oldest or (inclusive and float(one.ts) == oldest)]
        start, size = int(arguments.get("cursor") or 0), int(arguments.get("limit") or 100)
        metadata = arguments.get("include_all_metadata") == "true"
        more = start + size < len(found)
        return {
            "messages": [self.resource(one, metadata=metadata) for one in found[start : start + size]],
            "has_more": more,
            "response_metadata": {"next_cursor": str(start + size) if more else ""},
        }
