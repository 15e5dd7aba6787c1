"""Reads what came with messages: files that are kept here, bytes within a URL, and what a provider keeps."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from wakeloop.channel import Fetching
from wakeloop.engine.values import VALUE_LIMIT_BYTES
from wakeloop.errors import NotFound, NotPossible, TemporaryChannelError, ValueTooLarge
from wakeloop.events import Attachment
from wakeloop.steps import Retry, Step, StepOptions
from wakeloop.store import files, received
from wakeloop.store.database import Database

KEPT = "wakeloop:files/"
"""What the URL of a file that is kept here begins with, before its id."""

READ_LIMIT_BYTES = (VALUE_LIMIT_BYTES - 2) // 4 * 3
"""What a step can give: its result is kept in the journal, in base64."""

PATIENCE_SECONDS = 5.0
READING = StepOptions(
    name="read", retries=4, backoff=Retry(on=(TemporaryChannelError, TimeoutError, OSError)), timeout=60.0
)

_ATTACHMENTS = TypeAdapter(tuple[Attachment, ...])


def kept_id(attachment: Attachment) -> UUID | None:
    """The id of a file that is kept here; None if it is not, or no file at all."""
    try:
        return UUID(attachment.url.removeprefix(KEPT)) if attachment.url.startswith(KEPT) else None
    except ValueError:
        return None


class Attachments:
    """Reads attachments for agents.

    An agent, or a model within it, may name any address: so what a provider keeps is fetched, with the channel's
    credentials, only if that very attachment came with a message of the agent's session. A file that is kept here is
    known by its id, which nobody can guess.
    """

    def __init__(self, *, database: Database, channels: Mapping[str, Any]) -> None:
        self._database = database
        self._channels = channels

    def step(self, session: int) -> Step[..., bytes]:
        """`read`, for an agent of this session, as a step."""
        return Step(functools.partial(self.read, session), READING)

    async def read(self, session: int, attachment: Attachment) -> bytes:
        """The bytes of an attachment, for an agent of this session.

        Raises NotFound if it is not there, NotPossible if it cannot be read from here, ValueTooLarge for more than the
        journal takes, ChannelError as the provider has it."""
        inline = _inline(attachment)
        if inline is not None:
            return _fitting(inline, attachment)
        loop = asyncio.get_running_loop()
        if attachment.url.startswith(KEPT):
            return await loop.run_in_executor(None, self._kept, attachment)
        channel = self._channels.get(attachment.channel or "")
        if not await loop.run_in_executor(None, self._came_in, session, attachment):
            raise NotPossible(
                f"{_called(attachment)} came with no message of this session: ctx.read reads what people sent; fetch "
                "anything else in a step of your own"
            )
        if not isinstance(channel, Fetching):
            raise NotPossible(
                f"{_called(attachment)} stays with the provider of the channel {attachment.channel}, which cannot fetch: "
                "fetch its url in a step of your own"
            )
        return _fitting(await channel.fetch(attachment), attachment)

    def _kept(self, attachment: Attachment) -> bytes:
        id = kept_id(attachment)
        if id is None:
            raise NotFound(f"{attachment.url[:200]!r} is no file that is kept here")

        def look() -> bytes:
            with self._database.read() as connection:
                found = files.facts(connection, id)
                if found is None:
                    raise NotFound(f"there is no file {id}")
                _check(found.size, attachment)
                return files.data(connection, id)

        return self._database.retrying(look, seconds=PATIENCE_SECONDS)

    def _came_in(self, session: int, attachment: Attachment) -> bool:
        def look() -> list[str]:
            with self._database.read() as connection:
                return received.attached(connection, session)

        wanted = (attachment.channel, attachment.url)
        found = self._database.retrying(look, seconds=PATIENCE_SECONDS)
        return any(
            (one.channel, one.url) == wanted for text in found for one in _ATTACHMENTS.validate_json(text)
        )


def _inline(attachment: Attachment) -> bytes | None:
    """The bytes in its own URL, if it is one that has them."""
    try:
        return attachment.data
    except ValueError as error:
        raise NotFound(f"{attachment.url[:50]!r} has no data that can be read: {error}") from None


def _fitting(data: bytes, attachment: Attachment) -> bytes:
    _check(len(data), attachment)
    return data


def _check(size: int, attachment: Attachment) -> None:
    if size <= READ_LIMIT_BYTES:
        return
    advice = "fetch it in a step of your own, and return what you make of it"
    if attachment.url.startswith(KEPT):
        path = attachment.url.removeprefix("wakeloop:")
        advice = f"get it from /api/v1/{path} in a step of your own, and return what you make of it"
    raise ValueTooLarge(
        f"{_called(attachment)} is {size:,} bytes, and ctx.read gives at most {READ_LIMIT_BYTES:,}, as its result is kept in "
        f"the journal: {advice}",
        where="ctx.read", size=size, limit=READ_LIMIT_BYTES,
    )  # fmt: skip


def _called(attachment: Attachment) -> str:
    return f"the attachment {attachment.name!r}" if attachment.name else "the attachment"
