"""What Discord is given to show: text that is read as it was written, and components below it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from wakeloop.channel import Button, Outgoing
from wakeloop_channels.text import well_formed

MAX_CHARACTERS = 2000
"""Of one message, backslashes counted: https://discord.com/developers/docs/resources/message#create-message."""

MAX_BUTTONS = 25
BUTTONS_PER_ROW = 5
MAX_LABEL = 80
MAX_LINK = 512
MAX_COMMENT = 4000

ACTION_ROW, BUTTON, TEXT_INPUT, LABEL = 1, 2, 4, 18
PRIMARY, SECONDARY, SUCCESS, DANGER, LINK = 1, 2, 3, 4, 5
PARAGRAPH = 2
STYLES = {"yes": SUCCESS, "no": DANGER}

# A custom_id says by its first letters what a press means; up to 100 characters.
CHOICE = "b:"
"""The choice behind it was made."""
COMMENT = "c:"
"""The choice behind it is to be made with a comment: a dialog opens."""
ANSWER = "a:"
"""An answer is to be written: a dialog opens."""

_URL = re.compile(r"(https?://[^\s<>]+)")
_MARKUP = re.compile(r"[\\*_~`|<\[\]]")
_LINE_START = re.compile(r"^(\s*)(#|-|>)", re.MULTILINE)
_NUMBERED = re.compile(r"^(\s*\d+)\.", re.MULTILINE)


def escaped(text: str) -> str:
    """The text with a backslash before whatever Discord would read as markup or as a mention, except in links, which it
    shows as they are."""
    text = _NUMBERED.sub(r"\1\\.", _LINE_START.sub(r"\1\\\2", _escape_marks(well_formed(text))))
    return text


def fitting(text: str) -> str:
    """The text escaped, and cut if that is longer than Discord takes."""
    found = escaped(text)
    return found if len(found) <= MAX_CHARACTERS else found[: MAX_CHARACTERS - 1].rstrip("\\") + "…"


def components(message: Outgoing) -> list[dict[str, Any]]:
    """The rows of buttons: the choices, a refusal with a comment, an answer in words, the person's page."""
    extra = []
    refusal = next((button for button in message.buttons if button.style == "no"), None)
    if message.kind == "approval" and refusal is not None:
        extra.append(_button(f"{refusal.label} with a comment…", COMMENT + refusal.value, SECONDARY))
    if message.kind == "question":
        extra.append(_button("Answer…", ANSWER, PRIMARY))
    if message.link is not None and _is_link(message.link):
        extra.append({"type": BUTTON, "style": LINK, "label": "Open page", "url": message.link})
    shown = [_choice(button) for button in message.buttons[: MAX_BUTTONS - len(extra)]] + extra
    return [
        {"type": ACTION_ROW, "components": shown[start : start + BUTTONS_PER_ROW]}
        for start in range(0, len(shown), BUTTONS_PER_ROW)
    ]


def dialog(custom_id: str) -> dict[str, Any]:
    """The dialog that a press on a button with this id opens: one field for words. It comes back under the same id."""
    title, label = ("Your answer", "Answer") if custom_id.startswith(ANSWER) else ("Your decision", "Comment")
    field = {
        "type": TEXT_INPUT,
        "custom_id": "text",
        "style": PARAGRAPH,
        "max_length": MAX_COMMENT,
        "required": True,
    }
    return {
        "custom_id": custom_id,
        "title": title,
        "components": [{"type": LABEL, "label": label, "component": field}],
    }


def _choice(button: Button) -> dict[str, Any]:
    return _button(button.label, CHOICE + button.value, STYLES.get(button.style, SECONDARY))


def _button(label: str, custom_id: str, style: int) -> dict[str, Any]:
    label = well_formed(label)
    if len(label) > MAX_LABEL:
        label = label[: MAX_LABEL - 1] + "…"
    return {"type": BUTTON, "style": style, "label": label, "custom_id": custom_id}


def _escape_marks(text: str) -> str:
    parts = _URL.split(text)
    parts[::2] = [_MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def _is_link(url: str) -> bool:
    return len(url) <= MAX_LINK and urlsplit(url).scheme in {"http", "https"}
