"""The Telegram channel against a stand-in for the Bot API over real HTTP: settings, sending, changing, checking."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conformance.channel_kit import send, using
from tests.conformance.telegram_kit import ALICE, BOT, GROUP, NO, PUBLIC_URL, YES, Taking, channel, outgoing

from wakeloop.channel import Amending, Button, Channel, Checking, Fetching, Guiding, Incoming, Listening, Sent
from wakeloop.errors import ChannelError, ConfigurationError, PermanentChannelError, TemporaryChannelError
from wakeloop.events import Attachment
from wakeloop.testing.stand_in import Upload
from wakeloop.testing.telegram import BOT_TOKEN, TelegramStandIn

BUTTONS = (
    Button(label="Approve", value=YES, style="yes"),
    Button(label="Deny", value=NO, style="no"),
    Button(label="Later", value="later"),
)
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg=="
)


@pytest.fixture
def telegram() -> Iterator[TelegramStandIn]:
    with TelegramStandIn() as stand_in:
        stand_in.write("/start", chat=ALICE)
        stand_in.write("/start", chat=GROUP, by=ALICE)
        yield stand_in


class TestSettings:
    def test_the_port_is_fulfilled(self) -> None:
        """The adapter is a Channel with buttons, and all the optional protocols that Telegram has a use for."""
        telegram = channel()

        for protocol in (Channel, Amending, Checking, Fetching, Guiding, Listening):
            assert isinstance(telegram, protocol)
        assert telegram.name == "telegram"
        can = telegram.capabilities
        assert (can.inbound, can.buttons, can.threads, can.media, can.amends) == (True,) * 5
        assert (can.idempotent, can.reconcile, can.receipts, can.forms, can.tokens) == (False,) * 5

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"bot_token": None}, "WAKELOOP_TELEGRAM_BOT_TOKEN"),
            ({"bot_token": "s3cret"}, "WAKELOOP_TELEGRAM_BOT_TOKEN"),
            ({"secret_tokens": None}, "WAKELOOP_TELEGRAM_SECRET_TOKENS"),
            ({"secret_tokens": "with space"}, "WAKELOOP_TELEGRAM_SECRET_TOKENS"),
            ({"secret_tokens": "x" * 257}, "WAKELOOP_TELEGRAM_SECRET_TOKENS"),
            ({"poll_seconds": 0}, "channels.telegram.poll_seconds"),
            ({"api_url": "api.telegram.org"}, "channels.telegram.api_url"),
            ({"responders": {"42": [1]}}, "channels.telegram.responders"),
            ({"responders": {str(GROUP): ["alice"]}}, "channels.telegram.responders"),
            ({"token": BOT_TOKEN}, "channels.telegram.token is no setting"),
        ],
    )
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        """The error says which key or environment variable to mend, and never a secret."""
        with pytest.raises(ConfigurationError) as raised:
            channel(**changes)

        assert named in str(raised.value)
        assert "s3cret" not in str(raised.value)
        assert BOT_TOKEN not in str(raised.value)

    def test_polling_needs_no_secret_token(self) -> None:
        """Nobody calls."""
        assert channel(polling="true", secret_tokens=None).listens
        assert not channel().listens

    def test_the_token_is_never_shown(self) -> None:
        """Not in the settings' own form either."""
        assert BOT_TOKEN not in repr(channel().settings)

    @pytest.mark.parametrize(("given", "address"), [(" 1111111 ", "1111111"), (str(GROUP), str(GROUP))])
    def test_an_address_is_the_number_of_a_chat(self, given: str, address: str) -> None:
        """Of a person's, or of a group's, which is negative."""
        assert address == channel().normalize(given)

    @pytest.mark.parametrize("given", ["@alice", "+15555550100", "0", "", "12 34", "-", "1" * 20, "١٢٣"])
    def test_anything_else_is_no_address(self, given: str) -> None:
        """The reason says where numbers are found."""
        with pytest.raises(ValueError, match="wakeloop inbox"):
            channel().normalize(given)


class TestSend:
    def test_a_text_goes_as_it_is(self, telegram: TelegramStandIn) -> None:
        """No markup is read into it, and links get no preview."""
        text = "Ship *it*? <b>👍🏽</b>\n_Café_ & 50% [x](y) שלום https://example.com"

        receipt = send(channel(api_url=telegram.url), outgoing(text, subject="Release"))

        (sent,) = telegram.messages
        assert sent.text == f"Release\n\n{text}"
        assert receipt.provider_id == f"{BOT}:{ALICE}:{sent.message_id}"
        assert "parse_mode" not in sent.fields
        assert '"is_disabled": true' in sent.fields["link_preview_options"]

    def test_choices_are_buttons(self, telegram: TelegramStandIn) -> None:
        """What is pressed comes back as it was given; a yes is green and a no is red."""
        send(
            channel(api_url=telegram.url), outgoing(buttons=BUTTONS, link="https://agents.example.com/me?t=1")
        )

        (sent,) = telegram.messages
        assert [(one.label, one.data, one.style) for one in sent.buttons[:3]] == [
            ("Approve", YES, "success"),
            ("Deny", NO, "danger"),
            ("Later", "later", ""),
        ]
        assert sent.buttons[3].url == "https://agents.example.com/me?t=1"

    @pytest.mark.parametrize(
        "link", ["http://localhost:8080/me", "http://127.0.0.1/me", "https://10.0.0.1/me", "https://host/me"]
    )
    def test_a_link_that_nobody_else_can_follow_is_left_out(
        self, telegram: TelegramStandIn, link: str
    ) -> None:
        """Telegram would refuse the whole message."""
        send(channel(api_url=telegram.url), outgoing(link=link))

        assert telegram.messages[0].buttons == ()

    def test_a_message_answers_the_last_of_its_conversation(self, telegram: TelegramStandIn) -> None:
        """Theirs or ours, in this chat; one that was deleted is no obstacle."""
        it = channel(api_url=telegram.url)
        first = send(it, outgoing("first")).provider_id

        send(it, outgoing("second", thread=(f"{BOT}:{ALICE}:1", first, f"{BOT}:press:7", "other")))
        telegram.delete(telegram.messages[0])
        send(it, outgoing("third", thread=(first,)))

        assert [one.reply_to for one in telegram.messages] == [int(first.rpartition(":")[2]), None]

    @pytest.mark.parametrize("text", ["x" * 4096, "👍" * 2048])
    def test_the_longest_text(self, telegram: TelegramStandIn, text: str) -> None:
        """Telegram counts units of UTF-16; the capability holds for any text."""
        send(channel(api_url=telegram.url), outgoing(text))

        assert telegram.messages[0].text == text
        assert channel().capabilities.max_length == 2048

    @pytest.mark.parametrize("text", ["x" * 4097, "👍" * 2049, "  "])
    def test_a_text_that_telegram_does_not_take(self, telegram: TelegramStandIn, text: str) -> None:
        """It is refused for good; nothing is cut off in silence."""
        with pytest.raises(PermanentChannelError):
            send(channel(api_url=telegram.url), outgoing(text))

        assert telegram.messages == []

    def test_files_go_before_the_text(self, telegram: TelegramStandIn) -> None:
        """Bytes are uploaded, addresses are passed on; of what Telegram would not fetch, the text has the address."""
        pixel = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
        files = (
            Attachment(url=pixel, content_type="image/png", name="../pixel.png"),
            Attachment(url="data:text/csv,a%2Cb%0A", content_type="text/csv", name="t.csv"),
            Attachment(url="https://example.com/r.pdf", content_type="application/pdf"),
            Attachment(url="https://example.com/r.csv", content_type="text/csv", name="r.csv"),
        )

        send(channel(api_url=telegram.url), outgoing("See these.", attachments=files, buttons=BUTTONS))

        assert [(one.kind, one.file) for one in telegram.messages] == [
            ("photo", Upload("pixel.png", "image/png", PIXEL)),
            ("document", Upload("t.csv", "text/csv", b"a,b\n")),
            ("document", "https://example.com/r.pdf"),
            ("text", None),
        ]
        assert telegram.messages[-1].text == "See these.\nr.csv: https://example.com/r.csv"
        assert len(telegram.messages[-1].buttons) == 3

    def test_a_broken_data_url_is_refused(self, telegram: TelegramStandIn) -> None:
        """Before anything goes."""
        broken = Attachment(url="data:text/plain;base64,€", content_type="text/plain")

        with pytest.raises(PermanentChannelError, match="RFC 2397"):
            send(channel(api_url=telegram.url), outgoing(attachments=(broken,)))


class TestErrors:
    @pytest.mark.parametrize(
        ("to", "code", "advice"),
        [(ALICE + 1, "400", "write to the bot first"), (ALICE, "403", "starting the bot again")],
    )
    def test_a_person_who_cannot_be_reached(
        self, telegram: TelegramStandIn, to: int, code: str, advice: str
    ) -> None:
        """Never written to the bot, or blocked it: for good, with advice, and without the number."""
        telegram.block(ALICE)

        with pytest.raises(PermanentChannelError) as raised:
            send(channel(api_url=telegram.url), outgoing(to=to))

        assert raised.value.code == code
        assert advice in str(raised.value)
        assert str(to) not in str(raised.value)

    def test_a_wrong_token(self, telegram: TelegramStandIn) -> None:
        """The variable is named, the token is not."""
        with pytest.raises(PermanentChannelError) as raised:
            send(channel(api_url=telegram.url, bot_token="1:wrong"), outgoing())

        assert "WAKELOOP_TELEGRAM_BOT_TOKEN" in str(raised.value)
        assert "1:wrong" not in str(raised.value)

    def test_a_group_that_moved(self, telegram: TelegramStandIn) -> None:
        """It says which number to set; what people there write comes under the new one."""
        telegram.migrated[GROUP] = -1009

        with pytest.raises(PermanentChannelError, match="-1009"):
            send(channel(api_url=telegram.url), outgoing(to=GROUP))

    def test_too_many_requests(self, telegram: TelegramStandIn) -> None:
        """Telegram says in the body how long to wait."""
        telegram.fail_next(429, retry_after=17)

        with pytest.raises(TemporaryChannelError) as raised:
            send(channel(api_url=telegram.url), outgoing())

        assert raised.value.retry_after == 17.0
        assert telegram.messages == []

    @pytest.mark.parametrize("status", [500, 502, 504])
    @pytest.mark.parametrize("page", [True, False])
    def test_after_a_server_error_nobody_knows(
        self, telegram: TelegramStandIn, status: int, page: bool
    ) -> None:
        """Telegram does not say that nothing was done."""
        telegram.fail_next(status, page=page)

        with pytest.raises(ChannelError) as raised:
            send(channel(api_url=telegram.url), outgoing())

        assert type(raised.value) is ChannelError

    def test_after_a_lost_answer_nobody_knows(self, telegram: TelegramStandIn) -> None:
        """The message is there; trying again makes a second one, as the page on this channel says."""
        it = channel(api_url=telegram.url, timeout=0.3)
        for lose in (telegram.drop_next_after_taking, lambda: telegram.slow_next(2)):
            lose()
            with pytest.raises(ChannelError) as raised:
                send(it, outgoing())
            assert type(raised.value) is ChannelError
            assert BOT_TOKEN not in repr(raised.value) + repr(raised.value.__cause__)

        send(it, outgoing())

        assert len(telegram.messages) == 3

    def test_nobody_at_the_address(self, telegram: TelegramStandIn) -> None:
        """Certainly not sent."""
        url = telegram.url
        telegram.stop()

        with pytest.raises(TemporaryChannelError):
            send(channel(api_url=url), outgoing())

    def test_an_answer_that_is_none(self, telegram: TelegramStandIn) -> None:
        """A 200 without a result is no receipt."""
        telegram.fail_next(200, page=True)

        with pytest.raises(ChannelError) as raised:
            send(channel(api_url=telegram.url), outgoing())

        assert type(raised.value) is ChannelError

    def test_nothing_personal_is_logged(
        self, telegram: TelegramStandIn, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither the token, which is in every address, nor numbers, nor words."""
        caplog.set_level(logging.INFO)
        it = channel(api_url=telegram.url)
        send(it, outgoing("something private"))
        telegram.fail_next(502, page=True)
        with pytest.raises(ChannelError):
            send(it, outgoing("something private"))

        for private in (BOT_TOKEN, str(ALICE), "something private"):
            assert private not in caplog.text


class TestAmend:
    def test_the_buttons_go_with_the_text(self, telegram: TelegramStandIn) -> None:
        """Doing it twice does no harm; a text that is too long is cut."""
        it = channel(api_url=telegram.url)
        receipt = send(it, outgoing("Ship it?", buttons=BUTTONS))
        sent = Sent(provider_id=receipt.provider_id, address=str(ALICE), text="Ship it?")

        for _ in range(2):
            using(it, lambda it: it.amend(sent, "Ship it?\n\nApproved."))
        assert (telegram.messages[0].text, telegram.messages[0].buttons) == ("Ship it?\n\nApproved.", ())

        using(it, lambda it: it.amend(sent, "👍" * 3000))
        assert telegram.messages[0].text == "👍" * 2047 + "…"

    def test_a_message_that_is_gone_is_no_error(self, telegram: TelegramStandIn) -> None:
        """There is nothing to change."""
        it = channel(api_url=telegram.url)
        sent = Sent(provider_id=send(it, outgoing()).provider_id, address=str(ALICE), text="")
        telegram.delete(telegram.messages[0])

        using(it, lambda it: it.amend(sent, "Over."))

        assert telegram.messages == []

    def test_other_refusals_are_errors(self, telegram: TelegramStandIn) -> None:
        """As with `send`."""
        it = channel(api_url=telegram.url)
        sent = Sent(provider_id=send(it, outgoing()).provider_id, address=str(ALICE), text="")
        telegram.fail_next(502)

        with pytest.raises(TemporaryChannelError):
            using(it, lambda it: it.amend(sent, "Over."))
        telegram.block(ALICE)
        for provider_id in (sent.provider_id, "nonsense"):
            with pytest.raises(PermanentChannelError):
                using(
                    it,
                    lambda it, id=provider_id: it.amend(Sent(provider_id=id, address="", text=""), "Over."),
                )


class TestFetch:
    def test_a_file_that_came_can_be_read(self, telegram: TelegramStandIn) -> None:
        """It stays at Telegram until somebody wants it."""
        it = channel(api_url=telegram.url, polling=True, poll_seconds=1)
        telegram.write("", chat=ALICE, files=[Upload("a.txt", "text/plain", b"some bytes")])
        inlet = Taking(1)
        with pytest.raises(asyncio.CancelledError):
            using(it, lambda it: it.listen(inlet))
        last = inlet.items[-1]
        assert isinstance(last, Incoming)
        (attachment,) = last.attachments

        assert (attachment.name, attachment.content_type) == ("a.txt", "text/plain")
        assert using(it, lambda it: it.fetch(attachment)) == b"some bytes"

    @pytest.mark.parametrize("url", ["telegram:unknown", "https://example.com/a.txt"])
    def test_a_file_that_is_gone_or_not_telegrams(self, telegram: TelegramStandIn, url: str) -> None:
        """Never anything but an error of this port; no other address is asked."""
        with pytest.raises(PermanentChannelError):
            using(channel(api_url=telegram.url), lambda it: it.fetch(Attachment(url=url)))

    def test_a_file_that_is_too_large(self, telegram: TelegramStandIn) -> None:
        """Telegram itself hands out no more than 20 MB."""
        telegram._files["documents/big"] = bytes(20 * 1024 * 1024 + 1)

        with pytest.raises(PermanentChannelError, match="too big"):
            using(channel(api_url=telegram.url), lambda it: it.fetch(Attachment(url="telegram:big")))


class TestCheck:
    def test_it_says_which_bot_this_is(self, telegram: TelegramStandIn) -> None:
        """And how messages come, how many wait, and what went wrong last."""
        polled = using(channel(api_url=telegram.url, polling=True), lambda it: it.check())
        telegram.webhook, telegram.last_error = PUBLIC_URL, "Wrong response from the webhook: 502 Bad Gateway"
        called = using(channel(api_url=telegram.url, webhook_url=PUBLIC_URL), lambda it: it.check())

        assert polled == "@stand_in_bot, fetching messages, 2 waiting"
        assert called == (
            "@stand_in_bot, webhook set, 2 waiting, last error: Wrong response from the webhook: 502 Bad Gateway"
        )

    @pytest.mark.parametrize(
        ("polling", "webhook", "words"),
        [
            (True, PUBLIC_URL, "only one of the two"),
            (False, None, "calls nobody"),
            (False, "https://other.example.com/x", "calls https://other.example.com/x"),
        ],
    )
    def test_it_says_if_messages_cannot_come(
        self, telegram: TelegramStandIn, polling: bool, webhook: str | None, words: str
    ) -> None:
        """A webhook that polling excludes, that is missing, or that leads elsewhere."""
        telegram.webhook = webhook

        with pytest.raises(ChannelError, match=words):
            using(
                channel(api_url=telegram.url, polling=polling, webhook_url=PUBLIC_URL), lambda it: it.check()
            )

    def test_it_names_a_wrong_token(self, telegram: TelegramStandIn) -> None:
        """By its variable."""
        with pytest.raises(ChannelError, match="WAKELOOP_TELEGRAM_BOT_TOKEN"):
            using(channel(api_url=telegram.url, bot_token="1:wrong"), lambda it: it.check())

    def test_the_guide_names_the_call(self) -> None:
        """With everything but the secrets; nothing is called."""
        guide = dict(channel().guide(PUBLIC_URL))

        assert guide["POST …/bot<token>/setWebhook, url"] == PUBLIC_URL
        assert guide["allowed_updates"] == '["message", "callback_query", "my_chat_member"]'
        assert list(channel(polling=True).guide(PUBLIC_URL)) == []
