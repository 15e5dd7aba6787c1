"""The Discord channel against a stand-in for its API over real HTTP: settings, sending, finding again, changing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.conformance.channel_kit import send, using
from tests.conformance.discord_kit import ALICE, BOB, NO, PUBLIC_URL, ROOM, YES, channel, outgoing

from wakeloop.channel import Amending, Button, Channel, Checking, Guiding, Sent
from wakeloop.errors import ChannelError, ConfigurationError, PermanentChannelError, TemporaryChannelError
from wakeloop.events import Attachment
from wakeloop.testing.discord import APPLICATION_ID, BOT_TOKEN, DiscordStandIn, read
from wakeloop.testing.stand_in import Upload
from wakeloop_channels.discord_messages import escaped

BUTTONS = (
    Button(label="Approve", value=YES, style="yes"),
    Button(label="Deny", value=NO, style="no"),
    Button(label="Later", value="later"),
)
API = "http://127.0.0.1:9"


@pytest.fixture
def discord() -> Iterator[DiscordStandIn]:
    with DiscordStandIn(channels=[ROOM]) as stand_in:
        yield stand_in


class TestSettings:
    def test_the_port_is_fulfilled(self, discord: DiscordStandIn) -> None:
        """The adapter is a Channel with buttons that finds again what left; it has no forms."""
        it = channel(discord)

        for protocol in (Channel, Amending, Checking, Guiding):
            assert isinstance(it, protocol)
        can = it.capabilities
        assert (it.name, can.inbound, can.buttons, can.threads, can.reconcile) == ("discord", *(True,) * 4)
        assert (can.idempotent, can.receipts, can.forms, can.tokens) == (False,) * 4

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"bot_token": None}, "WAKELOOP_DISCORD_BOT_TOKEN"),
            ({"bot_token": "Bot s3cret"}, "WAKELOOP_DISCORD_BOT_TOKEN"),
            ({"application_id": None}, "channels.discord.application_id"),
            ({"application_id": "acme"}, "channels.discord.application_id"),
            ({"public_keys": None}, "channels.discord.public_keys"),
            ({"public_keys": "abc"}, "channels.discord.public_keys"),
            ({"responders": {"operations": [ALICE]}}, "channels.discord.responders"),
            ({"responders": {ROOM: ["alice"]}}, "channels.discord.responders"),
            ({"timeout": 0}, "channels.discord.timeout"),
            ({"gateway": True}, "channels.discord.gateway is no setting"),
        ],
    )
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        """The error says which key or environment variable to mend, and never a secret."""
        with pytest.raises(ConfigurationError) as raised:
            channel(DiscordStandIn(), api_url=API, **changes)

        assert named in str(raised.value)
        assert "s3cret" not in str(raised.value)

    @pytest.mark.parametrize("given", [ALICE, f" {ALICE} ", f"channel:{ROOM}"])
    def test_an_address_is_an_id(self, given: str) -> None:
        """Of a person, or of a channel."""
        assert channel(DiscordStandIn(), api_url=API).normalize(given) == given.strip()

    @pytest.mark.parametrize(
        "given", ["@alice", "alice#1234", "channel:", "channel:general", "0", "١٢", "-5"]
    )
    def test_anything_else_is_none(self, given: str) -> None:
        """The reason says where ids are found."""
        with pytest.raises(ValueError, match="Developer Mode"):
            channel(DiscordStandIn(), api_url=API).normalize(given)


class TestSend:
    def test_a_person_gets_it_in_private(self, discord: DiscordStandIn) -> None:
        """The conversation is opened once; the id of the message has both numbers."""
        it = channel(discord)

        async def twice(_: object) -> list[str]:
            return [(await it.send(outgoing(key=key))).provider_id for key in ("d1", "d2")]

        ids = using(it, twice)

        assert [message.to for message in discord.messages] == [ALICE, ALICE]
        assert [f"{message.channel}:{message.id}" for message in discord.messages] == ids
        assert discord.requests == 3

    def test_a_channel_gets_it_where_it_is(self, discord: DiscordStandIn) -> None:
        """Without opening anything."""
        receipt = send(channel(discord), outgoing(to=f"channel:{ROOM}"))

        assert receipt.provider_id.startswith(f"{ROOM}:")
        assert discord.requests == 1

    def test_nobody_is_called(self, discord: DiscordStandIn) -> None:
        """@everyone in a text is a word."""
        send(channel(discord), outgoing("@everyone: done"))

        assert (discord.messages[0].text, discord.messages[0].pings) == ("@everyone: done", False)

    @pytest.mark.parametrize(
        "text",
        [
            "*a* _b_ ~~c~~ `d` ||e|| <@1> [f](g) \\h",
            "# a\n## b\n-# c\n> d\n- e\n1. f\n  2. g",
            "https://example.com/a_b_c*d?x=[1] and snake_case",
            "3.5 is not 4. 2 - 1",
        ],
    )
    def test_nothing_is_read_as_markup(self, discord: DiscordStandIn, text: str) -> None:
        """A backslash before what would be; links stay whole."""
        send(channel(discord), outgoing(text))

        assert discord.messages[0].text == text
        assert read(escaped(text)) == text
        assert "https://example.com/a_b_c*d?x=[1]" in escaped(text) or "https" not in text

    def test_choices_are_buttons(self, discord: DiscordStandIn) -> None:
        """A yes is green and a no is red; an approval can be refused with a comment."""
        link = "https://agents.example.com/me?t=1"

        send(channel(discord), outgoing(kind="approval", buttons=BUTTONS, link=link))

        assert [(one.label, one.style) for one in discord.messages[0].buttons] == [
            ("Approve", "success"),
            ("Deny", "danger"),
            ("Later", "secondary"),
            ("Deny with a comment…", "secondary"),
            ("Open page", "link"),
        ]
        assert discord.messages[0].buttons[-1].url == link

    def test_a_question_can_be_answered_in_words(self, discord: DiscordStandIn) -> None:
        """Beside its options; what is no question has no such button."""
        send(channel(discord), outgoing(kind="question", buttons=BUTTONS[2:]))
        send(channel(discord), outgoing(key="d2"))

        assert [[one.label for one in message.buttons] for message in discord.messages] == [
            ["Later", "Answer…"],
            [],
        ]

    def test_at_most_25_buttons_are_shown(self, discord: DiscordStandIn) -> None:
        """The rest stands in the text; long labels are cut; the way to answer in words stays."""
        many = tuple(Button(label=f"{number} {'x' * 90}", value=str(number)) for number in range(30))

        send(channel(discord), outgoing(kind="question", buttons=many))

        labels = [one.label for one in discord.messages[0].buttons]
        assert (len(labels), labels[-1]) == (25, "Answer…")
        assert max(len(label) for label in labels) == 80

    def test_a_message_answers_the_last_of_its_conversation(self, discord: DiscordStandIn) -> None:
        """In this channel; one that was deleted is no obstacle."""
        it = channel(discord)
        first = send(it, outgoing()).provider_id

        send(it, outgoing(key="d2", thread=(first, "interaction:1", f"{ROOM}:5")))
        discord.delete(discord.messages[0])
        send(it, outgoing(key="d3", thread=(first,)))

        assert [message.reply_to for message in discord.messages] == [first.partition(":")[2], None]

    def test_files_come_along(self, discord: DiscordStandIn) -> None:
        """Bytes are uploaded with the message; of what lies elsewhere the text has the address."""
        files = (
            Attachment(url="data:text/csv,a%2Cb", content_type="text/csv", name="../t_1.csv"),
            Attachment(url="https://example.com/r_1.pdf", content_type="application/pdf", name="r.pdf"),
        )

        send(channel(discord), outgoing("See *these*.", subject="Report", attachments=files))

        (message,) = discord.messages
        assert message.files == (Upload("t_1.csv", "text/csv", b"a,b"),)
        assert message.text == "Report\n\nSee *these*.\nr.pdf: https://example.com/r_1.pdf"

    def test_too_many_files_are_refused(self, discord: DiscordStandIn) -> None:
        """Before anything goes."""
        files = tuple(Attachment(url=f"data:,{number}") for number in range(11))

        with pytest.raises(PermanentChannelError, match="at most 10"):
            send(channel(discord), outgoing(attachments=files))

    @pytest.mark.parametrize("text", ["x" * 2000, "*" * 1000])
    def test_the_longest_text(self, discord: DiscordStandIn, text: str) -> None:
        """Backslashes count; the capability holds for any text."""
        it = channel(discord)

        send(it, outgoing(text))
        with pytest.raises(PermanentChannelError) as raised:
            send(it, outgoing(text + "*", key="d2"))

        assert discord.messages[0].text == text
        assert it.capabilities.max_length == 1000
        assert raised.value.code == "50035"


class TestErrors:
    def test_a_person_who_takes_no_messages(self, discord: DiscordStandIn) -> None:
        """For good, with advice, and without the id."""
        discord.closed.add(ALICE)

        with pytest.raises(PermanentChannelError) as raised:
            send(channel(discord), outgoing())

        assert raised.value.code == "50007"
        assert "share a server" in str(raised.value)
        assert ALICE not in str(raised.value)

    @pytest.mark.parametrize(("hidden", "code"), [(True, "50001"), (False, "10003")])
    def test_a_channel_that_the_bot_cannot_see(
        self, discord: DiscordStandIn, hidden: bool, code: str
    ) -> None:
        """Or that is none."""
        if hidden:
            discord.hidden.add(ROOM)
        else:
            discord.channels.clear()

        with pytest.raises(PermanentChannelError) as raised:
            send(channel(discord), outgoing(to=f"channel:{ROOM}"))

        assert raised.value.code == code

    def test_a_wrong_token(self, discord: DiscordStandIn) -> None:
        """The variable is named, the token is not."""
        with pytest.raises(PermanentChannelError) as raised:
            send(channel(discord, bot_token="wrong-token"), outgoing())

        assert "WAKELOOP_DISCORD_BOT_TOKEN" in str(raised.value)
        assert "wrong-token" not in str(raised.value)

    def test_a_limit_says_how_long_to_wait(self, discord: DiscordStandIn) -> None:
        """With fractions of a second."""
        discord.fail_next(429, retry_after=2.25)

        with pytest.raises(TemporaryChannelError) as raised:
            send(channel(discord), outgoing(to=f"channel:{ROOM}"))

        assert raised.value.retry_after == 2.25

    @pytest.mark.parametrize("page", [True, False])
    def test_after_a_server_error_nobody_knows(self, discord: DiscordStandIn, page: bool) -> None:
        """Whether the message was taken; that no conversation was opened, though, is certain."""
        it = channel(discord)
        discord.fail_next(502, page=page)
        with pytest.raises(TemporaryChannelError):
            send(it, outgoing())

        discord.fail_next(502, page=page)
        with pytest.raises(ChannelError) as raised:
            send(it, outgoing(to=f"channel:{ROOM}"))

        assert type(raised.value) is ChannelError
        assert BOT_TOKEN not in repr(raised.value)


class TestFindSent:
    def test_what_left_is_found(self, discord: DiscordStandIn) -> None:
        """By its text, for Discord keeps no nonce; the oldest that is not known yet."""
        it = channel(discord)
        ids = [send(it, outgoing("Same *text*", key=key)).provider_id for key in ("d1", "d2")]
        send(it, outgoing("Other", key="d3"))
        message = outgoing("Same *text*", age=1)

        found = [
            using(it, lambda it, known=known: it.find_sent(message, frozenset(known)))
            for known in ((), ids[:1], ids)
        ]

        assert [None if one is None else one.provider_id for one in found] == [*ids, None]

    def test_sending_again_soon_makes_no_second_one(self, discord: DiscordStandIn) -> None:
        """The nonce is the delivery's; some minutes later Discord has forgotten it."""
        it = channel(discord)
        first, again = (send(it, outgoing()).provider_id for _ in range(2))
        discord.forget_nonces()
        later = send(it, outgoing()).provider_id

        assert first == again != later
        assert len(discord.messages) == 2

    def test_what_others_write_is_not_taken_for_ours(self, discord: DiscordStandIn) -> None:
        """A person may repeat our words."""
        discord.plant(ALICE, "Same text", author=ALICE)

        message = outgoing("Same text", age=1)

        assert using(channel(discord), lambda it: it.find_sent(message, frozenset())) is None


class TestAmend:
    def test_the_buttons_go_with_the_text(self, discord: DiscordStandIn) -> None:
        """A text that is longer than Discord takes is cut, not within an escape."""
        it = channel(discord)
        receipt = send(it, outgoing("Ship it?", kind="approval", buttons=BUTTONS))
        sent = Sent(provider_id=receipt.provider_id, address=ALICE, text="Ship it?")

        using(it, lambda it: it.amend(sent, "Ship it?\n\n*Approved.*"))
        assert (discord.messages[0].text, discord.messages[0].buttons) == ("Ship it?\n\n*Approved.*", ())

        using(it, lambda it: it.amend(sent, "*" * 1500))
        assert discord.messages[0].text == "*" * 999 + "…"

    def test_a_message_that_is_gone_is_no_error(self, discord: DiscordStandIn) -> None:
        """Nor is a channel that is."""
        it = channel(discord)
        sent = Sent(provider_id=send(it, outgoing()).provider_id, address=ALICE, text="")
        discord.delete(discord.messages[0])

        using(it, lambda it: it.amend(sent, "Over."))
        using(it, lambda it: it.amend(Sent(provider_id="12:34", address=ALICE, text=""), "Over."))

        assert discord.messages == []

    def test_other_refusals_are_errors(self, discord: DiscordStandIn) -> None:
        """As with `send`; a change may be made twice, so a server's error is temporary."""
        it = channel(discord)
        sent = Sent(provider_id=send(it, outgoing()).provider_id, address=ALICE, text="")
        discord.fail_next(502)

        with pytest.raises(TemporaryChannelError):
            using(it, lambda it: it.amend(sent, "Over."))
        with pytest.raises(PermanentChannelError, match="none of Discord's"):
            using(it, lambda it: it.amend(Sent(provider_id="nonsense", address="", text=""), "Over."))


class TestCheck:
    def test_it_says_which_application_this_is(self, discord: DiscordStandIn) -> None:
        """And whether what people do comes back."""
        alone = using(channel(discord), lambda it: it.check())
        discord.endpoint = PUBLIC_URL
        called = using(channel(discord, webhook_url=PUBLIC_URL), lambda it: it.check())

        assert (alone, called) == ("application Stand-in, sending only", "application Stand-in, called back")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"application_id": BOB}, f"application {APPLICATION_ID}"),
            ({"public_keys": "ab" * 32}, "public key"),
            ({"webhook_url": PUBLIC_URL}, "calls nobody.*Interactions Endpoint URL"),
            ({"bot_token": "wrong"}, "WAKELOOP_DISCORD_BOT_TOKEN"),
        ],
    )
    def test_it_says_what_to_mend(self, discord: DiscordStandIn, changes: dict[str, Any], words: str) -> None:
        """Ids that do not go together, a key of another application, an address that nobody calls."""
        with pytest.raises(ChannelError, match=words):
            using(channel(discord, **changes), lambda it: it.check())

    def test_the_guide_names_the_place(self, discord: DiscordStandIn) -> None:
        """In the Developer Portal."""
        assert list(channel(discord).guide(PUBLIC_URL)) == [
            ("General Information > Interactions Endpoint URL", PUBLIC_URL)
        ]
