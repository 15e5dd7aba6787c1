"""An entry of a session's conversation, as a handler reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import AwareDatetime

from wakeloop.events import Message

CONTACT = "contact"
"""The role of what a person said."""

AGENT = "agent"
"""The role of what the session said to a person: a message, a question, a request for approval."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that was said, in a conversation or beside it to a model.

    seq: its position, from 1. role: `contact` (a person said it to the session), `agent` (the session said it to a
    person), or the one that it was appended with. content: the words of a person or to one; else the JSON value that was
    appended. at: when it was recorded. contact: who said it, or to whom it was said. message: the whole message, if it
    is one. request: the id of the request that asked for it, or that it answers.
    """

    seq: int
    role: str
    content: Any
    at: AwareDatetime
    contact: str | None = None
    message: Message | None = None
    request: str | None = None

    @property
    def text(self) -> str:
        """The content, if it is a text; else nothing."""
        return self.content if isinstance(self.content, str) else ""
