"""A channel without a network: what `Simulation` gives every contact for every address."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryUpdate,
    File,
    Incoming,
    Inlet,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
    Sent,
)
from wakeloop.errors import ChannelError, InvalidWebhook


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A message that a fake provider took over. outgoing: all that it was given."""

    provider_id: str
    address: str
    text: str
    key: str
    at: datetime
    outgoing: Outgoing


class FakeChannel:
    """A provider that takes every message, remembers it across crashes, and can list it.

    `fail_next` makes it refuse, `lose_next` makes it silent, `fail_next_amendments` makes it refuse to change what it has;
    `amended` is what stands in place of messages, by their ids. Unless told otherwise its capabilities are those of SMS:
    people can write back, there are no buttons, no threads and no idempotency keys; what was sent can be looked up."""

    name: ClassVar[str] = "fake"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True, reconcile=True, receipts=True, max_length=1600
    )

    def __init__(
        self, name: str, now: Callable[[], datetime], capabilities: Capabilities | None = None
    ) -> None:
        self.name = name  # type: ignore[misc]
        if capabilities is not None:
            self.capabilities = capabilities  # type: ignore[misc]
        self.amended: dict[str, str] = {}
        self.amendments: list[tuple[Sent, str]] = []
        self.sent: list[Taken] = []
        self._now = now
        self._failures: list[ChannelError] = []
        self._refusals: list[Exception] = []
        self._lost_lists: list[ChannelError] = []
        self._to_lose = 0
        self._received = 0

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        raise NotImplementedError("a fake channel is made by Simulation")

    def fail_next(self, *errors: ChannelError) -> None:
        """Raise these, one for each of the next messages."""
        self._failures.extend(errors)

    def fail_next_amendments(self, *errors: Exception) -> None:
        """Raise these, one for each of the next amendments."""
        self._refusals.extend(errors)

    def fail_next_lookups(self, *errors: ChannelError) -> None:
        """Raise these, one for each of the next times that a message is looked for (`find_sent`)."""
        self._lost_lists.extend(errors)

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
            key=message.key, at=self._now(), outgoing=message,
        )  # fmt: skip
        self.sent.append(taken)
        if self._to_lose:
            self._to_lose -= 1
            raise ChannelError("the connection was lost")
        return Receipt(provider_id=taken.provider_id)

    async def amend(self, sent: Sent, text: str) -> None:
        if self._refusals:
            raise self._refusals.pop(0)
        self.amendments.append((sent, text))
        self.amended[sent.provider_id] = text

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        if self._lost_lists:
            raise self._lost_lists.pop(0)
        for taken in self.sent:
            same = (taken.address, taken.text) == (message.address, message.text)
            if same and taken.provider_id not in known and taken.at >= message.claimed_at:
                return Receipt(provider_id=taken.provider_id)
        return None

    def request(
        self, address: str, text: str, *, provider_id: str | None = None, files: Sequence[File] = (), **facts: Any
    ) -> RawRequest:  # fmt: skip
        """The webhook that this provider makes of a person's message. facts: of `Incoming`, such as `automatic`."""
        self._received += 1
        body = {
            "id": provider_id or f"{self.name}-in-{self._received}", "from": address, "text": text, "facts": facts,
            "files": [[one.name, one.content_type, base64.b64encode(one.data).decode()] for one in files],
        }  # fmt: skip
        return RawRequest(method="POST", url="http://localhost/", headers={}, body=json.dumps(body).encode())

    def verify(self, request: RawRequest) -> None:
        pass

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        try:
            facts = json.loads(request.body)
            text = str(facts["text"])
            incoming = Incoming(
                provider_id=f"{facts['id']}@{self._now().isoformat()}", address=facts["from"], text=text,
                raw={"text": text},
                files=tuple(
                    File(name=name, content_type=kind, data=base64.b64decode(data))
                    for name, kind, data in facts.get("files", ())
                ),
                **{"opt_out": _OPT.get(text.strip().upper()), **facts.get("facts", {})},
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidWebhook(f"malformed: {error!r}", status=400) from error
        return [incoming]

    def respond(self, request: RawRequest) -> RawResponse:
        return RawResponse()

    async def close(self) -> None:
        pass


class FakeMailbox:
    """Where a provider keeps messages until they are fetched: what several processes see of it."""

    def __init__(self) -> None:
        self.messages: list[Incoming] = []

    def put(self, *messages: Incoming) -> None:
        """Somebody wrote."""
        self.messages.extend(messages)


class FakeListeningChannel(FakeChannel):
    """A fake provider whose messages are fetched, one at a time, from a mailbox; how many were is the cursor.

    listening: how many listen now, through this object. fail_with: what listening raises, at once."""

    name: ClassVar[str] = "fake"
    listens = True

    def __init__(self, name: str, now: Callable[[], datetime], mailbox: FakeMailbox) -> None:
        super().__init__(name, now)
        self.mailbox = mailbox
        self.listening = 0
        self.attempts = 0
        self.fail_with: Exception | None = None

    async def listen(self, inlet: Inlet) -> None:
        self.attempts += 1
        if self.fail_with is not None:
            raise self.fail_with
        self.listening += 1
        try:
            while True:
                taken = int(inlet.cursor or 0)
                for message in self.mailbox.messages[taken : taken + 1]:
                    await inlet.take([message], cursor=str(taken + 1))
                if taken >= len(self.mailbox.messages):
                    await asyncio.sleep(0.02)
        finally:
            self.listening -= 1


_OPT = {
    "STOP": True, "STOPALL": True, "UNSUBSCRIBE": True, "CANCEL": True, "END": True, "QUIT": True, "REVOKE": True,
    "OPTOUT": True, "START": False, "UNSTOP": False,
}  # fmt: skip
