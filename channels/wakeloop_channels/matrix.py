"""The Matrix channel: an account at a homeserver that writes to people and rooms, and follows what they answer.

Set-up, settings and what becomes of encrypted rooms: docs/channels/matrix.md.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from aiohttp import ClientError
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryUpdate,
    Incoming,
    Inlet,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
    Sent,
)
from wakeloop.errors import ChannelError, InvalidWebhook, PermanentChannelError
from wakeloop.events import Attachment
from wakeloop_channels.data_urls import is_data_url, read_data_url
from wakeloop_channels.explaining import read_settings
from wakeloop_channels.matrix_api import MatrixApi
from wakeloop_channels.matrix_events import (
    FILTER,
    MESSAGE,
    MESSAGES_FILTER,
    REACTION,
    answers,
    file_content,
    in_thread,
    marks,
    objects,
    pressed,
    reaction,
    receipts,
    replacement,
    said,
    since_joined,
    target,
    text_content,
    thread_root,
    transaction,
)

MAX_LENGTH = 7_000
"""Characters of one message. An event has at most 65,536 bytes, and one that is amended has its text twice."""
SYNC_SECONDS = 30.0
GAP_PAGES = 50
ROOMS_LOOKED_AT = 5
PRESENT = frozenset({"join", "invite", "knock"})
STALE_CURSOR = frozenset({"M_UNKNOWN", "M_INVALID_PARAM"})

HINTS = {
    "homeserver": "its address, as in https://matrix.example.com",
    "access_token": "what the account got when it logged in",
    "responders": 'a table of lists, as in "!room:example.com" = ["@alice:example.com"]',
    "inviters": 'user ids, and names of servers for all their users, as in ["example.com", "@bob:example.org"]',
}

_SERVER = r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_USER = re.compile(rf"@(?P<name>[!-9;-~]+):(?P<server>{_SERVER})")
_ROOM = re.compile(rf"![!-9;-~]+(?::{_SERVER})?")  # since room version 12 without a server

log = logging.getLogger(__name__)


class MatrixSettings(BaseModel):
    """The table `[channels.matrix]`, with the secrets of the environment merged in.

    responders: who may speak for the contact whose address a room is. inviters: whose invitations are followed; None for
    those of the account's own homeserver. timeout: seconds allowed for connecting, and as many again for the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    homeserver: HttpUrl
    access_token: SecretStr = Field(min_length=1)
    responders: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    inviters: tuple[str, ...] | None = None
    listen: bool = True
    timeout: float = Field(default=10.0, gt=0, le=300)

    @field_validator("inviters", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("inviters")
    @classmethod
    def _check_inviters(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for one in value or ():
            if not _USER.fullmatch(one) and not re.fullmatch(_SERVER, one):
                raise ValueError("each is a user id or the name of a server")
        return value

    @field_validator("responders")
    @classmethod
    def _check_responders(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for room, users in value.items():
            if not _ROOM.fullmatch(room):
                raise ValueError("its keys are ids of rooms, which begin with !")
            if not all(_USER.fullmatch(user) for user in users):
                raise ValueError("it lists user ids, as in @alice:example.com")
        return value


class MatrixChannel:
    """One account. All network traffic of one instance happens on one event loop at a time; call `close` on that loop
    before leaving it."""

    name: ClassVar[str] = "matrix"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True,
        buttons=True,
        threads=True,
        media=True,
        amends=True,
        idempotent=True,
        receipts=True,
        max_length=MAX_LENGTH,
    )

    def __init__(self, settings: MatrixSettings) -> None:
        self.settings = settings
        self._api = MatrixApi(
            str(settings.homeserver), settings.access_token.get_secret_value(), settings.timeout
        )
        self._user: str | None = None

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.matrix]`; nothing is sent.

        Raises ConfigurationError with every setting that is missing or wrong and where to set it; the token is never in
        it."""
        return cls(read_settings(MatrixSettings, section, channel="matrix", title="Matrix", hints=HINTS))

    def normalize(self, address: str) -> str:
        """A user id with its server in lower case, or a room's id. Raises ValueError with the reason."""
        text = address.strip()
        if len(text.encode("utf-8", "surrogatepass")) > 255:
            raise ValueError("an id has at most 255 bytes")
        if found := _USER.fullmatch(text):
            return f"@{found['name']}:{found['server'].lower()}"
        if _ROOM.fullmatch(text):
            return text
        if text.startswith("#"):
            raise ValueError(
                "an alias may come to name another room; write the room's id, which begins with !"
            )
        raise ValueError(
            "it must be a user id, as in @alice:example.com, or a room's id, which begins with !"
        )

    async def send(self, message: Outgoing) -> Receipt:
        """Send a message as an event whose transaction id is the delivery's key: the homeserver takes that once.

        To a user in the room of their direct conversation with this account, which is made if there is none. It answers
        the last of `thread`; in a room that is an address, in the thread of the first. A file's bytes are uploaded, and
        follow as events of their own. Buttons of which it is certain what ✅ and ❌ would press get these reactions.

        Raises TemporaryChannelError for 408, 425, 429 and 5xx and if no answer came, PermanentChannelError if the
        homeserver refuses, if the person left, or if the room is encrypted."""
        room = await self._room_of(message.address)
        if await self._api.is_encrypted(room):
            raise PermanentChannelError(
                "The room is encrypted, which this channel cannot do: use a room that is not.", code=None
            )
        held = [file for file in message.attachments if is_data_url(file.url)]
        linked = [file.url for file in message.attachments if not is_data_url(file.url)]
        files = [await self._uploaded(file, number) for number, file in enumerate(held, start=1)]
        relation = await self._relation(room, message)
        content = text_content("\n".join([message.text, *linked]), buttons=message.buttons, relation=relation)
        id = await self._api.put(room, MESSAGE, message.key, content)
        for number, file in enumerate(files, start=1):
            await self._api.put(room, MESSAGE, f"{message.key}-{number}", file)
        await self._offer(room, id, message)
        return Receipt(provider_id=id, raw={"event_id": id, "room_id": room})

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Sending again does no harm, so nobody looks."""
        return None

    async def amend(self, sent: Sent, text: str) -> None:
        """Replace a message's text (m.replace). One that was removed, or cannot be seen any more, is left alone."""
        if sent.address.startswith("!"):
            rooms = [sent.address]
        else:
            rooms = (await self._api.direct_rooms(await self._me())).get(sent.address, [])
        for room in rooms:
            event = await self._api.event(room, sent.provider_id)
            if event is None:
                continue
            if event.get("content"):
                key = transaction("amend", sent.provider_id, text)
                await self._api.put(room, MESSAGE, key, replacement(sent.provider_id, text))
            return

    @property
    def listens(self) -> bool:
        """Unless `listen = false`."""
        return self.settings.listen

    async def listen(self, inlet: Inlet) -> None:
        """Follow what happens from the first time on (/sync, where `next_batch` is the cursor), and invitations of those
        who may invite. What a gap in a room's timeline left out is fetched. Raises ChannelError when the homeserver cannot
        be reached."""
        me = await self._me()
        since = inlet.cursor
        while True:
            try:
                answer = await self._api.sync(
                    since, filter=FILTER, wait=0.0 if since is None else SYNC_SECONDS
                )
            except PermanentChannelError as error:
                if since is None or error.code not in STALE_CURSOR:
                    raise
                log.warning(
                    "the homeserver does not know any more where we were; what came meanwhile is lost"
                )
                since = None
                continue
            following = answer.get("next_batch")
            if not isinstance(following, str):
                raise ChannelError("The homeserver answered /sync without next_batch.", code=None)
            # Before the cursor is recorded, for an invitation is told only once.
            await self._follow(_rooms(answer, "invite"), me)
            items = [] if since is None else await self._read(_rooms(answer, "join"), since, me)
            await inlet.take(items, cursor=following)
            since = following

    async def check(self) -> str:
        """As whom it is logged in, and at which homeserver."""
        versions = await self._api.versions()
        host = urlsplit(str(self.settings.homeserver)).hostname
        if not any(version.startswith("v1.") for version in versions):
            raise ChannelError(f"{host} does not speak Matrix v1.1 or newer; update it.", code=None)
        self._user = None
        return f"{await self._me()} at {host}"

    async def fetch(self, attachment: Attachment) -> bytes:
        """The bytes of a file that somebody sent."""
        return await self._api.download(attachment.url)

    def verify(self, request: RawRequest) -> None:
        """Refuse: messages are fetched."""
        raise InvalidWebhook("The Matrix channel takes no webhooks: it fetches its messages.", status=404)

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """Refuse, as `verify` does."""
        self.verify(request)
        return []

    def respond(self, request: RawRequest) -> RawResponse:
        """Not found."""
        return RawResponse(status=404)

    async def close(self) -> None:
        """Close the connections. The channel may be used again afterwards."""
        await self._api.close()

    # ------------------------------------------------------------------ going out

    async def _me(self) -> str:
        if self._user is None:
            self._user = await self._api.whoami()
        return self._user

    async def _room_of(self, address: str) -> str:
        """The room for an address; of a person, the newest direct one in which they and this account still are."""
        if address.startswith("!"):
            return address
        me = await self._me()
        rooms = (await self._api.direct_rooms(me)).get(address, [])
        has_left = False
        for room in rooms[:ROOMS_LOOKED_AT]:
            theirs, ours = await asyncio.gather(
                self._api.membership(room, address), self._api.membership(room, me)
            )
            if theirs in PRESENT and ours == "join":
                return room
            has_left = has_left or theirs in ("leave", "ban")
        if has_left:
            raise PermanentChannelError(
                "The person left the conversation, or declined it; they can begin another.", code=None
            )
        room = await self._api.create_direct(address)
        await self._api.remember_direct(me, address, room)
        return room

    async def _relation(self, room: str, message: Outgoing) -> dict[str, Any] | None:
        if not message.thread:
            return None
        last = message.thread[-1]
        if not message.address.startswith("!"):
            return answers(last)
        first = await self._api.event(room, message.thread[0])
        root = thread_root(first) if first is not None else None
        return in_thread(root, last) if root is not None else None

    async def _uploaded(self, file: Attachment, number: int) -> dict[str, Any]:
        try:
            content_type, data = read_data_url(file.url)
        except ValueError as error:
            raise PermanentChannelError(f"Attachment {number} cannot be sent: {error}.", code=None) from error
        name = file.name or f"file-{number}"
        url = await self._api.upload(data, content_type, name)
        return file_content(name, content_type, url, len(data))

    async def _offer(self, room: str, id: str, message: Outgoing) -> None:
        """Put the reactions there with which a button can be pressed. The message is out, and says all by itself, so a
        failure is no matter."""
        for mark in marks(message.buttons):
            try:
                await self._api.put(
                    room, REACTION, transaction("offer", message.key, mark), reaction(id, mark)
                )
            except (ChannelError, ClientError, TimeoutError) as error:
                log.debug("a reaction was not put there: %s", error)
                return

    # ------------------------------------------------------------------ coming in

    async def _follow(self, rooms: Mapping[str, Mapping[str, Any]], me: str) -> None:
        """Join the rooms to which somebody invites who may; remember the direct ones."""
        for room, invited in rooms.items():
            state = invited.get("invite_state")
            events = objects(state, "events") if isinstance(state, Mapping) else []
            ours = [event for event in events if event.get("state_key") == me]
            inviter, content = (ours[-1].get("sender"), ours[-1].get("content")) if ours else (None, None)
            if not isinstance(inviter, str) or not self._may_invite(inviter, me):
                log.info("an invitation is not followed: channels.matrix.inviters does not name who sent it")
                continue
            try:
                await self._api.join(room)
            except PermanentChannelError as error:
                log.warning("an invitation could not be followed: %s", error)
                continue
            if isinstance(content, Mapping) and content.get("is_direct") is True:
                await self._api.remember_direct(me, self._lenient(inviter), room)

    def _may_invite(self, user: str, me: str) -> bool:
        inviters = self.settings.inviters
        server = user.partition(":")[2]
        return server == me.partition(":")[2] if inviters is None else user in inviters or server in inviters

    async def _read(
        self, rooms: Mapping[str, Mapping[str, Any]], since: str, me: str
    ) -> list[Incoming | DeliveryUpdate]:
        items: list[Incoming | DeliveryUpdate] = []
        for room, happened in rooms.items():
            timeline = happened.get("timeline")
            if isinstance(timeline, Mapping):
                for event in await self._events(room, timeline, since, me):
                    item = await self._item(event, room, me)
                    items += [item] if item is not None else []
            ephemeral = happened.get("ephemeral")
            items += receipts(ephemeral, me=me) if isinstance(ephemeral, Mapping) else ()
        return items

    async def _events(
        self, room: str, timeline: Mapping[str, Any], since: str, me: str
    ) -> Sequence[Mapping[str, Any]]:
        """What happened in a room, oldest first, without gaps; of one that was just joined, only since the invitation."""
        events = objects(timeline, "events")
        fresh = since_joined(events, me)
        if fresh is not None:
            return fresh
        start = timeline.get("prev_batch")
        if timeline.get("limited") is not True or not isinstance(start, str):
            return events
        missed: list[Mapping[str, Any]] = []
        for _ in range(GAP_PAGES):
            page = await self._api.messages(room, start=start, end=since, filter=MESSAGES_FILTER)
            missed += objects(page, "chunk")
            following = page.get("end")
            if not isinstance(following, str) or following == start:
                break
            start = following
        else:
            log.warning("a room had more messages than can be fetched; the oldest are left out")
        return [*reversed(missed), *events]

    async def _item(self, event: Mapping[str, Any], room: str, me: str) -> Incoming | None:
        sender = event.get("sender")
        if not isinstance(sender, str):
            return None
        is_responder = sender in self.settings.responders.get(room, ())
        speaks_for = room if is_responder else self._lenient(sender)
        if (aimed := target(event, me=me)) is not None:
            ours = await self._api.event(room, aimed[0])
            return (
                None if ours is None else pressed(event, ours, aimed[1], room, me=me, speaks_for=speaks_for)
            )
        return said(event, room, me=me, speaks_for=speaks_for)

    def _lenient(self, user: str) -> str:
        """Whoever has an id that is none stays as they are: they match nobody."""
        try:
            return self.normalize(user)
        except ValueError:
            return user.replace("\0", "\ufffd")


def _rooms(answer: Mapping[str, Any], kind: str) -> dict[str, Mapping[str, Any]]:
    rooms = answer.get("rooms")
    found = rooms.get(kind) if isinstance(rooms, Mapping) else None
    pairs: Iterable[tuple[Any, Any]] = found.items() if isinstance(found, Mapping) else ()
    return {room: one for room, one in pairs if isinstance(one, Mapping)}
