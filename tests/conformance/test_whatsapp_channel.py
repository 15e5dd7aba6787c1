"""The WhatsApp channel against a stand-in for Twilio over real HTTP: window, templates, replies, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientError
from tests.conformance.channel_kit import find_sent, send
from tests.conformance.twilio_kit import ALICE, PUBLIC_URL, SERVICE, call, form, outgoing, payload, settings
from tests.conformance.webhook_receiver import Receiver

from wakeloop.channel import Channel, ChannelServices, DeliveryStatus, DeliveryUpdate, Incoming, Outgoing
from wakeloop.errors import ConfigurationError, InvalidWebhook, PermanentChannelError
from wakeloop.events import Attachment
from wakeloop.testing.twilio import AUTH_TOKEN, NUMBER, TwilioStandIn
from wakeloop_channels.whatsapp import WhatsAppChannel, flattened

TEMPLATE = "HX" + "0123456789abcdef" * 2
ON_WHATSAPP = f"whatsapp:{ALICE}"


@pytest.fixture
def twilio() -> Iterator[TwilioStandIn]:
    templates = {TEMPLATE: "A message from your agent:\n{{1}}\nReply to answer."}
    with TwilioStandIn(numbers=[f"whatsapp:{NUMBER}"], templates=templates) as stand_in:
        yield stand_in


def whatsapp(*, webhook_url: str | None = None, **changes: Any) -> WhatsAppChannel:
    return WhatsAppChannel.from_settings(settings(**changes), ChannelServices(webhook_url=webhook_url))


def heard(message: Outgoing, *, hours: float = 1.0) -> Outgoing:
    return replace(message, heard_at=message.claimed_at - timedelta(hours=hours))


def said_at(twilio: TwilioStandIn, *, hours: float) -> None:
    twilio.hear(ON_WHATSAPP, datetime.now(UTC) - timedelta(hours=hours))


class TestSettings:
    def test_it_is_a_channel_of_its_own(self) -> None:
        """With threads and files, and without buttons, which Twilio puts only on templates."""
        channel = whatsapp()

        assert isinstance(channel, Channel)
        assert channel.name == "whatsapp"
        assert (channel.capabilities.threads, channel.capabilities.media) == (True, True)
        assert not channel.capabilities.buttons

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"account_sid": None}, "WAKELOOP_WHATSAPP_ACCOUNT_SID"),
            ({"auth_token": None}, "WAKELOOP_WHATSAPP_AUTH_TOKEN"),
            ({"api_key": "SK123"}, "WAKELOOP_WHATSAPP_API_SECRET"),
            ({"from_number": None}, "channels.whatsapp.from_number"),
            ({"from_number": "WAKELOOP"}, "channels.whatsapp.from_number: a telephone number"),
            ({"from_number": "whatsapp:555-0100"}, "channels.whatsapp.default_region"),
            ({"content_sid": "123"}, "channels.whatsapp.content_sid"),
            ({"content_sids": TEMPLATE}, "channels.whatsapp.content_sids is no setting"),
        ],
    )
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        """With the key or environment variable of this channel, not of SMS."""
        with pytest.raises(ConfigurationError, match=r"^The WhatsApp channel") as raised:
            whatsapp(**changes)

        assert named in str(raised.value)

    @pytest.mark.parametrize("given", [ALICE, f" whatsapp:{ALICE}", "+1 (555) 555-0100"])
    def test_an_address_is_the_number(self, given: str) -> None:
        """With or without Twilio's prefix; the same as for SMS."""
        assert whatsapp().normalize(given) == ALICE

    def test_the_sender_may_have_the_prefix(self) -> None:
        """Twilio's Console shows it so."""
        assert whatsapp(from_number=f"whatsapp:{NUMBER}").settings.from_number == NUMBER


class TestWindow:
    def test_within_the_window_the_text_is_free(self, twilio: TwilioStandIn) -> None:
        """It goes out as it is, from and to a `whatsapp:` address."""
        said_at(twilio, hours=23)

        send(whatsapp(api_url=twilio.url, content_sid=TEMPLATE), heard(outgoing("One\n\tTwo"), hours=23))

        (sent,) = twilio.messages
        assert (sent.to, sent.from_, sent.body) == (ON_WHATSAPP, f"whatsapp:{NUMBER}", "One\n\tTwo")
        assert (sent.status, sent.content_sid) == ("queued", None)

    @pytest.mark.parametrize("hours", [23.99, 24, 100, None])
    def test_outside_the_window_the_template_is_sent(
        self, twilio: TwilioStandIn, hours: float | None
    ) -> None:
        """Also to somebody who never wrote; the text is its variable, without what WhatsApp refuses."""
        message = outgoing("Ship it?\n\n1) yes\t2) no     3) later")
        message = message if hours is None else heard(message, hours=hours)

        send(whatsapp(api_url=twilio.url, content_sid=TEMPLATE), message)

        (sent,) = twilio.messages
        assert (sent.status, sent.error_code, sent.content_sid) == ("queued", None, TEMPLATE)
        assert sent.body == "A message from your agent:\nShip it? 1) yes 2) no 3) later\nReply to answer."
        assert json.loads(sent.fields["ContentVariables"]) == {"1": "Ship it? 1) yes 2) no 3) later"}
        assert "Body" not in sent.fields

    def test_without_a_template_the_next_channel_is_used(self, twilio: TwilioStandIn) -> None:
        """Refused before anything is sent, with Twilio's code and what to set."""
        with pytest.raises(PermanentChannelError, match=r"24 hours.*content_sid") as raised:
            send(whatsapp(api_url=twilio.url), heard(outgoing(), hours=25))

        assert raised.value.code == "63016"
        assert twilio.requests == 0

    @pytest.mark.parametrize("text", ["", " \n ", "x" * 1025])
    def test_what_no_template_takes_is_refused(self, twilio: TwilioStandIn, text: str) -> None:
        """WhatsApp would refuse it after the fact; the next channel is used at once."""
        with pytest.raises(PermanentChannelError, match="from 1 to 1024 characters"):
            send(whatsapp(api_url=twilio.url, content_sid=TEMPLATE), outgoing(text))

        assert twilio.requests == 0

    def test_a_template_carries_no_files(self, twilio: TwilioStandIn) -> None:
        """Rather than leave them out, the next channel is used."""
        message = replace(outgoing(), attachments=(Attachment(url="https://example.com/plan.pdf"),))

        with pytest.raises(PermanentChannelError, match="the template carries none"):
            send(whatsapp(api_url=twilio.url, content_sid=TEMPLATE), message)

    def test_a_window_that_has_closed_after_all_is_told_afterwards(self) -> None:
        """Twilio takes the message and reports the failure: error 63016 makes the next channel take over."""
        channel = whatsapp(webhook_url=PUBLIC_URL)
        with Receiver(channel) as receiver, TwilioStandIn(auto_status=True) as twilio:
            channel = whatsapp(api_url=twilio.url, webhook_url=receiver.url)
            receipt = send(channel, heard(outgoing()))
            twilio.wait_for_callbacks(1)

        (update,) = receiver.events
        assert isinstance(update, DeliveryUpdate)
        assert (update.provider_id, update.status) == (receipt.provider_id, DeliveryStatus.FAILED)
        assert str(update.error).startswith("63016: they have not written within 24 hours")

    @pytest.mark.parametrize(
        ("text", "flat"),
        [("a\r\nb", "a b"), ("a\t b", "a b"), ("  a     b ", "a b"), ("a\u2028b\0", "a b\ufffd"), ("\n", "")],
    )
    def test_a_variable_has_no_line_ends_and_no_runs_of_spaces(self, text: str, flat: str) -> None:
        """Twilio's error 21656."""
        assert flat == flattened(text)


class TestRefusals:
    def test_a_template_that_does_not_exist_is_named(self, twilio: TwilioStandIn) -> None:
        """The advice says which setting to mend."""
        other = "HX" + "f" * 32

        with pytest.raises(PermanentChannelError, match=r"channels\.whatsapp\.content_sid") as raised:
            send(whatsapp(api_url=twilio.url, content_sid=other), outgoing())

        assert raised.value.code == "21655"

    def test_a_template_with_other_variables_is_named(self) -> None:
        """It must have exactly one, {{1}}."""
        words = r"exactly one variable, \{\{1\}\}"
        with (
            TwilioStandIn(templates={TEMPLATE: "{{1}} and {{2}}"}) as twilio,
            pytest.raises(PermanentChannelError, match=words) as raised,
        ):
            send(whatsapp(api_url=twilio.url, content_sid=TEMPLATE), outgoing())

        assert raised.value.code == "21656"

    def test_a_sender_that_is_not_on_whatsapp_is_named(self, twilio: TwilioStandIn) -> None:
        """Twilio finds no channel with this From."""
        channel = whatsapp(api_url=twilio.url, from_number="+15555550198")

        with pytest.raises(PermanentChannelError, match="must be a WhatsApp sender") as raised:
            send(channel, heard(outgoing()))

        assert raised.value.code == "63007"

    def test_a_wrong_token_names_the_variable(self, twilio: TwilioStandIn) -> None:
        """That of this channel."""
        with pytest.raises(PermanentChannelError, match="WAKELOOP_WHATSAPP_AUTH_TOKEN"):
            send(whatsapp(api_url=twilio.url, auth_token="other"), heard(outgoing()))

    def test_one_file_goes_with_a_message(self, twilio: TwilioStandIn) -> None:
        """WhatsApp shows no more in one."""
        files = [Attachment(url=f"https://example.com/{name}.pdf") for name in "ab"]
        twilio.hear(ON_WHATSAPP)

        send(whatsapp(api_url=twilio.url), heard(replace(outgoing(), attachments=tuple(files[:1]))))
        with pytest.raises(PermanentChannelError, match="WhatsApp takes 1 files"):
            send(whatsapp(api_url=twilio.url), heard(replace(outgoing(), attachments=tuple(files))))

        assert [message.media for message in twilio.messages] == [["https://example.com/a.pdf"]]

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (
                "63003",
                "63003: the number could not be found on the channel: it is not on WhatsApp, or mistyped",
            ),
            ("63015", "63015: the person has not joined the sandbox: they must send its join phrase first"),
            (
                "63024",
                "63024: not a valid WhatsApp recipient: no account, terms not accepted, or an outdated app",
            ),
        ],
    )
    def test_a_failure_is_said_in_words(self, code: str, words: str) -> None:
        """Status callbacks bring the code alone."""
        (update,) = whatsapp().parse(
            form(MessageSid="SM1", MessageStatus="undelivered", ErrorCode=code, From="whatsapp:+1", To="x")
        )

        assert isinstance(update, DeliveryUpdate)
        assert (update.status, update.error) == (DeliveryStatus.FAILED, words)


class TestAfterACrash:
    @pytest.mark.parametrize("hours", [1, 30])
    def test_the_list_is_asked_first(self, twilio: TwilioStandIn, hours: float) -> None:
        """Free text is found as it was said, a template by the variable in it; once."""
        said_at(twilio, hours=hours)
        channel = whatsapp(api_url=twilio.url, content_sid=TEMPLATE)
        message = heard(outgoing("Ship it?\n1) yes"), hours=hours)
        twilio.drop_next_after_taking()

        with pytest.raises(ClientError):
            send(channel, message)
        found = find_sent(channel, message)

        assert found is not None
        assert [found.provider_id] == [taken.sid for taken in twilio.messages]
        assert find_sent(channel, message, found.provider_id) is None

    def test_a_window_that_opened_meanwhile_does_not_hide_it(self, twilio: TwilioStandIn) -> None:
        """They wrote between the crash and the look: what was sent as a template is found all the same."""
        channel = whatsapp(api_url=twilio.url, content_sid=TEMPLATE)
        message = outgoing("Ship it?")
        receipt = send(channel, message)

        found = find_sent(channel, heard(message, hours=0))

        assert found is not None
        assert found.provider_id == receipt.provider_id

    def test_an_sms_to_the_same_number_is_another_message(self, twilio: TwilioStandIn) -> None:
        """The list is that of the `whatsapp:` address."""
        twilio.hear(ON_WHATSAPP)
        receipt = send(whatsapp(api_url=twilio.url), heard(outgoing()))
        listed = call(twilio, "Messages.json", To=ALICE)["messages"]

        assert listed == []
        assert find_sent(whatsapp(api_url=twilio.url), outgoing(), receipt.provider_id) is None

    def test_a_messaging_service_may_send(self) -> None:
        """It chooses the WhatsApp sender, and is looked for as the sender."""
        with TwilioStandIn() as twilio:
            twilio.hear(ON_WHATSAPP)
            channel = whatsapp(api_url=twilio.url, from_number=None, messaging_service_sid=SERVICE)
            message = heard(outgoing())
            receipt = send(channel, message)
            found = find_sent(channel, message)

        assert found is not None
        assert found.provider_id == receipt.provider_id


class TestIncoming:
    def test_a_reply_names_what_it_answers(self) -> None:
        """The number without prefix, the sid of our message, nothing pressed."""
        (message,) = whatsapp().parse(payload("whatsapp_reply"))

        assert isinstance(message, Incoming)
        assert (message.address, message.to_address, message.text) == (ALICE, NUMBER, "Yes, ship it 🚀")
        assert message.reply_to == "SM1a2b3c4d5e6f708192a3b4c5d6e7f820"
        assert (message.pressed, message.raw["ProfileName"]) == (None, "Alice")

    def test_a_pressed_button_has_payload_and_text(self) -> None:
        """The quick reply of a template that users made."""
        (message,) = whatsapp().parse(payload("whatsapp_button"))

        assert isinstance(message, Incoming)
        assert (message.text, message.pressed) == ("Approve", "approve-7")
        assert message.reply_to == "SM1a2b3c4d5e6f708192a3b4c5d6e7f820"

    def test_a_file_comes_by_its_address(self) -> None:
        """To be fetched with the account's credentials."""
        (message,) = whatsapp().parse(payload("whatsapp_media"))

        assert isinstance(message, Incoming)
        assert [file.content_type for file in message.attachments] == ["audio/ogg"]

    def test_read_is_delivered(self) -> None:
        """The blue ticks; the payload keeps what Twilio said."""
        (update,) = whatsapp().parse(payload("whatsapp_read"))

        assert isinstance(update, DeliveryUpdate)
        assert (update.status, update.raw["MessageStatus"]) == (DeliveryStatus.DELIVERED, "read")

    def test_an_sms_does_not_pass_for_whatsapp(self) -> None:
        """Its sender is known less well, so a webhook that was set on the wrong number is refused."""
        with pytest.raises(InvalidWebhook, match="not come by WhatsApp") as raised:
            whatsapp().parse(payload("inbound"))

        assert raised.value.status == 400

    def test_a_conversation_goes_back_and_forth(self, twilio: TwilioStandIn) -> None:
        """Over HTTP, signed: they write, we answer in the window, they reply to that and press a button."""
        channel = whatsapp(api_url=twilio.url)
        with Receiver(channel) as receiver:
            twilio.webhook = receiver.url
            twilio.reply("hello", from_=ON_WHATSAPP)
            receipt = send(channel, heard(outgoing(), hours=0))
            twilio.reply("yes", from_=ON_WHATSAPP, answering=receipt.provider_id)
            answer = twilio.reply("Later", from_=ON_WHATSAPP, button=("Later", "later"))

        first, second, third = receiver.events
        assert isinstance(first, Incoming)
        assert isinstance(second, Incoming)
        assert isinstance(third, Incoming)
        assert (first.text, first.reply_to) == ("hello", None)
        assert (second.text, second.reply_to) == ("yes", receipt.provider_id)
        assert (third.text, third.pressed) == ("Later", "later")
        assert answer.status == 200
        assert twilio.messages[0].status == "queued"


class TestGuide:
    def test_the_console_is_told_where_to_call(self) -> None:
        """The endpoint of the WhatsApp sender."""
        ((where, what),) = whatsapp().guide(PUBLIC_URL)

        assert f"WhatsApp senders > {NUMBER}" in where
        assert what == PUBLIC_URL
        assert AUTH_TOKEN not in where
