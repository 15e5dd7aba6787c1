"""What Telegram's updates say (https://core.telegram.org/bots/api#update), from a webhook or fetched alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from wakeloop.channel import Incoming
from wakeloop.errors import InvalidWebhook
from wakeloop.events import Attachment
from wakeloop_channels.json_bodies import obj, objects, text, whole

ALLOWED_UPDATES = ("message", "callback_query", "my_chat_member")
"""The kinds to ask Telegram for. An edited message is none of them: what was said first stands."""

FILE_SCHEME = "telegram:"
"""Before a file_id, in the `url` of an attachment that came."""

_COMMAND = re.compile(r"/(?:(start)(?:@\w+)?(?:\s.*)?|(stop|help)(?:@\w+)?)", re.DOTALL | re.IGNORECASE)
_SENT = re.compile(r"(\d+):(-?\d+):(\d+)")

Responders = Mapping[str, frozenset[int]]


def message_id(bot: str, chat: int, message: int) -> str:
    """The id under which the runtime knows a message of this bot's, or to it: Telegram counts messages by chat."""
    return f"{bot}:{chat}:{message}"


def split_id(provider_id: str) -> tuple[str, int, int] | None:
    """The bot, the chat and the number of a message; None if the id is of something else, such as a press."""
    found = _SENT.fullmatch(provider_id)
    return None if found is None else (found[1], int(found[2]), int(found[3]))


def read_update(update: dict[str, Any], bot: str, responders: Responders) -> list[Incoming]:
    """What an update says; nothing if it is of no concern. bot: the bot's own number.

    In a private chat everything counts. In a group only what the people named for it in `responders` answer to a
    message of ours or press below it, and, so that a group's number can be found out, /start while nobody is named.

    Raises InvalidWebhook (400) if it is not as Telegram documents it."""
    number = whole(update, "update_id")
    if message := obj(update, "message"):
        return list(_message(message, update, bot, responders))
    if query := obj(update, "callback_query"):
        return list(_press(query, update, bot, responders))
    if change := obj(update, "my_chat_member"):
        return list(_membership(change, update, f"{bot}:update:{number}"))
    return []


def press_to_answer(update: dict[str, Any], responders: Responders) -> dict[str, str] | None:
    """The arguments of answerCallbackQuery, without which the button goes on spinning; None if this is no press."""
    query = update.get("callback_query")
    if not isinstance(query, dict) or not isinstance(query.get("id"), str):
        return None
    answer = {"callback_query_id": query["id"]}
    message = obj(query, "message")
    if message and not _may_answer(obj(message, "chat"), obj(query, "from"), responders):
        answer["text"] = "Only the people who are named for this chat can answer here."
    return answer


def _message(
    message: dict[str, Any], update: dict[str, Any], bot: str, responders: Responders
) -> Iterator[Incoming]:
    chat, sender = obj(message, "chat"), obj(message, "from")
    chat_id, number = whole(chat, "id"), whole(message, "message_id")
    said = text(message, "text") or text(message, "caption") or text(obj(message, "sticker"), "emoji")
    attachments = tuple(_attachments(message))
    if not said and not attachments:
        return  # somebody joined, a pinned message, a place: nothing that could be an answer
    word = _command(said)
    private, answered = _is_private(chat), obj(message, "reply_to_message")
    if sender.get("is_bot") is True:
        return
    if not private:
        if word == "start" and not responders.get(str(chat_id)):
            answered = {}
        elif not _may_answer(chat, sender, responders) or str(obj(answered, "from").get("id")) != bot:
            return
    yield Incoming(
        provider_id=message_id(bot, chat_id, number),
        address=str(chat_id),
        text=said,
        reply_to=message_id(bot, chat_id, whole(answered, "message_id")) if answered else None,
        attachments=attachments,
        opt_out={"start": False, "stop": True}.get(word),
        help=word == "help",
        auth=None if private else f"Telegram user {sender.get('id')} in the group",
        raw=update,
    )


def _press(
    query: dict[str, Any], update: dict[str, Any], bot: str, responders: Responders
) -> Iterator[Incoming]:
    id, pressed, message, sender = (
        text(query, "id"),
        text(query, "data"),
        obj(query, "message"),
        obj(query, "from"),
    )
    if not id:
        raise InvalidWebhook("A callback_query has no id.", status=400)
    if not pressed or not message:
        return  # a game, or a message that was sent through inline mode
    chat = obj(message, "chat")
    chat_id, number = whole(chat, "id"), whole(message, "message_id")
    if not _may_answer(chat, sender, responders):
        return
    yield Incoming(
        provider_id=f"{bot}:press:{id}",
        address=str(chat_id),
        text="",
        reply_to=message_id(bot, chat_id, number),
        pressed=pressed,
        auth=None if _is_private(chat) else f"Telegram user {sender.get('id')} in the group",
        raw=update,
    )


def _membership(change: dict[str, Any], update: dict[str, Any], provider_id: str) -> Iterator[Incoming]:
    """A person blocked the bot, or let it in again. That it was taken out of a group is nobody's wish in particular."""
    chat = obj(change, "chat")
    before, after = (text(obj(change, name), "status") for name in ("old_chat_member", "new_chat_member"))
    if not _is_private(chat) or "kicked" not in (before, after) or before == after:
        return
    out = after == "kicked"
    yield Incoming(
        provider_id=provider_id,
        address=str(whole(chat, "id")),
        text="blocked the bot" if out else "unblocked the bot",
        opt_out=out,
        raw=update,
    )


def _attachments(message: dict[str, Any]) -> Iterator[Attachment]:
    photos = objects(message, "photo")
    if photos:
        yield _attachment(photos[-1], "image/jpeg")  # the last is the largest
    for kind, content_type in (
        ("document", "application/octet-stream"), ("video", "video/mp4"), ("audio", "audio/mpeg"),
        ("voice", "audio/ogg"), ("video_note", "video/mp4"),
    ):  # fmt: skip
        if found := obj(message, kind):
            yield _attachment(found, content_type)


def _attachment(found: dict[str, Any], content_type: str) -> Attachment:
    file_id = text(found, "file_id")
    if not file_id:
        raise InvalidWebhook("A file has no file_id.", status=400)
    return Attachment(
        url=FILE_SCHEME + file_id,
        content_type=text(found, "mime_type") or content_type,
        name=text(found, "file_name") or None,
    )


def _command(said: str) -> str:
    """Which of our commands a text is. /start may bring a word along, from a link; the others stand alone."""
    found = _COMMAND.fullmatch(said.strip())
    return "" if found is None else (found[1] or found[2]).lower()


def _is_private(chat: dict[str, Any]) -> bool:
    return chat.get("type") == "private"


def _may_answer(chat: dict[str, Any], sender: dict[str, Any], responders: Responders) -> bool:
    who = sender.get("id")
    return _is_private(chat) or (
        isinstance(who, int) and who in responders.get(str(chat.get("id")), frozenset())
    )
