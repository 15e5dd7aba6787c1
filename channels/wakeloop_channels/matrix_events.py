"""Matrix events: what we send as such, and what those that people send say.

Whatever is in an event was written by somebody's client, so nothing of its shape is taken for granted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wakeloop.channel import Button, DeliveryStatus, DeliveryUpdate, Incoming
from wakeloop.events import Attachment
from wakeloop_channels.text import well_formed

MESSAGE = "m.room.message"
REACTION = "m.reaction"
BUTTONS = "wakeloop.buttons"
"""Under which key of our message's content its buttons stand, so that a reaction can be read without a memory."""

PRESSES: Mapping[str, str] = {"✅": "yes", "👍": "yes", "❌": "no", "👎": "no"}
"""What a reaction presses: the only button of that style. Compared without skin tones and variation selectors."""
SHOWN = {"yes": "✅", "no": "❌"}

FILTER = json.dumps(
    {
        "presence": {"types": []},
        "account_data": {"types": []},
        "room": {
            "account_data": {"types": []},
            "ephemeral": {"types": ["m.receipt"]},
            "state": {"types": [], "lazy_load_members": True},
            "timeline": {"types": [MESSAGE, REACTION, "m.room.member"], "limit": 100},
        },
    }
)
MESSAGES_FILTER = json.dumps({"types": [MESSAGE, REACTION]})

_MEDIA = {"m.image": "image/*", "m.video": "video/*", "m.audio": "audio/*", "m.file": ""}
_MODIFIERS = re.compile("[\U0001f3fb-\U0001f3ff\ufe0e\ufe0f]")
# https://spec.matrix.org/v1.12/client-server-api/#fallbacks-for-rich-replies: older clients quote what they answer.
_FALLBACK = re.compile(r"> (?:\* )?<@[^\n]*\n(?:>[^\n]*\n)*\n")


# ---------------------------------------------------------------------- what we send


def text_content(
    text: str, *, buttons: Sequence[Button] = (), relation: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A message. `m.mentions` is empty, so that a name in the text calls nobody."""
    content: dict[str, Any] = {"msgtype": "m.text", "body": well_formed(text), "m.mentions": {}}
    if buttons:
        content[BUTTONS] = [{"value": one.value, "style": one.style} for one in buttons]
    if relation is not None:
        content["m.relates_to"] = dict(relation)
    return content


def replacement(id: str, text: str) -> dict[str, Any]:
    """A message that shows another text in place of an earlier one."""
    return {
        **text_content(f"* {text}"),
        "m.new_content": text_content(text),
        "m.relates_to": {"rel_type": "m.replace", "event_id": id},
    }


def file_content(name: str, content_type: str, url: str, size: int) -> dict[str, Any]:
    """A file that was uploaded."""
    major = content_type.partition("/")[0].lower()
    return {
        "msgtype": f"m.{major}" if major in ("image", "video", "audio") else "m.file",
        "body": name,
        "filename": name,
        "url": url,
        "info": {"mimetype": content_type, "size": size},
        "m.mentions": {},
    }


def answers(id: str) -> dict[str, Any]:
    """The relation of an answer to an event."""
    return {"m.in_reply_to": {"event_id": id}}


def in_thread(root: str, last: str) -> dict[str, Any]:
    """The relation of a message in a thread, shown as an answer by clients that know no threads."""
    return {"rel_type": "m.thread", "event_id": root, "is_falling_back": True, **answers(last)}


def reaction(id: str, key: str) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.annotation", "event_id": id, "key": key}}


def marks(buttons: Sequence[Button]) -> list[str]:
    """The reactions with which these buttons can be pressed: none unless it is certain what each would mean."""
    styles = [button.style for button in buttons]
    return [mark for style, mark in SHOWN.items() if styles.count(style) == 1]


def transaction(*parts: str) -> str:
    """A transaction id, the same for the same parts."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]


def thread_root(event: Mapping[str, Any]) -> str | None:
    """The first event of the thread that an event is in, or its own id if it can begin one."""
    relation = _object(_object(event, "content"), "m.relates_to")
    if _text(relation, "rel_type") == "m.thread":
        return _text(relation, "event_id")
    return None if "rel_type" in relation else _text(event, "event_id")


# ---------------------------------------------------------------------- what comes


def said(event: Mapping[str, Any], room: str, *, me: str, speaks_for: str) -> Incoming | None:
    """What a person wrote: None if it is our own, an edit of what they wrote before, or no message.

    speaks_for: the address for whom they speak."""
    content, id, sender = _object(event, "content"), _text(event, "event_id"), _text(event, "sender")
    kind = _text(content, "msgtype")
    if _text(event, "type") != MESSAGE or not id or not sender or sender == me or not kind:
        return None
    relation = _object(content, "m.relates_to")
    if _text(relation, "rel_type") == "m.replace":
        return None
    text = _text(content, "body") or ""
    in_reply_to = _text(_object(relation, "m.in_reply_to"), "event_id")
    root = _text(relation, "event_id") if _text(relation, "rel_type") == "m.thread" else None
    # In a thread the answer to the last message is only there for clients that know no threads.
    reply_to = root if root and relation.get("is_falling_back") is True else in_reply_to or root
    if in_reply_to:
        text = _FALLBACK.sub("", text, count=1) if _FALLBACK.match(text) else text
    attachments: tuple[Attachment, ...] = ()
    if kind in _MEDIA:
        attachment = _attachment(content, kind)
        name = _text(content, "filename")
        text = text if name and text != name else ""  # a body beside a file's name is its caption
        attachments = (attachment,) if attachment else ()
    if not text and not attachments:
        return None
    return Incoming(
        provider_id=id,
        address=speaks_for,
        text=text,
        to_address=room,
        thread=root,
        reply_to=reply_to,
        attachments=attachments,
        automatic=kind == "m.notice",
        auth=f"Matrix account {sender}",
        raw=_json(event),
    )


def target(event: Mapping[str, Any], *, me: str) -> tuple[str, str] | None:
    """Of a person's reaction that can press a button: to which event, and the style of the button."""
    relation = _object(_object(event, "content"), "m.relates_to")
    id, key = _text(relation, "event_id"), _text(relation, "key")
    is_theirs = _text(event, "type") == REACTION and _text(event, "sender") not in (None, me)
    if not (is_theirs and _text(relation, "rel_type") == "m.annotation" and id and key):
        return None
    style = PRESSES.get(_MODIFIERS.sub("", key))
    return None if style is None else (id, style)


def pressed(
    event: Mapping[str, Any], ours: Mapping[str, Any], style: str, room: str, *, me: str, speaks_for: str
) -> Incoming | None:
    """The press that a reaction to a message of ours is; None if that has not exactly one button of this style."""
    id, sender = _text(event, "event_id"), _text(event, "sender")
    buttons = _object(ours, "content").get(BUTTONS)
    if _text(ours, "sender") != me or not isinstance(buttons, list) or not id or not sender:
        return None
    values = [
        value
        for one in buttons
        if isinstance(one, Mapping) and one.get("style") == style and (value := _text(one, "value"))
    ]
    if len(values) != 1:
        return None
    return Incoming(
        provider_id=id,
        address=speaks_for,
        text="",
        to_address=room,
        reply_to=_text(ours, "event_id"),
        pressed=values[0],
        auth=f"Matrix account {sender}",
        raw=_json(event),
    )


def receipts(ephemeral: Mapping[str, Any], *, me: str) -> Iterator[DeliveryUpdate]:
    """Which events others have read."""
    for event in objects(ephemeral, "events"):
        if _text(event, "type") != "m.receipt":
            continue
        for id, kinds in _object(event, "content").items():
            readers = _object(kinds, "m.read") if isinstance(kinds, Mapping) else {}
            if id and "\0" not in id and any(reader != me for reader in readers):
                yield DeliveryUpdate(
                    provider_id=id, status=DeliveryStatus.DELIVERED, raw=_json({"m.read": readers})
                )


def objects(holder: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The objects of a list in an object; none if it is no list."""
    found = holder.get(name)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def since_joined(events: Sequence[Mapping[str, Any]], me: str) -> Sequence[Mapping[str, Any]] | None:
    """Of a timeline in which this account joins, what came after it was invited, or joined; None if it does not join."""
    ours = [
        (number, _text(_object(event, "content"), "membership"))
        for number, event in enumerate(events)
        if _text(event, "type") == "m.room.member" and event.get("state_key") == me
    ]
    joined = [number for number, membership in ours if membership == "join"]
    if not joined:
        return None
    invited = [number for number, membership in ours if membership == "invite" and number < joined[-1]]
    return events[(invited or joined)[-1] + 1 :]


def _attachment(content: Mapping[str, Any], kind: str) -> Attachment | None:
    url = _text(content, "url")
    if not url or not url.startswith("mxc://"):
        return None
    content_type = _text(_object(content, "info"), "mimetype") or _MEDIA[kind]
    name = _text(content, "filename") or _text(content, "body")
    name = name[:200] if name else None
    if not content_type or "*" in content_type:
        return Attachment(url=url, name=name, channel="matrix")
    return Attachment(url=url, content_type=content_type[:200], name=name, channel="matrix")


def _object(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = holder.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(holder: Mapping[str, Any], name: str) -> str | None:
    found = holder.get(name)
    return well_formed(found) if isinstance(found, str) and found else None


def _json(event: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with clean text."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return well_formed(value)
        if isinstance(value, Mapping):
            return {well_formed(str(key)): clean(one) for key, one in value.items()}
        if isinstance(value, list):
            return [clean(one) for one in value]
        return value

    copied = clean(event)
    return copied if isinstance(copied, dict) else {}
