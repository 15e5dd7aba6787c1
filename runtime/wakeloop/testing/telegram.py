"""A stand-in for Telegram: a real HTTP server on loopback that checks, answers and calls back as the Bot API does.

::

    with TelegramStandIn(webhook="http://127.0.0.1:8080/hooks/telegram", secret_token="…") as telegram:
        telegram.write("/start", chat=42)     # nobody can be written to before; gives the webhook's answer
        ...                                   # settings: api_url=telegram.url, bot_token=…
        sent = telegram.wait_for(1)[0]
        telegram.press(sent, "Approve")       # by the label of a button
        telegram.write("not now", chat=42, reply_to=sent)

Without a webhook, what people do waits for getUpdates. Modelled on the public reference,
https://core.telegram.org/bots/api.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from wakeloop.testing.stand_in import Answer, Asked, Failure, Given, StandIn, Upload, as_json, post

__all__ = ["BOT_TOKEN", "SECRET_TOKEN", "Button", "TelegramMessage", "TelegramStandIn"]

BOT_TOKEN = "110201543:stand-in-bot-token"
SECRET_TOKEN = "stand-in-secret"

MAX_UNITS = 4096
MAX_CALLBACK_BYTES = 64
FILE_LIMIT_BYTES = 20 * 1024 * 1024

_PATH = re.compile(r"/(?P<file>file/)?bot(?P<token>[^/]+)/(?P<rest>.+)")
_FETCHED = re.compile(r"\.(pdf|zip|gif)$", re.IGNORECASE)
_WORDS = {401: "Unauthorized", 404: "Not Found", 409: "Conflict", 429: "Too Many Requests: retry later"}


@dataclass(frozen=True, kw_only=True)
class Button:
    """A button below a message: with data it is pressed, with a URL it is followed."""

    label: str
    data: str = ""
    url: str = ""
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class TelegramMessage:
    """A message of the bot's, as it stands in the chat now. kind: "text", "photo" or "document"; file: what was
    uploaded, or the address from which it was to be fetched."""

    chat: int
    message_id: int
    text: str
    kind: str = "text"
    buttons: tuple[Button, ...] = ()
    reply_to: int | None = None
    file: Upload | str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


class _Refused(Exception):
    """The API says no."""

    def __init__(self, status: int, words: str, **parameters: Any) -> None:
        super().__init__(words)
        self.status, self.words, self.parameters = status, words, parameters


class TelegramStandIn(StandIn):
    """The Bot API for one bot, and the people who write to it.

    webhook, secret_token: where updates are posted and with which secret, as setWebhook sets them. A person's chat has
    the person's own number; a group's begins with a minus sign.
    """

    def __init__(
        self,
        *,
        bot_token: str = BOT_TOKEN,
        webhook: str | None = None,
        secret_token: str = SECRET_TOKEN,
        username: str = "stand_in_bot",
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.bot_token = bot_token
        self.bot_id = int(bot_token.partition(":")[0])
        self.webhook = webhook
        self.secret_token = secret_token
        self.username = username
        self.messages: list[TelegramMessage] = []
        self.answered: list[dict[str, str]] = []
        self.last_error: str | None = None
        self.migrated: dict[int, int] = {}
        self._chats: set[int] = set()
        self._blocked: set[int] = set()
        self._said: dict[tuple[int, int], dict[str, Any]] = {}
        self._files: dict[str, bytes] = {}
        self.updates: list[dict[str, Any]] = []
        self._fetching = 0
        self._update_id = 700_000_000
        self._last_id: dict[int, int] = {}

    # What people do

    def write(
        self,
        text: str,
        *,
        chat: int,
        by: int | None = None,
        reply_to: TelegramMessage | None = None,
        files: Sequence[Upload] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> Answer | None:
        """Somebody writes: in a private chat, or `by` a person in a group. With a file, the text is its caption. Gives
        what the webhook answered, or None without one."""
        message: dict[str, Any] = self._new(chat, by or chat)
        if reply_to is not None:
            message["reply_to_message"] = self._said[reply_to.chat, reply_to.message_id]
        message |= {"caption" if files else "text": text} if text else {}
        for file in files:
            message |= self._keep(file)
        return self.update({"message": message | dict(extra or {})})

    def press(
        self, message: TelegramMessage, label: str, *, by: int | None = None, id: str | None = None
    ) -> Answer | None:
        """Somebody presses a button, in a group `by` a person; `id`: the same one again is a retry."""
        found = [button for button in self._now(message).buttons if button.label == label]
        if not found or not found[0].data:
            raise LookupError(f"There is no button {label!r} to press.")
        query = {
            "id": id or f"4382bfdwdsb{self._update_id}",
            "from": _person(by or message.chat),
            "message": self._said[message.chat, message.message_id],
            "chat_instance": "-42",
            "data": found[0].data,
        }
        return self.update({"callback_query": query})

    def block(self, chat: int, *, blocked: bool = True) -> Answer | None:
        """A person blocks the bot, or lets it in again."""
        (self._blocked.add if blocked else self._blocked.discard)(chat)
        before, after = ("member", "kicked") if blocked else ("kicked", "member")
        bot = {"id": self.bot_id, "is_bot": True, "first_name": "Stand-in", "username": self.username}
        change = {
            "chat": _chat(chat),
            "from": _person(chat),
            "date": int(time.time()),
            "old_chat_member": {"user": bot, "status": before},
            "new_chat_member": {"user": bot, "status": after, "until_date": 0},
        }
        return self.update({"my_chat_member": change})

    def update(self, content: Mapping[str, Any], *, secret_token: str | None = None) -> Answer | None:
        """Something happens: post it to the webhook, or let it wait for getUpdates. Raises OSError if nobody answers."""
        self._update_id += 1
        update = {"update_id": self._update_id, **content}
        if self.webhook is None:
            self._tell(lambda: self.updates.append(update))
            return None
        return self.deliver(update, secret_token=secret_token)

    def deliver(self, update: Mapping[str, Any] | bytes, *, secret_token: str | None = None) -> Answer:
        """Post an update as it is; the same one again is a retry. `secret_token`: with another one, "" with none. What
        the answer asks for is done."""
        if self.webhook is None:
            raise RuntimeError("The stand-in has no webhook: pass webhook=, or set the attribute.")
        secret = self.secret_token if secret_token is None else secret_token
        answer = post(self.webhook, update, {"X-Telegram-Bot-Api-Secret-Token": secret} if secret else {})
        if answer.status >= 300:
            self.last_error = f"Wrong response from the webhook: {answer.status}"
        elif answer.body.startswith("{"):
            call = json.loads(answer.body)
            self._call(call.pop("method"), {name: str(value) for name, value in call.items()}, {})
        return answer

    def wait_for(
        self, count: int, *, chat: int | None = None, timeout: float = 10.0
    ) -> list[TelegramMessage]:
        """The messages taken so far (in that chat), once there are `count` of them. Raises TimeoutError."""
        return self._wait(lambda: [one for one in self.messages if chat in (None, one.chat)], count, timeout)

    def wait_for_fetch(self, count: int, *, timeout: float = 10.0) -> None:
        """Until getUpdates was called so many times. Raises TimeoutError."""
        self._wait(lambda: [None] * self._fetching, count, timeout)

    # The API

    def answer(self, asked: Asked) -> Given:
        match = _PATH.fullmatch(asked.path)
        if match is None:
            return _no(404, "Not Found")
        if match["token"] != self.bot_token:
            return _no(401, "Unauthorized")
        if match["file"]:
            data = self._files.get(match["rest"])
            return (
                _no(404, "Not Found")
                if data is None
                else Given(body=data, content_type="application/octet-stream")
            )
        try:
            result = self._call(match["rest"], *asked.form())
        except _Refused as refused:
            return _no(refused.status, refused.words, **refused.parameters)
        return as_json(200, {"ok": True, "result": result})

    def fail(self, fault: Failure) -> Given:
        after = {} if fault.retry_after is None else {"retry_after": int(fault.retry_after)}
        return _no(fault.status, _WORDS.get(fault.status, "Internal Server Error"), **after)

    def _call(self, method: str, fields: dict[str, str], files: dict[str, Upload]) -> Any:
        if method == "getMe":
            return {"id": self.bot_id, "is_bot": True, "first_name": "Stand-in", "username": self.username}
        if method == "getWebhookInfo":
            info: dict[str, Any] = {"url": self.webhook or "", "has_custom_certificate": False}
            info["pending_update_count"] = len(self.updates)
            return info | ({"last_error_message": self.last_error} if self.last_error else {})
        if method == "setWebhook":
            self.webhook, self.secret_token = fields.get("url") or None, fields.get("secret_token", "")
            return True
        if method == "deleteWebhook":
            self.webhook = None
            return True
        if method == "getUpdates":
            return self._get_updates(fields)
        if method == "getFile":
            return self._get_file(fields)
        if method == "answerCallbackQuery":
            if not fields.get("callback_query_id"):
                raise _Refused(
                    400, "Bad Request: query is too old and response timeout expired or query ID is invalid"
                )
            self._tell(lambda: self.answered.append(fields))
            return True
        if method in ("sendMessage", "sendPhoto", "sendDocument"):
            return self._send(method.removeprefix("send").lower(), fields, files)
        if method == "editMessageText":
            return self._edit(fields)
        raise _Refused(404, "Not Found: method not found")

    def _get_updates(self, fields: Mapping[str, str]) -> list[dict[str, Any]]:
        if self.webhook is not None:
            words = "can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first"
            raise _Refused(409, f"Conflict: {words}")
        offset = int(fields.get("offset", 0))
        with self._changed:
            self._fetching += 1
            mine = self._fetching
            self._changed.notify_all()
            self.updates = [update for update in self.updates if update["update_id"] >= offset]
            self._changed.wait_for(
                lambda: self.updates or mine != self._fetching or self._stopping.is_set(),
                int(fields.get("timeout", 0)),
            )
            if mine != self._fetching:
                words = (
                    "terminated by other getUpdates request; make sure that only one bot instance is running"
                )
                raise _Refused(409, f"Conflict: {words}")
            kinds = json.loads(fields.get("allowed_updates", "[]"))
            return [one for one in self.updates if not kinds or set(one) & set(kinds)][:100]

    def _get_file(self, fields: Mapping[str, str]) -> dict[str, Any]:
        id = fields.get("file_id", "")
        path = f"documents/{id}"
        if path not in self._files:
            raise _Refused(400, "Bad Request: wrong file_id or the file is temporarily unavailable")
        size = len(self._files[path])
        if size > FILE_LIMIT_BYTES:
            raise _Refused(400, "Bad Request: file is too big")
        return {"file_id": id, "file_unique_id": id[-8:], "file_size": size, "file_path": path}

    def _send(self, kind: str, fields: dict[str, str], files: dict[str, Upload]) -> dict[str, Any]:
        kind = "text" if kind == "message" else kind
        chat = self._reachable(fields)
        text = fields.get("text", "") if kind == "text" else fields.get("caption", "")
        _check_text(text, kind)
        file: Upload | str | None = None
        if kind != "text":
            file = files.get(kind) or fields.get(kind)
            if not file:
                raise _Refused(400, f"Bad Request: there is no {kind} in the request")
            if kind == "document" and isinstance(file, str) and not _FETCHED.search(urlsplit(file).path):
                raise _Refused(400, "Bad Request: wrong type of the web page content")
        buttons = _buttons(json.loads(fields.get("reply_markup", "{}")))
        answers = json.loads(fields.get("reply_parameters", "{}"))
        target = answers.get("message_id")
        if target is not None and (chat, target) not in self._said:
            if not answers.get("allow_sending_without_reply"):
                raise _Refused(400, "Bad Request: message to be replied not found")
            target = None
        said = self._new(chat, self.bot_id) | ({"text": text} if kind == "text" else {})
        message = TelegramMessage(
            chat=chat, message_id=int(said["message_id"]), text=text, kind=kind, buttons=buttons, reply_to=target,
            file=file, fields=fields,
        )  # fmt: skip
        self._tell(lambda: self.messages.append(message))
        return said

    def _edit(self, fields: Mapping[str, str]) -> dict[str, Any]:
        chat, number = self._reachable(fields), int(fields.get("message_id", 0))
        place = next(
            (
                place
                for place, one in enumerate(self.messages)
                if (one.chat, one.message_id) == (chat, number)
            ),
            None,
        )
        if place is None:
            raise _Refused(400, "Bad Request: message to edit not found")
        text, buttons = fields.get("text", ""), _buttons(json.loads(fields.get("reply_markup", "{}")))
        _check_text(text, "text")
        old = self.messages[place]
        if (old.text, old.buttons) == (text, buttons):
            raise _Refused(
                400,
                "Bad Request: message is not modified: specified new message content and reply markup are exactly the "
                "same as a current content and reply markup of the message",
            )
        with self._changed:
            self.messages[place] = replace(old, text=text, buttons=buttons)
            self._said[chat, number]["text"] = text
            self._changed.notify_all()
        return self._said[chat, number]

    def delete(self, message: TelegramMessage) -> None:
        """Somebody deletes a message of the bot's."""
        self.messages.remove(self._now(message))
        del self._said[message.chat, message.message_id]

    # Inside

    def _now(self, message: TelegramMessage) -> TelegramMessage:
        return next(
            one for one in self.messages if (one.chat, one.message_id) == (message.chat, message.message_id)
        )

    def _reachable(self, fields: Mapping[str, str]) -> int:
        try:
            chat = int(fields.get("chat_id", ""))
        except ValueError:
            raise _Refused(400, "Bad Request: chat not found") from None
        if chat in self.migrated:
            words = "Bad Request: group chat was upgraded to a supergroup chat"
            raise _Refused(400, words, migrate_to_chat_id=self.migrated[chat])
        if chat not in self._chats:
            raise _Refused(400, "Bad Request: chat not found")
        if chat in self._blocked:
            raise _Refused(403, "Forbidden: bot was blocked by the user")
        return chat

    def _new(self, chat: int, by: int) -> dict[str, Any]:
        with self._changed:
            self._chats.add(chat)
            number = self._last_id[chat] = self._last_id.get(chat, 0) + 1
            sender = {**_person(by), "is_bot": by == self.bot_id}
            said = {"message_id": number, "from": sender, "chat": _chat(chat), "date": int(time.time())}
            self._said[chat, number] = said
            return said

    def _keep(self, file: Upload) -> dict[str, Any]:
        id = f"BQACAgIAAx{len(self._files):06d}"
        self._files[f"documents/{id}"] = file.data
        facts = {"file_id": id, "file_unique_id": id[-8:], "file_size": len(file.data)}
        if file.content_type == "image/jpeg":
            small = {**facts, "file_id": id + "-small"}
            return {"photo": [{**small, "width": 90, "height": 60}, {**facts, "width": 900, "height": 600}]}
        return {"document": {**facts, "file_name": file.name, "mime_type": file.content_type}}


def _person(number: int) -> dict[str, Any]:
    return {"id": number, "is_bot": False, "first_name": "Somebody", "language_code": "en"}


def _chat(number: int) -> dict[str, Any]:
    if number > 0:
        return {"id": number, "type": "private", "first_name": "Somebody"}
    return {"id": number, "type": "supergroup", "title": "A group"}


def _no(status: int, words: str, **parameters: Any) -> Given:
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": words}
    return as_json(status, body | ({"parameters": parameters} if parameters else {}))


def _check_text(text: str, kind: str) -> None:
    if kind == "text" and not text.strip():
        raise _Refused(400, "Bad Request: message text is empty")
    if len(text.encode("utf-16-le", "replace")) // 2 > MAX_UNITS:
        raise _Refused(400, "Bad Request: message is too long")


def _buttons(markup: Mapping[str, Any]) -> tuple[Button, ...]:
    found = []
    for row in markup.get("inline_keyboard", []):
        for one in row:
            button = Button(
                label=one["text"],
                data=one.get("callback_data", ""),
                url=one.get("url", ""),
                style=one.get("style", ""),
            )
            if not button.label:
                raise _Refused(400, "Bad Request: can't parse inline keyboard button: text is empty")
            if bool(button.data) == bool(button.url) or len(button.data.encode()) > MAX_CALLBACK_BYTES:
                raise _Refused(400, "Bad Request: BUTTON_DATA_INVALID")
            if button.url and "." not in (urlsplit(button.url).hostname or ""):
                raise _Refused(
                    400, f"Bad Request: inline keyboard button URL '{button.url}' is invalid: Wrong HTTP URL"
                )
            found.append(button)
    return tuple(found)
