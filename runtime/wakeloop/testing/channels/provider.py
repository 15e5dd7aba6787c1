"""What the conformance suite needs to know of a provider: the stand-in that an adapter is tested against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from wakeloop.channel import Channel, ChannelServices, DeliveryStatus, RawRequest


class Fault(StrEnum):
    """What goes wrong with the next message.

    BUSY: it is not taken for now. REFUSED: it is refused for good. DOWN: nobody listens any more, until the test ends.
    SLOW: it is taken, and the answer comes later than the adapter waits. LOST: it is taken, and the connection breaks
    before the answer."""

    BUSY = "busy"
    REFUSED = "refused"
    DOWN = "down"
    SLOW = "slow"
    LOST = "lost after taking"


@dataclass(frozen=True, kw_only=True)
class Took:
    """A message that the provider took, as the person at `address` sees it now: `text` without markup, quoting and what
    the channel itself puts around it. buttons: the labels they can press. attachments: one entry for each file that came
    with it, its name, its URL or whatever else tells it."""

    provider_id: str
    address: str
    text: str
    buttons: tuple[str, ...] = ()
    attachments: tuple[str, ...] = ()


class Provider:
    """A stand-in for the provider, and the adapter wired to it. Derive from it, and set or override what the adapter's
    capabilities ask for; the suite says so if something is missing.

    channel: the adapter under test; its timeout should be a fraction of a second, for SLOW is waited out. address: a
    person of this channel, in the canonical form. settings, services: what `channel` was made from. secrets: what must
    never be shown. file_url: a file that can be fetched while the test runs. cursor: from where an adapter that fetches
    goes on in a test; None if it takes all that there is when it begins.

    The suite drives the adapter's coroutines from an event loop that stands still between two calls, so the stand-in
    runs in threads or a process of its own. What people do (`message`, `press`, `fill`, `receipt`) gives the webhook that
    the provider makes of it, signed as it would sign it; or None if it lies ready for the adapter to fetch instead.
    """

    channel: Channel
    address: str
    settings: Mapping[str, Any] = {}
    services: ChannelServices = ChannelServices()
    secrets: Sequence[str] = ()
    file_url: str = "https://files.example.com/plan.pdf"
    cursor: str | None = None

    def sent(self) -> Sequence[Took]:
        """Every message that the provider has taken from the adapter, oldest first, as it stands now."""
        raise self._missing("sent", "every channel")

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        """Let the next message fail like this; `retry_after` are the seconds that BUSY asks to wait."""
        raise self._missing("fail_next", "a channel with network = True")

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        """Somebody (`address`, unless said otherwise) writes this; if `answering` is the provider's id of a message of
        ours, as the reply to it that their program makes."""
        raise self._missing("message", "capabilities.inbound")

    def repeated(self, request: RawRequest) -> RawRequest:
        """The same webhook as the provider sends it once more, unsure whether it came through."""
        return request

    def signed(self, body: bytes, like: RawRequest) -> RawRequest:
        """A webhook like that one with another body, signed by the provider's rules."""
        raise self._missing("signed", "a suite with webhooks = True")

    def tampered(self, request: RawRequest) -> Sequence[RawRequest]:
        """Forgeries of a webhook, one for each way there is: no signature, one by another secret, and, where they are
        signed, another body, another URL, another time."""
        raise self._missing("tampered", "a suite with webhooks = True")

    def replayed_old(self, request: RawRequest) -> RawRequest:
        """The same webhook with a good signature, from longer ago than the provider's rules allow."""
        raise self._missing("replayed_old", "a suite with timed_signatures = True")

    def receipt(self, provider_id: str, status: DeliveryStatus) -> RawRequest | None:
        """The provider tells how far a message has come."""
        raise self._missing("receipt", "capabilities.receipts")

    def press(self, provider_id: str, label: str) -> RawRequest | None:
        """The person presses the button with that label under that message. What the button carries must be taken from
        what the adapter sent."""
        raise self._missing("press", "capabilities.buttons")

    def fill(self, provider_id: str, values: Mapping[str, str]) -> RawRequest | None:
        """The person fills these in, by the name of the field, under that message, and submits it."""
        raise self._missing("fill", "capabilities.forms")

    def restarted(self) -> Channel:
        """The adapter as another process would make it, with nothing in memory."""
        return type(self.channel).from_settings(self.settings, self.services)

    def _missing(self, name: str, needed_for: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__}.{name} is needed for {needed_for}; its docstring says what it does"
        )
