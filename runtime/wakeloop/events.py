"""What wakes an agent: recorded events, immutable and the same in every replay."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Annotated, Literal, Self
from urllib.parse import unquote_to_bytes

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter
from pydantic_core import from_json, to_json

# A type, a subtype, and parameters such as charset=utf-8 (RFC 9110, section 8.3.1); no quoted ones.
_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*", re.ASCII)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class Tick(_Record):
    """An occurrence of a schedule.

    nominal: when the schedule says it happens. actual: when it was fired, at or after that.
    missed: earlier occurrences that this one stands for, because nothing was running then (`misfire="fire_once"`),
    oldest first, at most 100 of them; `missed_count` counts them all.
    """

    kind: Literal["tick"] = "tick"
    nominal: AwareDatetime
    actual: AwareDatetime
    schedule: str = ""
    tz: str = "UTC"
    missed: tuple[AwareDatetime, ...] = ()
    missed_count: int = 0


class Attachment(_Record):
    """A file that goes or came with a message, by reference. Of one that came, `url` is the provider's, and may need its
    credentials, or wakeloop's own (`wakeloop:files/…`); `ctx.read` reads either. channel: through which it came.

    One that is to go has an address that its provider can fetch (https), or its bytes: see `from_bytes`."""

    url: str
    content_type: str = "application/octet-stream"
    name: str | None = None
    channel: str | None = None

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str, content_type: str) -> Self:
        """A file to be sent that has its bytes with it, in a `data:` URL (RFC 2397). It is kept in the journal, so it must
        be small: up to about 700 KB; anything larger goes by the address at which it can be fetched.

        Raises ValueError for a content type that is none, such as "pdf" for "application/pdf"."""
        if _CONTENT_TYPE.fullmatch(content_type) is None:
            raise ValueError(f'{content_type!r} is no content type; write one such as "application/pdf"')
        body = base64.b64encode(data).decode()
        return cls(url=f"data:{content_type};base64,{body}", content_type=content_type, name=name)

    @property
    def data(self) -> bytes | None:
        """The bytes that a `data:` URL holds; None for one of another kind. Raises ValueError if it is malformed."""
        scheme, colon, rest = self.url.partition(":")
        if not colon or scheme.lower() != "data":
            return None
        head, comma, body = rest.partition(",")
        if not comma:
            raise ValueError("a data: URL has a comma before its data (RFC 2397)")
        raw = unquote_to_bytes(body)
        return base64.b64decode(raw, validate=True) if head.lower().endswith(";base64") else raw


class Message(_Record):
    """Something said, by a person (`from_` is the contact's id) or to one (`to` is the contact's id).

    vouched: whether it is certain that it comes from them. Of a mail that its receiving server did not verify it is not:
    whoever knows their address can have written it."""

    kind: Literal["message"] = "message"
    id: str
    text: str
    from_: str | None = None
    to: str | None = None
    channel: str
    at: AwareDatetime
    subject: str | None = None
    attachments: tuple[Attachment, ...] = ()
    vouched: bool = True


ANY_SIGNAL = "*"
"""Where a type of signal stands: whatever its type."""


class Signal(_Record):
    """Something that happened outside, in the terms of CloudEvents 1.0: `type`, `source`, `id`, `subject`, `time`."""

    kind: Literal["signal"] = "signal"
    type: str = Field(min_length=1)
    data: JsonValue = None
    id: str
    source: str = "wakeloop"
    subject: str | None = None
    time: AwareDatetime


class Call(_Record):
    """A start by hand, through the API, or by another agent. `by` is the parent run's id, if there is one."""

    kind: Literal["call"] = "call"
    input: JsonValue = None
    by: str | None = None


Event = Annotated[Tick | Message | Signal | Call, Field(discriminator="kind")]
EVENT: TypeAdapter[Tick | Message | Signal | Call] = TypeAdapter(Event)


def dump_event(event: Tick | Message | Signal | Call) -> str:
    """The event as JSON text, without what is at its default."""
    text = event.model_dump_json(exclude_defaults=True)
    return f'{{"kind":"{event.kind}"{text[1:] if text == "{}" else "," + text[1:]}'


def begin_tick(text: str, now: datetime) -> str:
    """A tick's text that was written before its time, with the time at which it is fired. Thousands of one instant are."""
    return to_json(from_json(text) | {"actual": now}).decode()


def load_event(text: str | bytes) -> Tick | Message | Signal | Call:
    """The event that `dump_event` wrote."""
    return EVENT.validate_json(text)
