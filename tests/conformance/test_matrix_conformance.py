"""The public conformance suite over the Matrix channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.conformance.matrix_homeserver import HomeServer
from tests.conformance.matrix_kit import Person, person
from tests.http_kit import HANG_UP, Reply, json_reply

from wakeloop.channel import DeliveryStatus, RawRequest
from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Fault, Provider, Took
from wakeloop.testing.stand_in import Asked
from wakeloop_channels.matrix import MatrixChannel
from wakeloop_channels.matrix_events import SHOWN


class FailingHomeServer(HomeServer):
    """Has faults for messages alone, whatever else is asked on the way to one."""

    def __init__(self) -> None:
        super().__init__()
        self.next: list[Reply | float] = []

    def _answer(self, request: Asked) -> Reply:
        if "/send/m.room.message/" not in request.target or not self.next:
            return super()._answer(request)
        fault = self.next.pop(0)
        if isinstance(fault, Reply) and not fault.hang_up:
            return fault
        reply = super()._answer(request)
        if isinstance(fault, Reply):
            return fault
        self._stopping.wait(fault)
        return reply


class Conversation(Provider):
    """A direct conversation of the channel's account and Alice."""

    def __init__(self, server: FailingHomeServer) -> None:
        self.server = server
        self.bot, self.alice = person(server.url, "bot"), person(server.url, "alice")
        self.address = self.alice.id
        self.room = self.bot.create(self.alice.id, is_direct=True)
        self.alice.join(self.room)
        direct = {self.alice.id: [self.room]}
        self.bot.call("PUT", "user", self.bot.id, "account_data", "m.direct", direct)
        self.secrets = (self.bot.token,)
        self.settings: dict[str, Any] = {
            "homeserver": server.url,
            "access_token": self.bot.token,
            "timeout": 1.0,
        }
        self.channel = MatrixChannel.from_settings(self.settings, self.services)
        self.cursor = self.bot.call("GET", "sync")["next_batch"]

    def sent(self) -> Sequence[Took]:
        found: list[Took] = []
        edits: dict[str, str] = {}
        for room, events in self.server.rooms.items():
            members = {event["state_key"] for _, event in events if event["type"] == "m.room.member"}
            others = sorted(members - {self.bot.id})
            for _, event in events:
                content = event["content"]
                if event["type"] != "m.room.message" or event["sender"] != self.bot.id:
                    continue
                relation = content.get("m.relates_to", {})
                if relation.get("rel_type") == "m.replace":
                    edits[relation["event_id"]] = content["m.new_content"]["body"]
                elif "url" in content:
                    found[-1] = self._with(found[-1], found[-1].text, (content["filename"],))
                else:
                    text, *links = content["body"].split("\nhttps://files")
                    took = Took(
                        provider_id=event["event_id"],
                        address=others[0] if others else room,
                        text=text,
                        buttons=self._marks(room, event["event_id"]),
                    )
                    found.append(self._with(took, text, tuple(f"https://files{link}" for link in links)))
        return [
            Took(provider_id=one.provider_id, address=one.address, text=edits[one.provider_id])
            if one.provider_id in edits
            else one
            for one in found
        ]

    def _with(self, took: Took, text: str, files: tuple[str, ...]) -> Took:
        return Took(
            provider_id=took.provider_id,
            address=took.address,
            text=text,
            buttons=took.buttons,
            attachments=(*took.attachments, *files),
        )

    def _marks(self, room: str, id: str) -> tuple[str, ...]:
        relations = [
            event["content"].get("m.relates_to", {})
            for _, event in self.server.rooms[room]
            if event["type"] == "m.reaction" and event["sender"] == self.bot.id
        ]
        return tuple(one["key"] for one in relations if one.get("event_id") == id)

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        match fault:
            case Fault.BUSY:
                waits = {} if retry_after is None else {"retry_after_ms": retry_after * 1000}
                self.server.next.append(json_reply({"errcode": "M_LIMIT_EXCEEDED", **waits}, 429))
            case Fault.REFUSED:
                self.server.next.append(json_reply({"errcode": "M_FORBIDDEN"}, 403))
            case Fault.DOWN:
                self.server.stop()
            case Fault.SLOW:
                self.server.next.append(3.0)
            case Fault.LOST:
                self.server.next += [HANG_UP, HANG_UP]  # aiohttp repeats a PUT once by itself

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        text.encode()  # events are JSON in UTF-8
        if sender is not None and sender != self.alice.id:
            other = Person(self.server.url, sender[1:].partition(":")[0])
            self.bot.call("POST", "rooms", self.room, "invite", {"user_id": other.id})
            other.join(self.room)
            other.say(self.room, text)
        elif answering is not None:
            self.alice.answer(self.room, answering, text)
        else:
            self.alice.say(self.room, text)
        return None

    def receipt(self, provider_id: str, status: DeliveryStatus) -> RawRequest | None:
        self.alice.read(self.room, provider_id)
        return None

    def press(self, provider_id: str, label: str) -> RawRequest | None:
        self.alice.react(self.room, provider_id, SHOWN[label.casefold()])
        return None


class TestMatrix(ChannelConformance):
    """Fetched by /sync; a receipt only ever says that a message was read."""

    adapter = MatrixChannel
    webhooks = False
    listening = True
    reports = (DeliveryStatus.DELIVERED,)
    verdicts_only = True

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in on real HTTP."""
        with FailingHomeServer() as server:
            yield Conversation(server)
