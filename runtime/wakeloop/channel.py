"""The channel port: what an adapter to a provider implements, and all that it may know of the runtime.

An adapter is one class in one module, declared by an entry point of the group `wakeloop.channels` whose name is the
channel's (`sms`, `email`, …). It is made once per process from its section of `wakeloop.toml`::

    [channels.sms]
    account_sid = "AC…"
    from_number = "+15555550199"

`Adapter.from_settings(section, services)` gets that table with the environment's secrets merged in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from wakeloop.events import Attachment

CALLBACK_CHANNEL = "callback"
"""The name under which the outbox knows the addresses of programs that are told of the end of their requests; what goes
there is no message to a person."""


class DeliveryStatus(StrEnum):
    """How far one attempt to get a message through one channel has come. `RANK` orders them: updates only go forward."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a channel can do; the runtime asks for nothing beyond it.

    inbound: people can write back. buttons: options can be pressed instead of typed. threads: a reply names the
    message it answers. tokens: what a person sends back can carry a token of ours. idempotent: the provider takes an idempotency key, so that sending again is harmless.
    reconcile: `find_sent` can tell whether a message left before a crash. receipts: the provider reports delivery.
    max_length: how many characters one message may have; several that are said in one go are not joined beyond it.
    ordered: of several to one address the next goes only when the one before has an outcome. retry_seconds: how long to
    wait before each further attempt, and so how many there are; None for the runtime's own timetable of ten minutes.
    """

    inbound: bool = False
    buttons: bool = False
    threads: bool = False
    tokens: bool = False
    idempotent: bool = False
    reconcile: bool = False
    receipts: bool = False
    max_length: int | None = None
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
class Outgoing:
    """One delivery, as the adapter gets it: `key` is the same for every attempt at it.

    `text` says everything by itself. Of a question or approval that is open, a channel may show more: buttons to press;
    link, the person's own page with the whole of it; token, to be hidden in the message so that the reply brings it back.
    """

    key: str
    address: str
    text: str
    subject: str | None = None
    thread: str | None = None
    claimed_at: datetime
    buttons: tuple[Button, ...] = ()
    link: str | None = None
    token: str | None = None


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The provider took the message over: its own id for it, and how far it had come when it answered."""

    provider_id: str
    status: DeliveryStatus = DeliveryStatus.SENT
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A message that a person sent, as the provider told it. `provider_id` is unique per channel: the dedupe key.

    reply_to: the provider's id of our message that this one answers, where the provider tells. pressed: the `value` of the
    button that was pressed. token: a token of ours that came back with it (`Outgoing.token`).
    opt_out: the person asked to be left alone (or, with False, to be written to again); `text` is then the keyword.
    help: the person sent the carriers' HELP keyword.
    """

    provider_id: str
    address: str
    text: str
    to_address: str | None = None
    thread: str | None = None
    reply_to: str | None = None
    pressed: str | None = None
    token: str | None = None
    attachments: tuple[Attachment, ...] = ()
    opt_out: bool | None = None
    help: bool = False
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
