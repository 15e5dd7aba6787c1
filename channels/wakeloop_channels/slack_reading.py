"""What a payload of Slack says: a message, a press, a form, a comment; and where it was said.

Ids. A message of ours is "CHANNEL:TS", as Slack names it. What people say is "CHANNEL:ROOT/TS", with the root of the thread
it was said in, which is itself if it is in none; a press is "CHANNEL:ROOT/TS@USER", for two may press in the same instant.
So `event_id` is not used: one message that mentions the app comes as two events, with two of those, and the id of what
somebody said is enough to know where to answer them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from wakeloop.channel import Incoming
from wakeloop.errors import InvalidWebhook
from wakeloop.events import Attachment
from wakeloop_channels import slack_blocks as kit
from wakeloop_channels.slack_settings import CHANNEL, DIRECT, USER
from wakeloop_channels.slack_text import mentions, read
from wakeloop_channels.slack_webhooks import table_at, tables_at, text_at

_CONVERSATION = re.compile(rf"{CHANNEL.pattern}|{DIRECT.pattern}", re.ASCII)
_TS = re.compile(r"\d{1,12}\.\d{1,9}", re.ASCII)
_OURS = re.compile(rf"({_CONVERSATION.pattern}):({_TS.pattern})", re.ASCII)
_THEIRS = re.compile(
    rf"(?P<channel>{_CONVERSATION.pattern}):(?P<root>{_TS.pattern})/(?P<ts>{_TS.pattern})(?P<press>@\w+)?",
    re.ASCII,
)
# https://docs.slack.dev/reference/events/message: all the others are said by nobody, or about what was said.
_SAID = (None, "file_share", "thread_broadcast", "me_message")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where something was said: in a channel or direct conversation, under the message `root`, at `ts`."""

    channel: str
    root: str
    ts: str
    press: bool = False

    @classmethod
    def of(cls, provider_id: str) -> Place | None:
        """Where what a person said was said; None for what we said."""
        found = _THEIRS.fullmatch(provider_id)
        if found is None:
            return None
        return cls(channel=found["channel"], root=found["root"], ts=found["ts"], press=bool(found["press"]))

    @property
    def direct(self) -> bool:
        """Whether it is between one person and the app."""
        return self.channel.startswith("D")


def message_of_ours(provider_id: str) -> tuple[str, str] | None:
    """Channel and ts of one of our messages."""
    found = _OURS.fullmatch(provider_id)
    return None if found is None else (found[1], found[2])


@dataclass(frozen=True, kw_only=True)
class Speakers:
    """Who may speak for the contact whose address a channel is (`responders`), and how it is known who spoke (`via`)."""

    responders: Mapping[str, Collection[str]]
    via: str = "Slack signature"

    def address(self, place: Place, user: str) -> str:
        """The address that somebody speaks for: the channel's if they may, else their own."""
        return place.channel if user in self.responders.get(place.channel, ()) else user

    def auth(self, user: str) -> str:
        """How the sender is known, in words."""
        return f"{self.via}, user {user}"


@dataclass(frozen=True, kw_only=True)
class Press:
    """A button that was pressed, or an option chosen. place: its message, and when; message: that message's ts."""

    place: Place
    user: str
    message: str
    action: str
    value: str
    label: str = ""
    trigger: str | None = None
    values: dict[str, str] | None = None
    missing: tuple[str, ...] = ()

    @property
    def says(self) -> bool:
        """Whether something was said by it; to open a dialog or a page says nothing yet."""
        return self.action.startswith((kit.PRESS, kit.CHOOSE)) or (
            self.action == kit.SUBMIT and not self.missing
        )


@dataclass(frozen=True, kw_only=True)
class Comment:
    """What was written in the dialog for a comment. pressed: the value of the button that the dialog stood for."""

    place: Place
    user: str
    view: str
    pressed: str
    text: str


def read_message(payload: Mapping[str, Any], speakers: Speakers) -> Incoming | None:
    """What somebody said, from an `event_callback`; None if nobody did, or not to us.

    To us is: in a direct conversation; by mentioning the app; in a thread under a message of ours. Raises InvalidWebhook
    (400) if it is malformed."""
    event = table_at(payload, "event")
    if event.get("type") not in ("message", "app_mention") or event.get("subtype") not in _SAID:
        return None
    own = next(
        (one.get("user_id") for one in tables_at(payload, "authorizations") if one.get("is_bot")), None
    )
    own = own if isinstance(own, str) else None
    if event.get("bot_id") or event.get("hidden") or (own is not None and event.get("user") == own):
        return None
    user, channel = _matching(event, USER, "user"), _matching(event, _CONVERSATION, "channel")
    ts = _matching(event, _TS, "ts")
    root = _matching(event, _TS, "thread_ts") if event.get("thread_ts") is not None else ts
    place = Place(channel=channel, root=root, ts=ts)
    said = text_at(event, "text") or ""
    ours = own is not None and event.get("parent_user_id") == own and root != ts
    called = event["type"] == "app_mention" or (own is not None and mentions(said, own))
    if not (place.direct or ours or called):
        return None
    text, attachments = read(said, own), _attachments(event)
    if not text and not attachments:
        return None
    return Incoming(
        provider_id=f"{channel}:{root}/{ts}", address=speakers.address(place, user), text=text, to_address=channel,
        thread=f"{channel}:{root}", reply_to=f"{channel}:{root}" if root != ts else None,
        attachments=attachments, auth=speakers.auth(user), raw=payload,
    )  # fmt: skip


def read_press(payload: Mapping[str, Any]) -> Press | None:
    """What was pressed, from a `block_actions`; None if it was in no message. Raises InvalidWebhook (400)."""
    container, actions = table_at(payload, "container"), tables_at(payload, "actions")
    if container.get("type") != "message" or container.get("is_ephemeral") is True:
        return None
    if not actions:
        raise InvalidWebhook("A press has no actions.", status=400)
    action = actions[0]
    user = _matching(table_at(payload, "user"), USER, "id")
    channel = _matching(container, _CONVERSATION, "channel_id")
    message = _matching(container, _TS, "message_ts")
    root = _matching(container, _TS, "thread_ts") if container.get("thread_ts") is not None else message
    name = text_at(action, "action_id") or ""
    value = text_at(action, "selected_option", "value") or text_at(action, "value") or ""
    values: dict[str, str] | None = None
    missing: list[str] = []
    if name == kit.SUBMIT:
        values, missing = kit.read_form(
            table_at(payload, "state", "values"), tables_at(payload, "message", "blocks")
        )
    return Press(
        place=Place(channel=channel, root=root, ts=_matching(action, _TS, "action_ts"), press=True), user=user,
        message=message, action=name, value=value, label=text_at(action, "text", "text") or "",
        trigger=text_at(payload, "trigger_id"), values=values, missing=tuple(missing),
    )  # fmt: skip


def said_by(press: Press, speakers: Speakers, payload: Mapping[str, Any]) -> Incoming:
    """A press as the runtime takes it."""
    place = press.place
    return Incoming(
        provider_id=f"{place.channel}:{place.root}/{place.ts}@{press.user}",
        address=speakers.address(place, press.user), text="", to_address=place.channel,
        thread=f"{place.channel}:{place.root}", reply_to=f"{place.channel}:{press.message}", pressed=press.value,
        values=press.values, auth=speakers.auth(press.user), raw=payload,
    )  # fmt: skip


def read_comment(payload: Mapping[str, Any]) -> Comment | None:
    """What was written, from a `view_submission`; None if it is no dialog of ours. Raises InvalidWebhook (400)."""
    view = table_at(payload, "view")
    if view.get("callback_id") != kit.COMMENT:
        return None
    try:
        kept = json.loads(text_at(view, "private_metadata") or "")
    except (ValueError, RecursionError) as error:
        raise InvalidWebhook("A dialog came back without what it was opened with.", status=400) from error
    kept = kept if isinstance(kept, dict) else {}
    place, pressed, id = Place.of(text_at(kept, "place") or ""), text_at(kept, "pressed"), text_at(view, "id")
    if place is None or pressed is None or id is None:
        raise InvalidWebhook("A dialog came back without what it was opened with.", status=400)
    text = text_at(view, "state", "values", kit.COMMENT, kit.COMMENT, "value") or ""
    user = _matching(table_at(payload, "user"), USER, "id")
    return Comment(place=place, user=user, view=id, pressed=pressed, text=text.strip())


def said_in(comment: Comment, speakers: Speakers, payload: Mapping[str, Any]) -> Incoming:
    """A comment as the runtime takes it. A dialog closes when it is taken, so its id names what was said."""
    place = comment.place
    return Incoming(
        provider_id=f"{place.channel}:{place.root}/{place.ts}@{comment.view}",
        address=speakers.address(place, comment.user), text=comment.text, to_address=place.channel,
        thread=f"{place.channel}:{place.root}", pressed=comment.pressed, auth=speakers.auth(comment.user), raw=payload,
    )  # fmt: skip


def _matching(table: Mapping[str, Any], pattern: re.Pattern[str], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidWebhook(f"{name} is missing or malformed.", status=400)
    return value


def _attachments(event: Mapping[str, Any]) -> tuple[Attachment, ...]:
    """Files that are there: not those that were deleted or are beyond the plan's limit, which have no address."""
    found = []
    for file in tables_at(event, "files"):
        url = text_at(file, "url_private_download") or text_at(file, "url_private")
        if url is not None:
            kind = text_at(file, "mimetype") or "application/octet-stream"
            found.append(Attachment(url=url, content_type=kind, name=text_at(file, "name"), channel="slack"))
    return tuple(found)
