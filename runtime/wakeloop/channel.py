"""The channel port: what an adapter to a provider implements, and all that it may know of the runtime.

An adapter is one class in one module, declared by an entry point of the group `wakeloop.channels` whose name is the
channel's (`sms`, `email`, …). It is made once per process from its section of `wakeloop.toml`::

    [channels.sms]
    account_sid = "AC…"
    from_number = "+15555550199"

`Adapter.from_settings(section, services)` gets that table with the environment's secrets merged in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from wakeloop.events import Attachment

CALLBACK_CHANNEL = "callback"
"""The name under which the outbox knows the addresses of programs that are told of the end of their requests; what goes
there is no message to a person."""


class DeliveryStatus(StrEnum):
    """How far one attempt to get a message through one channel has come. A report that comes late takes none of them back."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a channel can do; the runtime asks for nothing beyond it.

    inbound: people can write back. buttons: options can be pressed instead of typed. forms: a typed answer can be filled
    in where the message stands (`Outgoing.fields`, `Incoming.values`). threads: a reply names the message it answers.
    tokens: what a person sends back can carry a token of ours. media: attachments can be sent. amends: what was sent can
    be changed afterwards (see `Amending`). idempotent: the provider takes an idempotency key, so that sending again is
    harmless. reconcile: `find_sent` can tell whether a message left before a crash. receipts: the provider reports
    delivery. max_length: how many characters one message may have; several that are said in one go are not joined beyond
    it. body_limit: how many bytes one webhook may have. ordered: of several to one address the next goes only when the
    one before has an outcome. retry_seconds: how long to wait before each further attempt, and so how many there are;
    None for the runtime's own timetable of ten minutes.
    """

    inbound: bool = False
    buttons: bool = False
    forms: bool = False
    threads: bool = False
    tokens: bool = False
    media: bool = False
    amends: bool = False
    idempotent: bool = False
    reconcile: bool = False
    receipts: bool = False
    max_length: int | None = None
    body_limit: int = 1024 * 1024
    ordered: bool = True
    retry_seconds: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Button:
    """A choice that can be pressed. value: what comes back as `Incoming.pressed`, at most 64 bytes. style: what kind of
    choice it is: "yes", "no" or "" for any other."""

    label: str
    value: str
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One part of a typed answer. name: under which it comes back in `Incoming.values`. kind: "text", "multiline" (of a
    list: an entry a line), "integer", "number", "checkbox", "date", "datetime-local", "time", "select" or "json", as the
    inputs of HTML; what comes back is text as such an input would send it. choices: (value, label), of a "select"."""

    name: str
    label: str
    kind: str
    description: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    required: bool = True
    default: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """One delivery, as the adapter gets it: `key` is the same for every attempt at it.

    `text` says everything by itself. Of a question or approval that is open (`kind`; "" of any other message), a channel
    may show more: buttons to press; fields to fill in, which are sent back with `submit` as the button that was pressed;
    link, the person's own page with the whole of it; token, to be hidden in the message so that the reply brings it back.

    thread: the provider's ids of what was said before in the same conversation with this address, theirs and ours, oldest
    first; empty if this begins one. topic: the latest subject in that thread. opening: the words that it began with.
    heard_at: when this address last wrote to us. attachments: files to send; each `url`
    is one that the provider can fetch (http, https) or holds the bytes themselves (`data:`, RFC 2397).
    """

    key: str
    address: str
    text: str
    subject: str | None = None
    thread: tuple[str, ...] = ()
    topic: str | None = None
    opening: str | None = None
    heard_at: datetime | None = None
    claimed_at: datetime
    kind: str = ""
    buttons: tuple[Button, ...] = ()
    fields: tuple[Field, ...] = ()
    submit: str | None = None
    link: str | None = None
    token: str | None = None
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A message that the provider took over earlier, as it was said."""

    provider_id: str
    address: str
    text: str
    subject: str | None = None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The provider took the message over: its own id for it, and how far it had come when it answered."""

    provider_id: str
    status: DeliveryStatus = DeliveryStatus.SENT
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class File:
    """A file that came with a message, with its bytes: the runtime keeps it, and hands agents a reference."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A message that a person sent, as the provider told it. `provider_id` is unique per channel: the dedupe key.

    reply_to: the provider's id of our message that this one answers, where the provider tells. pressed: the `value` of the
    button that was pressed; `text` is then what they said besides. values: what they filled in, by the name of the field.
    token: a token of ours that came back with it (`Outgoing.token`).
    opt_out: the person asked to be left alone (or, with False, to be written to again); `text` is then the keyword.
    help: the person sent the carriers' HELP keyword. automatic: a machine answered for them (an absence notice): it is
    kept, never answered, and answers nothing. vouched: whether it is certain that the message comes from this address; one
    that is not never settles an approval. auth: how the sender is known, in words, for the record of who decided what;
    None for the signature of the provider's request.
    attachments are files that stay where they are, files those that came with their bytes.
    """

    provider_id: str
    address: str
    text: str
    to_address: str | None = None
    subject: str | None = None
    thread: str | None = None
    reply_to: str | None = None
    pressed: str | None = None
    values: Mapping[str, str] | None = None
    token: str | None = None
    attachments: tuple[Attachment, ...] = ()
    files: tuple[File, ...] = ()
    opt_out: bool | None = None
    help: bool = False
    automatic: bool = False
    vouched: bool = True
    auth: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DeliveryUpdate:
    """What the provider reports about a message it had taken over. `error` is its code and words, if it failed."""

    provider_id: str
    status: DeliveryStatus
    error: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RawRequest:
    """An inbound HTTP request exactly as it came. `url` is the public one, rebuilt from the configured public URL or
    from the headers of a trusted proxy; header names are lower-case."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class RawResponse:
    """What to answer the provider after its request was recorded."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class ChannelServices:
    """What the runtime gives to an adapter. `webhook_url`: where the provider should call back, or None if the runtime
    has no public URL."""

    webhook_url: str | None = None


class Sender(Protocol):
    """The part of a channel that the outbox needs."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    async def send(self, message: Outgoing) -> Receipt:
        """See Channel."""
        ...

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """See Channel."""
        ...


@runtime_checkable
class Channel(Protocol):
    """An adapter to a provider."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the adapter, without any network traffic.

        Raises ConfigurationError naming the setting that is missing or wrong, and where it may be set."""
        ...

    def normalize(self, address: str) -> str:
        """The one canonical form of an address of this channel (E.164 for a phone number).

        Raises ValueError with the reason if it is none."""
        ...

    async def send(self, message: Outgoing) -> Receipt:
        """Hand the message to the provider, once.

        Raises TemporaryChannelError if the provider certainly did not take it and trying again may help (its
        `retry_after` honours the provider's word), PermanentChannelError if it never will. Any other way to fail,
        such as a lost connection after the request went out, leaves the delivery `unknown` until it is reconciled."""
        ...

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Look in the provider's own list for a message that left before a crash: same address, same text, at or
        after `claimed_at`, and none of the `known` provider ids. Only called if `capabilities.reconcile`."""
        ...

    def verify(self, request: RawRequest) -> None:
        """Check on the raw bytes, in constant time, that the provider made this request.

        Raises InvalidWebhook."""
        ...

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """What a verified request says. Raises InvalidWebhook with a 4xx status if it is malformed."""
        ...

    def respond(self, request: RawRequest) -> RawResponse:
        """What the provider wants to hear once the request is recorded."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


# ---------------------------------------------------------------------- what a channel may have besides


class Inlet(Protocol):
    """Where a channel that fetches its messages hands them in. cursor: what the last `take` of any process left, None at
    the first time."""

    cursor: str | None

    async def take(self, items: Sequence[Incoming | DeliveryUpdate], *, cursor: str | None = None) -> None:
        """Record these, then the cursor, so that after a crash something may come twice (and count once) but is never
        missed. When this returns they are committed, and the provider may be told so.

        Raises asyncio.CancelledError if another process listens by now."""
        ...


@runtime_checkable
class Listening(Protocol):
    """A channel that fetches its messages (IMAP, long polling, a socket) instead of, or beside, being called."""

    @property
    def listens(self) -> bool:
        """Whether its settings ask for that."""
        ...

    async def listen(self, inlet: Inlet) -> None:
        """Hand in what comes until cancelled. One process at a time does this, for all.

        Whatever it raises is logged, and it is called again after a while; it waits out lost connections itself only if
        it can do so without losing anything."""
        ...


@runtime_checkable
class Amending(Protocol):
    """A channel that can change what it has sent (`Capabilities.amends`)."""

    async def amend(self, sent: Sent, text: str) -> None:
        """Show `text` in place of a message about a request that has ended, without its buttons. Doing it twice does no
        harm. Raises as `send` does; a message that is gone is no error."""
        ...


@runtime_checkable
class Reacting(Protocol):
    """A channel whose provider, or whose user, wants more than the answer to the webhook: a dialog that opens, a press
    that is acknowledged."""

    async def react(self, request: RawRequest) -> None:
        """Called once after a request was recorded and answered, and never again for it: nothing may depend on it. A
        request that the provider repeats is another one. Ends within ten seconds, or is cancelled."""
        ...


@runtime_checkable
class Checking(Protocol):
    """A channel that can tell whether it works."""

    async def check(self) -> str:
        """Ask the provider whether the settings are good, without writing to anybody; as whom, in a few words.

        Raises ChannelError with what to mend."""
        ...


@runtime_checkable
class Fetching(Protocol):
    """A channel whose attachments can only be read with its credentials."""

    async def fetch(self, attachment: Attachment) -> bytes:
        """The bytes of an attachment that came through it. Raises ChannelError, PermanentChannelError if it is gone."""
        ...


@runtime_checkable
class Guiding(Protocol):
    """A channel whose provider must be told where to call."""

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        """What to enter in the provider's console: pairs of where, and what."""
        ...
