"""The session's conversation, as a handler reads it and adds to it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

from wakeloop.engine.commands import AppendEntry
from wakeloop.engine.journal import Kind
from wakeloop.engine.values import JSON_CODEC, codec_for, plain
from wakeloop.entries import AGENT, CONTACT, Entry
from wakeloop.errors import NotFound

if TYPE_CHECKING:
    from wakeloop.engine.execution import Execution

READ_LIMIT = 1_000
"""Entries that are read at once."""

CHUNK = 100
"""Entries that are read at once while all of them are gone through."""

_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_SPAN = codec_for(tuple[int, int])


class Conversation:
    """What was said between the session, people and models, in the order in which the session said and heard it.

    What people say to the session is in it when the session takes it up, and what it sends or asks them, without being
    appended; what it says to models and hears of them is appended by `append`. Entries have positions from 1; none is
    ever changed, moved or given another position. A session's runs share it.

    The journal of a run holds the positions that it read, not what stands there: so a replay reads the same entries
    again, whatever was added since.
    """

    def __init__(self, run: Execution) -> None:
        self._run = run

    def append(self, role: str, content: Any) -> None:
        """Put an entry at the end, with everything else that the handler does up to where it waits: once, and not again
        in a replay.

        role: whose words they are to the program, such as `user`, `assistant`, `system` or `tool`: up to 32 of a-z, 0-9,
        `_` and `-`, and neither `contact` nor `agent`, which tell what was said by and to people. content: a JSON value
        or a pydantic model, such as a text or a list of parts; it is read back as JSON.

        Raises ValueError for another role, NotSerializable for content that is no JSON, ValueTooLarge for more than 1 MiB
        of it."""
        if not isinstance(role, str) or not _ROLE.fullmatch(role) or role in (AGENT, CONTACT):
            raise ValueError(
                f"append({role!r}, …): a role is up to 32 characters of a-z, 0-9, _ and -, beginning with a letter, such as "
                f"'user' or 'assistant'; {CONTACT!r} and {AGENT!r} are for what is said by and to people, which is in the "
                "conversation by itself"
            )
        text = JSON_CODEC.dump(plain(content), f"an entry of the conversation ({role})")
        self._run.tell(AppendEntry(role=role, content=text))

    async def last(self, count: int) -> tuple[Entry, ...]:
        """The newest `count` entries (at most 1,000), oldest first; fewer if there are not as many."""
        if not isinstance(count, int) or not 1 <= count <= READ_LIMIT:
            raise ValueError(
                f"last({count!r}): give how many entries, from 1 to {READ_LIMIT:,}; `async for` goes through all"
            )
        return await self._read({"last": count})

    async def read(self, first: int, last: int) -> tuple[Entry, ...]:
        """The entries from position `first` to position `last`, both included, at most 1,000: those of them that there
        are, oldest first."""
        if not isinstance(first, int) or not isinstance(last, int) or first < 1 or last < first:
            raise ValueError(
                f"read({first!r}, {last!r}): positions are numbers from 1, and the last is not before the first"
            )
        if last - first >= READ_LIMIT:
            raise ValueError(
                f"read({first!r}, {last!r}): at most {READ_LIMIT:,} entries are read at once; `async for` goes through all"
            )
        return await self._read({"first": first, "to": last})

    async def length(self) -> int:
        """The position of the newest entry, which is how many there have been; 0 if there is none."""
        return (await self._span({}))[1]

    async def __aiter__(self) -> AsyncIterator[Entry]:
        """All entries that there are when it begins, oldest first. A hundred are in memory at a time; but a run that was
        dropped from memory reads again, at once, what it has gone through."""
        first, end = await self._span({})
        for begin in range(first, end + 1, CHUNK):
            for entry in await self._read({"first": begin, "to": min(begin + CHUNK - 1, end)}):
                yield entry

    async def _span(self, match: dict[str, Any]) -> tuple[int, int]:
        return cast("tuple[int, int]", await self._run.wait(Kind.CONVERSATION, "", match, _SPAN))

    async def _read(self, match: dict[str, Any]) -> tuple[Entry, ...]:
        first, last = await self._span(match)
        found = self._run.surroundings.entries(first, last)
        if len(found) != last - first + 1:
            self._run.stop(
                NotFound(
                    f"run {self._run.facts.id} cannot go on: it has read the entries {first} to {last} of the conversation of "
                    f"{self._run.facts.session}, and {len(found) or 'none'} of them are in the store. Nothing deletes them "
                    "while a run of the session is open or parked: they were deleted by hand. Put them back, then "
                    "`wakeloop retry`, or begin anew by `wakeloop restart`"
                )
            )
        return found
