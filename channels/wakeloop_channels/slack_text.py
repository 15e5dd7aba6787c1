"""Text to and from Slack: what is said is shown as it is, and what people write is read as they see it.

Messages carry their text twice. `text`, of which notifications are made, is mrkdwn, in which &, < and > must be escaped
(https://docs.slack.dev/messaging/formatting-message-text); the block that is shown is rich text, in which nothing has a
meaning beside itself: no *asterisk* makes bold, no ~tilde~ strikes out, no @name calls anybody. So an approval shows its
arguments to the letter. Only plain http(s) addresses are made links, and a link shows the very address it leads to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

ELEMENT_CHARACTERS = 3000
"""So many characters one element of rich text has at most. Slack documents this for the text of a section."""

_URL = re.compile(r"https?://[A-Za-z0-9][!-;=?-\[\]_a-z~]*", re.ASCII)
_TRAILING = ".,;:!?'\""
_MARK = re.compile(r"<([^<>]*)>")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


def escape(text: str) -> str:
    """The text as mrkdwn that shows it: no mention, no link and no date can be in it."""
    for entity, character in reversed(_ENTITIES):
        text = text.replace(character, entity)
    return text


def unescape(text: str) -> str:
    """What `escape` made of it, undone."""
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters of the text, on one line, never none."""
    text = " ".join(text.split()) or "–"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def rich_text(text: str, *, title: str | None = None) -> dict[str, Any]:
    """The block that shows a text exactly, under a title in bold."""
    elements = [] if not title else [{"type": "text", "text": f"{title}\n", "style": {"bold": True}}]
    elements += _elements(text or " ")
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]}


def _elements(text: str) -> Iterator[dict[str, Any]]:
    done = 0
    for found in _URL.finditer(text):
        url = found[0].rstrip(_TRAILING)
        while url.endswith(")") and url.count(")") > url.count("("):
            url = url[:-1].rstrip(_TRAILING)
        if len(url) > ELEMENT_CHARACTERS or len(url) <= len("https://"):
            continue
        yield from _pieces(text[done : found.start()])
        yield {"type": "link", "url": url}
        done = found.start() + len(url)
    yield from _pieces(text[done:])


def _pieces(text: str) -> Iterator[dict[str, Any]]:
    for start in range(0, len(text), ELEMENT_CHARACTERS):
        yield {"type": "text", "text": text[start : start + ELEMENT_CHARACTERS]}


def read(text: str, own: str | None = None) -> str:
    """What somebody wrote, as they see it. own: the app's user id, whose mentions are left out.

    A link shows its words and, unless they are its address, that too; a mention shows a name where Slack tells it."""
    if own is not None:
        text = re.sub(rf"<@{re.escape(own)}(?:\|[^<>]*)?>[:,]?[ \t]?", "", text)
    return unescape(_MARK.sub(lambda found: _shown(found[1]), text)).strip()


def mentions(text: str, user: str) -> bool:
    """Whether a text calls somebody by a mention."""
    return f"<@{user}>" in text or f"<@{user}|" in text


def _shown(mark: str) -> str:
    target, _, label = mark.partition("|")
    if target.startswith(("@", "#")):
        return target[0] + label.lstrip("@#") if label else target
    if target.startswith("!"):
        return label or "@" + target[1:].partition("^")[0]
    address = target.removeprefix("mailto:").removeprefix("tel:")
    bare = re.sub(r"^https?://", "", address).rstrip("/")
    return address if label.rstrip("/") in ("", bare, address.rstrip("/")) else f"{label} ({address})"
