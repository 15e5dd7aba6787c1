"""What comes from Discord: who signed it, what people press, write and wish, and what they get to see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.channel_kit import send
from tests.conformance.discord_kit import (
    ALICE,
    BOB,
    NO,
    PAYLOADS,
    ROOM,
    YES,
    channel,
    outgoing,
    payload,
    signed,
)
from tests.conformance.webhook_receiver import Receiver

from wakeloop.channel import Button, Incoming
from wakeloop.errors import InvalidWebhook
from wakeloop.testing.discord import DiscordStandIn
from wakeloop_channels.discord import DiscordChannel

BUTTONS = (Button(label="Approve", value=YES, style="yes"), Button(label="Deny", value=NO, style="no"))
RESPONDERS = {ROOM: [BOB]}
DISCORD = DiscordStandIn(channels=[ROOM])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def quiet(**changes: Any) -> DiscordChannel:
    """The channel, for what needs no network."""
    return channel(DISCORD, api_url="http://127.0.0.1:9", **changes)


def parsed(name: str, **changes: Any) -> list[Incoming]:
    return [item for item in quiet(**changes).parse(payload(DISCORD, name)) if isinstance(item, Incoming)]


def answered(name: str, **changes: Any) -> dict[str, Any]:
    response = quiet(**changes).respond(payload(DISCORD, name))
    assert (response.status, response.content_type) == (200, "application/json")
    found: dict[str, Any] = json.loads(response.body)
    return found


@pytest.fixture
def discord() -> Iterator[DiscordStandIn]:
    with DiscordStandIn(channels=[ROOM]) as stand_in:
        yield stand_in


class TestVerify:
    @pytest.mark.parametrize("name", sorted(path.stem for path in PAYLOADS.glob("*.json")))
    def test_every_payload_is_verified(self, name: str) -> None:
        """Timestamp and raw body, under the application's key."""
        quiet().verify(payload(DISCORD, name))

    def test_every_key_verifies(self) -> None:
        """So that one application can take another's place."""
        quiet(public_keys=f"{'ab' * 32},{DISCORD.public_key}").verify(payload(DISCORD, "press"))
        with pytest.raises(InvalidWebhook):
            quiet(public_keys="ab" * 32).verify(payload(DISCORD, "press"))

    @pytest.mark.parametrize(
        "headers",
        [
            {"x-signature-ed25519": ""},
            {"x-signature-ed25519": "0" * 128},
            {"x-signature-ed25519": "zz" * 64},
            {"x-signature-timestamp": ""},
            {"x-signature-timestamp": "9" * 13},
            {"x-signature-timestamp": "١٢٣"},
        ],
    )
    def test_a_forgery_is_refused_with_401(self, headers: dict[str, str]) -> None:
        """As Discord wants it, which tries that from time to time."""
        request = payload(DISCORD, "press")

        with pytest.raises(InvalidWebhook) as raised:
            quiet().verify(replace(request, headers={**request.headers, **headers}))

        assert raised.value.status == 401

    def test_another_key_or_body_is_a_forgery(self) -> None:
        """Each is under the signature."""
        request = payload(DISCORD, "press")
        other = DISCORD.sign(request.body, key=Ed25519PrivateKey.generate())
        named = {name.lower(): value for name, value in other.items()}

        for forged in (
            replace(request, body=request.body + b" "),
            replace(request, headers={**request.headers, **named}),
        ):
            with pytest.raises(InvalidWebhook):
                quiet().verify(forged)

    @pytest.mark.parametrize(("age", "good"), [(290, True), (310, False), (-290, True), (-310, False)])
    def test_a_request_from_another_time_is_played_back(self, age: float, good: bool) -> None:
        """More than five minutes to either side."""
        request = signed(DISCORD, b"{}", at=time.time() - age)

        if good:
            quiet().verify(request)
        else:
            with pytest.raises(InvalidWebhook, match="five minutes"):
                quiet().verify(request)


class TestParse:
    def test_a_press(self) -> None:
        """The choice, the person, and the message that it stands under; never the token to answer with."""
        (event,) = parsed("press")

        assert (event.pressed, event.text, event.address) == (YES, "", ALICE)
        assert event.reply_to == "1200000000000000100:1300000000000000001"
        assert event.provider_id == "interaction:1400000000000000001"
        assert (event.auth, event.raw["type"], "token" in event.raw) == (None, 3, False)

    @pytest.mark.parametrize(
        ("name", "pressed", "text"),
        [
            ("comment", NO, "too expensive 😬\nnot now"),
            ("answer", None, "The billing bug, please. 50% done 👍"),
            ("answer_in_a_row", None, "in a row"),
        ],
    )
    def test_a_dialog(self, name: str, pressed: str | None, text: str) -> None:
        """A comment comes with the choice that it is about, an answer below its question."""
        (event,) = parsed(name)

        assert (event.pressed, event.text) == (pressed, text)
        assert event.reply_to == "1200000000000000100:1300000000000000001"

    @pytest.mark.parametrize("name", ["ping", "press_comment", "press_answer", "autocomplete"])
    def test_what_says_nothing_yet(self, name: str) -> None:
        """A dialog that only opens is no decision."""
        assert parsed(name) == []

    @pytest.mark.parametrize(
        ("name", "text", "opt_out"), [("command", "good morning", None), ("stop", "/stop", True)]
    )
    def test_a_command(self, name: str, text: str, opt_out: bool | None) -> None:
        """By which people can write first, and ask to be left alone."""
        (event,) = parsed(name)

        assert (event.address, event.text, event.opt_out, event.reply_to) == (ALICE, text, opt_out, None)

    def test_in_a_channel_only_those_who_are_named_answer(self) -> None:
        """The address is the channel's; who it was is kept for the record."""
        (event,) = parsed("channel_press", responders=RESPONDERS)

        assert (event.address, event.pressed) == (f"channel:{ROOM}", YES)
        assert event.auth == f"Discord user {BOB} in the channel"
        assert parsed("channel_press") == []
        assert parsed("channel_press", responders={ROOM: [ALICE]}) == []

    def test_another_applications_interaction_is_refused(self) -> None:
        """Though it is rightly signed."""
        with pytest.raises(InvalidWebhook) as raised:
            parsed("press", application_id=BOB)

        assert raised.value.status == 400

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b" " * (1024 * 1024 + 1), 413),
            (b"{", 400),
            (b"[]", 400),
            (b"\xff", 400),
            (b"[" * 100_000, 400),
            (b"{}", 400),
            (b'{"type": "1"}', 400),
            (b'{"type": 3}', 400),
        ],
    )
    def test_a_malformed_request_is_refused(self, body: bytes, status: int) -> None:
        """With a 4xx that says which rule it breaks."""
        with pytest.raises(InvalidWebhook) as raised:
            quiet().parse(signed(DISCORD, body))

        assert raised.value.status == status

    @settings(max_examples=200, deadline=None)
    @given(data=st.data())
    def test_any_json_is_parsed_or_refused(self, data: st.DataObject) -> None:
        """Whatever stands where in an interaction, nothing but InvalidWebhook is raised."""
        name = data.draw(st.sampled_from(sorted(path.stem for path in PAYLOADS.glob("*.json"))))
        interaction = json.loads((PAYLOADS / f"{name}.json").read_text())
        place = interaction
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(JSON)
        request = signed(DISCORD, json.dumps(interaction).encode())
        it = quiet(responders=RESPONDERS)

        try:
            events = it.parse(request)
            status = it.respond(request).status
        except InvalidWebhook as error:
            status, events = error.status, []

        assert status == 200 or 400 <= status < 500
        assert all(isinstance(event, Incoming) for event in events)


class TestRespond:
    def test_a_ping_is_answered(self) -> None:
        """Else Discord does not take the address of the endpoint."""
        assert answered("ping") == {"type": 1}

    @pytest.mark.parametrize("name", ["press", "comment", "answer"])
    def test_a_choice_is_acknowledged(self, name: str) -> None:
        """Without anything to be seen: the message changes when the request is settled."""
        assert answered(name) == {"type": 6}

    @pytest.mark.parametrize(
        ("name", "title", "id"),
        [
            ("press_comment", "Your decision", "c:0123456789abcdef0123456789abcdef:no"),
            ("press_answer", "Your answer", "a:"),
        ],
    )
    def test_a_dialog_opens(self, name: str, title: str, id: str) -> None:
        """It carries what it is about, so that any process can take it in."""
        found = answered(name)

        assert (found["type"], found["data"]["title"], found["data"]["custom_id"]) == (9, title, id)
        assert found["data"]["components"][0]["component"]["type"] == 4

    def test_who_may_not_answer_is_told(self) -> None:
        """So that only they see it, and nobody is called."""
        found = answered("channel_press")

        assert (found["type"], found["data"]["flags"]) == (4, 64)
        assert found["data"]["allowed_mentions"] == {"parse": []}

    def test_a_command_is_confirmed(self) -> None:
        """Discord shows an error otherwise."""
        assert answered("command")["data"]["content"] == "Noted."


class TestFromTheScreen:
    def test_an_answer_finds_its_question(self, discord: DiscordStandIn) -> None:
        """Through the webhook: a press, a refusal with a comment, an answer in words."""
        it = channel(discord)
        approval = send(it, outgoing("Ship it?", kind="approval", buttons=BUTTONS)).provider_id
        question = send(it, outgoing("What first?", key="d2", kind="question")).provider_id
        one, two = discord.messages
        with Receiver(it) as receiver:
            discord.webhook = receiver.url
            first = discord.press(one, "Approve")
            dialog = discord.press(one, "Deny with a comment…")
            second = discord.submit(one, dialog, "too expensive")
            third = discord.submit(two, discord.press(two, "Answer…"), "the billing bug")

        said = [
            (event.reply_to, event.pressed, event.text)
            for event in receiver.events
            if isinstance(event, Incoming)
        ]
        assert [(heard.status, heard.kind) for heard in (first, dialog, second, third)] == [
            (200, 6), (200, 9), (200, 6), (200, 6)
        ]  # fmt: skip
        assert said == [
            (approval, YES, ""),
            (approval, NO, "too expensive"),
            (question, None, "the billing bug"),
        ]

    def test_a_retry_is_recognised(self, discord: DiscordStandIn) -> None:
        """The same interaction has the same id."""
        it = channel(discord)
        send(it, outgoing(buttons=BUTTONS))
        with Receiver(it) as receiver:
            discord.webhook = receiver.url
            interaction = discord.pressed(discord.messages[0], "Deny")
            discord.happen(interaction)
            discord.happen(interaction)

        assert len(receiver.events) == 2
        assert len({event.provider_id for event in receiver.events}) == 1

    def test_a_channel_answers_through_those_who_are_named(self, discord: DiscordStandIn) -> None:
        """Others are told, and nothing of theirs is taken."""
        it = channel(discord, responders=RESPONDERS)
        send(it, outgoing(to=f"channel:{ROOM}", kind="approval", buttons=BUTTONS))
        with Receiver(it) as receiver:
            discord.webhook = receiver.url
            other = discord.press(discord.messages[0], "Approve", by=ALICE)
            named = discord.press(discord.messages[0], "Deny", by=BOB)

        assert (other.kind, named.kind) == (4, 6)
        assert [event.pressed for event in receiver.events if isinstance(event, Incoming)] == [NO]

    def test_people_can_write_first(self, discord: DiscordStandIn) -> None:
        """By a slash command; a stranger's id is seen in that way."""
        it = channel(discord)
        with Receiver(it) as receiver:
            discord.webhook = receiver.url
            pong = discord.happen(discord.ping())
            heard = discord.command("tell", "good morning", by=BOB)

        assert (pong.kind, heard.kind) == (1, 4)
        assert [(event.address, event.text) for event in receiver.events if isinstance(event, Incoming)] == [
            (BOB, "good morning")
        ]
