"""A channel without a network: what `Simulation` gives every contact for every address."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
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
from wakeloop.errors import ChannelError, InvalidWebhook


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A message that a fake provider took over."""

    provider_id: str
    address: str
    text: str
    key: str
    at: datetime


class FakeChannel:
    """A provider that takes every message, remembers it across crashes, and can list it.

    `fail_next` makes it refuse, `lose_next` makes it silent. Its capabilities are those of SMS: people can write back, there are no buttons, no
    threads and no idempotency keys; what was sent can be looked up."""

    name: ClassVar[str] = "fake"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True, reconcile=True, receipts=True, max_length=1600
    )

    def __init__(self, name: str, now: Callable[[], datetime]) -> None:
        self.name = name  # type: ignore[misc]
        self.sent: list[Taken] = []
        self._now = now
        self._failures: list[ChannelError] = []
        self._to_lose = 0
        self._received = 0

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        raise NotImplementedError("a fake channel is made by Simulation")

    def fail_next(self, *errors: ChannelError) -> None:
        """Raise these, one for each of the next messages."""
        self._failures.extend(errors)

    def lose_next(self, count: int = 1) -> None:
        """Take the next messages, and lose the answers to them on the way."""
        self._to_lose += count

    def normalize(self, address: str) -> str:
        return address.strip()

    async def send(self, message: Outgoing) -> Receipt:
        if self._failures:
            raise self._failures.pop(0)
        taken = Taken(
            provider_id=f"{self.name}-{len(self.sent) + 1}", address=message.address, text=message.text,
            key=message.key, at=self._now(),
        )  # fmt: skip
        self.sent.append(taken)
        if self._to_lose:
            self._to_lose -= 1
            raise ChannelError("the connection was lost")
        return Receipt(provider_id=taken.provider_id)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        for taken in self.sent:
            same = (taken.address, taken.text) == (message.address, message.text)
            if same and taken.provider_id not in known and taken.at >= message.claimed_at:
                return Receipt(provider_id=taken.provider_id)
        return None

    def request(self, address: str, text: str, *, provider_id: str | None = None) -> RawRequest:
        """The webhook that this provider makes of a person's message."""
        self._received += 1
        body = {"id": provider_id or f"{self.name}-in-{self._received}", "from": address, "text": text}
        return RawRequest(method="POST", url="http://localhost/", headers={}, body=json.dumps(body).encode())

    def verify(self, request: RawRequest) -> None:
        pass

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        try:
            facts = json.loads(request.body)
            text = str(facts["text"])
            incoming = Incoming(
                provider_id=f"{facts['id']}@{self._now().isoformat()}", address=facts["from"], text=text,
                opt_out=_OPT.get(text.strip().upper()), raw=facts,
            )  # fmt: skip
        except (ValueError, KeyError) as error:
            raise InvalidWebhook(f"malformed: {error!r}", status=400) from error
        return [incoming]

    def respond(self, request: RawRequest) -> RawResponse:
        return RawResponse()

    async def close(self) -> None:
        pass


_OPT = {
    "STOP": True, "STOPALL": True, "UNSUBSCRIBE": True, "CANCEL": True, "END": True, "QUIT": True, "REVOKE": True,
    "OPTOUT": True, "START": False, "UNSTOP": False,
}  # fmt: skip
