"""The console channel: what an agent says appears on the terminal, and `wakeloop reply CONTACT TEXT` answers.

For trying an agent without an account anywhere. An address is any name; a contact's own id will do::

    [contacts.alice]
    console = "alice"
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryUpdate,
    Incoming,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
)
from wakeloop.errors import InvalidWebhook, TemporaryChannelError
from wakeloop_channels.explaining import refuse_settings


class ConsoleChannel:
    """Writes each message to standard error as one block, so that standard output stays free for data."""

    name: ClassVar[str] = "console"
    capabilities: ClassVar[Capabilities] = Capabilities(inbound=True)

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel; it has no settings.

        Raises ConfigurationError if there are any."""
        refuse_settings(section, channel=cls.name)
        return cls()

    def normalize(self, address: str) -> str:
        """The name with its white space collapsed. Raises ValueError if nothing printable is left."""
        name = " ".join(address.split())
        if not name:
            raise ValueError("a console address is any name, but not an empty one")
        if not name.isprintable():
            raise ValueError("a console address cannot have control characters in it")
        return name

    async def send(self, message: Outgoing) -> Receipt:
        """Print the message. Its id is made from `message.key`, so the same delivery always has the same one.

        Raises TemporaryChannelError if there is no terminal to write to."""
        stream = sys.stderr
        if stream is None or stream.closed:
            raise TemporaryChannelError(
                "There is no standard error to print to: this process has no terminal."
            )
        encoding = stream.encoding or "utf-8"
        # One write, so that blocks of several threads do not mix; a narrow terminal encoding must not lose the message.
        stream.write(_block(message).encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
        return Receipt(provider_id=f"console-{message.key}")

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Nobody keeps what was printed."""
        return None

    def verify(self, request: RawRequest) -> None:
        """Refuse: no provider calls the console."""
        raise InvalidWebhook(
            "The console channel takes no webhooks; use `wakeloop reply CONTACT TEXT`.", status=404
        )

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """Refuse, as `verify` does."""
        self.verify(request)
        return []

    def respond(self, request: RawRequest) -> RawResponse:
        """Not found."""
        return RawResponse(status=404)

    async def close(self) -> None:
        """There is nothing to let go of."""


def _block(message: Outgoing) -> str:
    at = message.claimed_at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    head = f"--- to {_printable(message.address)} at {at} (console)"
    lines = [head, *([f"| [{_printable(message.subject)}]"] if message.subject else [])]
    lines += [f"| {_printable(line)}" for line in message.text.splitlines() or [""]]
    return "\n".join([*lines, "--- to answer: wakeloop reply CONTACT TEXT", ""])


def _printable(text: str) -> str:
    """The text without control characters, lone surrogates and directional overrides: what a model wrote must not
    steer the terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if (unicodedata.category(character) in {"Cc", "Cs"} and character != "\t") or character in _OVERRIDES
        else character
        for character in text
    )


# Unicode Standard Annex #9, section 2: embeddings, overrides, isolates.
_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
