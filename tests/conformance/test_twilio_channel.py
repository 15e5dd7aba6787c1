"""The SMS channel against a stand-in for Twilio over real HTTP: settings, sending, reconciliation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import ClientError
from tests.conformance.channel_kit import find_sent, send, using
from tests.conformance.twilio_kit import ALICE, PUBLIC_URL, SERVICE, channel, outgoing
from tests.conformance.webhook_receiver import Receiver

from wakeloop.channel import Channel, DeliveryStatus, Receipt
from wakeloop.errors import ChannelError, ConfigurationError, PermanentChannelError, TemporaryChannelError
from wakeloop.testing.twilio import AUTH_TOKEN, NUMBER, TwilioStandIn
from wakeloop_channels.twilio import TwilioChannel


@pytest.fixture
def twilio() -> Iterator[TwilioStandIn]:
    with TwilioStandIn() as stand_in:
        yield stand_in


class TestSettings:
    def test_the_port_is_fulfilled(self) -> None:
        """The adapter is a Channel that people answer, with receipts and reconciliation."""
        sms = channel()

        assert isinstance(sms, Channel)
        assert sms.name == "sms"
        assert (
            sms.capabilities.inbound,
            sms.capabilities.receipts,
            sms.capabilities.reconcile,
            sms.capabilities.idempotent,
        ) == (True, True, True, False)

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"account_sid": None}, "WAKELOOP_SMS_ACCOUNT_SID"),
            ({"account_sid": "SK123"}, "channels.sms.account_sid"),
            ({"auth_token": None}, "WAKELOOP_SMS_AUTH_TOKEN"),
            ({"auth_token": " , "}, "WAKELOOP_SMS_AUTH_TOKEN"),
            ({"from_number": None}, "channels.sms.from_number"),
            ({"messaging_service_sid": SERVICE}, "exactly one"),
            ({"from_number": "+1"}, "channels.sms.from_number"),
            ({"from_number": None, "messaging_service_sid": "XX1"}, "channels.sms.messaging_service_sid"),
            ({"api_key": "SK123"}, "WAKELOOP_SMS_API_SECRET"),
            ({"api_url": "api.example.com"}, "channels.sms.api_url"),
            ({"timeout": 0}, "channels.sms.timeout"),
            ({"default_region": "Germany"}, "channels.sms.default_region"),
            ({"form_number": NUMBER}, "channels.sms.form_number is no setting"),
        ],
    )
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        """The error says which key or environment variable to mend."""
        with pytest.raises(ConfigurationError) as raised:
            channel(**changes)

        assert named in str(raised.value)

    def test_a_secret_is_never_shown(self) -> None:
        """Neither errors nor the settings' own form hold a token's value."""
        with pytest.raises(ConfigurationError) as raised:
            channel(auth_token="s3cret", api_key="SK123", account_sid="nonsense")

        assert "s3cret" not in str(raised.value)
        assert "s3cret" not in repr(channel(auth_token="s3cret").settings)

    @pytest.mark.parametrize("sender", ["+15555550199", "24273", "WAKELOOP"])
    def test_numbers_short_codes_and_names_can_send(self, sender: str) -> None:
        """All three kinds of sender that Twilio takes as From."""
        assert sender == channel(from_number=sender).settings.from_number

    def test_text_from_the_environment_is_understood(self) -> None:
        """Environment variables are always text."""
        sms = channel(timeout="2.5", status_callbacks="false", webhook_url="https://example.com/hooks/sms")

        assert sms.settings.timeout == 2.5
        assert not sms.settings.status_callbacks


class TestNormalize:
    @pytest.mark.parametrize(
        ("region", "given", "number"),
        [
            (None, "+15555550100", "+15555550100"),
            (None, " +1 (555) 555-0100 ", "+15555550100"),
            (None, "+33 6 12 34 56 78", "+33612345678"),
            ("US", "(555) 555-0100", "+15555550100"),
            ("FR", "06 12 34 56 78", "+33612345678"),
            ("US", "+44 7400 123456", "+447400123456"),
        ],
    )
    def test_every_spelling_becomes_e164(self, region: str | None, given: str, number: str) -> None:
        """One canonical form for one telephone."""
        assert number == channel(default_region=region).normalize(given)

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("555-0100", r"must begin with \+"),
            ("15555550100", r"must begin with \+"),
            ("+1555555010", "too few digits"),
            ("+1555555010000", "too many digits"),
            ("+999123456789", "no such country code"),
            ("whatsapp:+15555550100", "only digits"),
            ("+1800FLOWERS", "only digits"),
            ("+", "only digits|no telephone number|too few|country"),
            ("", "only digits"),
            ("alice", "only digits"),
        ],
    )
    def test_what_is_no_number_is_refused_with_the_reason(self, given: str, reason: str) -> None:
        """A wrong contact is found at start, not when it is written to."""
        with pytest.raises(ValueError, match=reason):
            channel().normalize(given)


class TestSend:
    def test_a_message_is_handed_over_as_it_is(self, twilio: TwilioStandIn) -> None:
        """Text, address, sender; emoji, line ends and form characters survive."""
        text = "Ship it? 👍🏽\nCafé & 50% + = “quoted” \\ שלום"

        receipt = send(channel(api_url=twilio.url), outgoing(text))

        (sent,) = twilio.messages
        assert (text, ALICE, NUMBER) == (sent.body, sent.to, sent.from_)
        assert sent.sid == receipt.provider_id
        assert receipt.status == DeliveryStatus.SENT
        assert receipt.raw["status"] == "queued"
        assert "StatusCallback" not in sent.fields

    def test_the_callback_url_is_passed_on(self, twilio: TwilioStandIn) -> None:
        """Twilio reports to the runtime's webhook, unless that is switched off."""
        send(channel(api_url=twilio.url, webhook_url=PUBLIC_URL), outgoing())
        send(channel(api_url=twilio.url, webhook_url=PUBLIC_URL, status_callbacks=False), outgoing())

        assert [message.status_callback for message in twilio.messages] == [PUBLIC_URL, None]

    def test_a_messaging_service_chooses_the_sender(self, twilio: TwilioStandIn) -> None:
        """It takes the place of From, and may not change the text."""
        sms = channel(api_url=twilio.url, from_number=None, messaging_service_sid=SERVICE)

        receipt = send(sms, outgoing())

        (sent,) = twilio.messages
        assert (sent.messaging_service_sid, sent.from_) == (SERVICE, None)
        assert sent.fields["SmartEncoded"] == "false"
        assert (receipt.raw["status"], receipt.status) == ("accepted", DeliveryStatus.SENT)

    def test_the_first_token_signs_in(self, twilio: TwilioStandIn) -> None:
        """During a rotation the others only verify."""
        send(channel(api_url=twilio.url, auth_token=f"{AUTH_TOKEN}, older"), outgoing())
        with pytest.raises(PermanentChannelError) as raised:
            send(channel(api_url=twilio.url, auth_token=f"older,{AUTH_TOKEN}"), outgoing())

        assert raised.value.code == "20003"
        assert "WAKELOOP_SMS_AUTH_TOKEN" in str(raised.value)

    def test_an_api_key_signs_in_instead(self) -> None:
        """Then the auth token is only for webhooks."""
        with TwilioStandIn(api_keys={"SK123": "key secret"}) as twilio:
            send(
                channel(api_url=twilio.url, auth_token="other", api_key="SK123", api_secret="key secret"),
                outgoing(),
            )

            assert len(twilio.messages) == 1

    @pytest.mark.parametrize(
        ("to", "text", "code"),
        [
            ("+0155555501", "hello", "21211"),
            ("+15005550001", "hello", "21211"),
            ("+15005550004", "hello", "21610"),
            ("+15005550009", "hello", "21614"),
            (ALICE, "   ", "21602"),
            (ALICE, "x" * 1601, "21617"),
        ],
    )
    def test_a_refusal_for_good_says_why(self, twilio: TwilioStandIn, to: str, text: str, code: str) -> None:
        """Twilio's code is kept; the number is not in the words, which are logged."""
        with pytest.raises(PermanentChannelError) as raised:
            send(channel(api_url=twilio.url), outgoing(text, to))

        assert code == raised.value.code
        assert code in str(raised.value)
        assert to not in str(raised.value)
        assert twilio.messages == []

    def test_nobody_is_written_to_after_stop(self, twilio: TwilioStandIn) -> None:
        """Twilio holds the line until the person sends START."""
        sms = channel(api_url=twilio.url)
        with Receiver(sms) as receiver:
            twilio.webhook = receiver.url
            twilio.reply("STOP", from_=ALICE)
            with pytest.raises(PermanentChannelError) as raised:
                send(sms, outgoing())
            twilio.reply("START", from_=ALICE)
            send(sms, outgoing())

        assert raised.value.code == "21610"
        assert len(twilio.messages) == 1

    @pytest.mark.parametrize(
        ("status", "code"), [(429, 20429), (429, None), (503, 20503), (503, None), (400, 21611)]
    )
    def test_what_was_not_processed_may_be_tried_again(
        self, twilio: TwilioStandIn, status: int, code: int | None
    ) -> None:
        """Twilio documents 429 and 503 so, and honours Retry-After; a gateway's page has no code."""
        twilio.fail_next(status, code, retry_after=17)

        with pytest.raises(TemporaryChannelError) as raised:
            send(channel(api_url=twilio.url), outgoing())

        assert raised.value.retry_after == 17.0
        assert (None if code is None else str(code)) == raised.value.code
        assert twilio.messages == []

    @pytest.mark.parametrize(
        ("from_now", "low", "high"), [(timedelta(hours=1), 3500, 3600), (timedelta(hours=-1), 0, 0)]
    )
    def test_retry_after_may_be_a_date(
        self, twilio: TwilioStandIn, from_now: timedelta, low: float, high: float
    ) -> None:
        """RFC 9110; a date that has passed means now."""
        header = format_datetime(datetime.now(UTC) + from_now, usegmt=True)
        twilio.fail_next(429, 20429, retry_after=header)

        with pytest.raises(TemporaryChannelError) as raised:
            send(channel(api_url=twilio.url), outgoing())

        assert raised.value.retry_after is not None
        assert low <= raised.value.retry_after <= high

    @pytest.mark.parametrize("header", [None, "soon", "-1"])
    def test_retry_after_may_be_missing(self, twilio: TwilioStandIn, header: str | None) -> None:
        """Then the runtime's own timetable counts."""
        twilio.fail_next(429, 20429, retry_after=header)

        with pytest.raises(TemporaryChannelError) as raised:
            send(channel(api_url=twilio.url), outgoing())

        assert raised.value.retry_after is None

    @pytest.mark.parametrize(("status", "code"), [(500, 20500), (502, None), (504, None)])
    def test_a_server_error_leaves_the_outcome_open(
        self, twilio: TwilioStandIn, status: int, code: int | None
    ) -> None:
        """Twilio documents that a message may have been sent although a 500 was answered."""
        twilio.fail_next(status, code)

        with pytest.raises(ChannelError) as raised:
            send(channel(api_url=twilio.url), outgoing())

        assert not isinstance(raised.value, TemporaryChannelError | PermanentChannelError)

    def test_a_redirect_is_not_followed(self, twilio: TwilioStandIn) -> None:
        """Credentials go to the configured address only."""
        twilio.fail_next(307)

        with pytest.raises(PermanentChannelError):
            send(channel(api_url=twilio.url), outgoing())

        assert twilio.requests == 1

    def test_a_provider_that_is_down_was_not_reached(self, twilio: TwilioStandIn) -> None:
        """Nothing listens: certainly not sent."""
        url = twilio.url
        twilio.stop()

        with pytest.raises(TemporaryChannelError):
            send(channel(api_url=url), outgoing())

    def test_a_provider_that_accepts_no_connection_was_not_reached(self) -> None:
        """The connection's timeout is told apart from the answer's. (TEST-NET-1, RFC 5737, is routed nowhere.)"""
        with pytest.raises(TemporaryChannelError):
            send(channel(api_url="http://192.0.2.1", timeout=0.3), outgoing())

    def test_a_lost_connection_is_reconciled(self, twilio: TwilioStandIn) -> None:
        """The message went out: the outcome is unknown, and `find_sent` finds it exactly once."""
        sms, message = channel(api_url=twilio.url), outgoing()
        twilio.drop_next_after_taking()

        with pytest.raises(ClientError) as raised:
            send(sms, message)
        found = find_sent(sms, message)

        assert not isinstance(raised.value, ChannelError)
        assert found is not None
        assert [found.provider_id] == [taken.sid for taken in twilio.messages]
        assert find_sent(sms, message, found.provider_id) is None

    def test_a_slow_answer_is_reconciled(self, twilio: TwilioStandIn) -> None:
        """A timeout after the request went out says nothing about the message."""
        sms, message = channel(api_url=twilio.url, timeout=0.3), outgoing()
        twilio.slow_next(2)

        with pytest.raises(TimeoutError):
            send(sms, message)
        found = find_sent(sms, message)

        assert found is not None
        assert [found.provider_id] == [taken.sid for taken in twilio.messages]

    def test_many_at_once_share_the_connections(self, twilio: TwilioStandIn) -> None:
        """Each gets its own receipt."""
        texts = [f"message {number}" for number in range(40)]

        async def send_all(sms: TwilioChannel) -> list[Receipt]:
            return await asyncio.gather(*(sms.send(outgoing(text)) for text in texts))

        receipts = using(channel(api_url=twilio.url), send_all)

        bodies = {taken.sid: taken.body for taken in twilio.messages}
        assert texts == [bodies[receipt.provider_id] for receipt in receipts]

    def test_nothing_personal_is_logged(
        self, twilio: TwilioStandIn, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Twilio's client would log numbers at INFO."""
        with caplog.at_level(logging.INFO):
            sms, message = channel(api_url=twilio.url), outgoing("a secret")
            send(sms, message)
            find_sent(sms, message)

        assert ALICE not in caplog.text
        assert "a secret" not in caplog.text


class TestFindSent:
    def test_only_the_same_message_is_found(self, twilio: TwilioStandIn) -> None:
        """Another text, person, sender or direction is another message."""
        sms = channel(api_url=twilio.url)
        send(sms, outgoing("other text"))
        send(sms, outgoing(to="+15555550101"))
        send(channel(api_url=twilio.url, from_number="+15555550198"), outgoing())
        with Receiver(sms) as receiver:
            twilio.webhook = receiver.url
            twilio.reply("What comes first?", from_=NUMBER, to=ALICE)

        assert find_sent(sms, outgoing()) is None

    def test_what_left_before_the_claim_is_not_found(self, twilio: TwilioStandIn) -> None:
        """The same words sent an hour ago are not this delivery."""
        sms = channel(api_url=twilio.url)
        send(sms, outgoing())
        twilio.messages[0].date_created -= timedelta(hours=1)

        assert find_sent(sms, outgoing()) is None
        assert find_sent(sms, outgoing(age=3601)) is not None

    def test_the_second_in_which_it_was_claimed_counts(self, twilio: TwilioStandIn) -> None:
        """Twilio's times are in whole seconds, and its clock may be a little behind."""
        sms, message = channel(api_url=twilio.url), outgoing()
        send(sms, message)
        twilio.messages[0].date_created = message.claimed_at - timedelta(seconds=2)

        assert find_sent(sms, message) is not None

    def test_the_oldest_unknown_one_is_found(self, twilio: TwilioStandIn) -> None:
        """Two deliveries with the same words are told apart by what is known already."""
        sms, message = channel(api_url=twilio.url), outgoing()
        first, second, third = (send(sms, message).provider_id for _ in range(3))

        found = [
            find_sent(sms, message, *known)
            for known in ([], [first], [first, second], [first, second, third])
        ]

        assert [first, second, third, None] == [receipt and receipt.provider_id for receipt in found]

    def test_the_list_is_read_to_its_end(self, twilio: TwilioStandIn) -> None:
        """Later messages to the same person fill whole pages before it."""
        sms, message = channel(api_url=twilio.url), outgoing("the lost one")

        async def talk(it: TwilioChannel) -> None:
            await it.send(message)
            for start in range(0, 410, 41):
                await asyncio.gather(*(it.send(outgoing(f"chatter {start + n}")) for n in range(41)))

        using(sms, talk)
        found = find_sent(sms, message)

        assert found is not None
        assert twilio.messages[0].sid == found.provider_id

    def test_reading_stops_at_what_is_long_past(self, twilio: TwilioStandIn) -> None:
        """Years of conversation are not read again after each crash."""
        sms = channel(api_url=twilio.url)

        async def talk(it: TwilioChannel) -> None:
            await asyncio.gather(*(it.send(outgoing(f"chatter {n}")) for n in range(201)))

        using(sms, talk)
        for number, taken in enumerate(twilio.messages):
            taken.date_created -= timedelta(days=3, seconds=number)
        before = twilio.requests

        assert find_sent(sms, outgoing()) is None
        assert twilio.requests - before == 1

    def test_a_trial_account_changes_the_text(self, twilio: TwilioStandIn) -> None:
        """The sentence that Twilio puts in front is looked past."""
        sms, message = channel(api_url=twilio.url), outgoing()
        send(sms, message)
        twilio.messages[0].body = f"Sent from your Twilio trial account - {message.text}"

        assert find_sent(sms, message) is not None

    def test_a_messaging_service_is_asked_by_its_sid(self, twilio: TwilioStandIn) -> None:
        """Its numbers are not known beforehand; somebody else's message is not taken for ours."""
        sms = channel(api_url=twilio.url, from_number=None, messaging_service_sid=SERVICE)
        send(channel(api_url=twilio.url), outgoing())

        assert find_sent(sms, outgoing()) is None
        sent = send(sms, outgoing())
        found = find_sent(sms, outgoing())

        assert found is not None
        assert sent.provider_id == found.provider_id

    @pytest.mark.parametrize("status", ["failed", "delivered"])
    def test_how_far_it_came_is_told(self, twilio: TwilioStandIn, status: str) -> None:
        """It may have been delivered, or failed, while we were away."""
        sms, message = channel(api_url=twilio.url), outgoing()
        send(sms, message)
        twilio.messages[0].status = status

        found = find_sent(sms, message)

        assert found is not None
        assert DeliveryStatus(status) == found.status

    @pytest.mark.parametrize("status", [429, 500, 502])
    def test_an_unreadable_list_may_be_read_later(self, twilio: TwilioStandIn, status: int) -> None:
        """No answer is not the same as no message."""
        twilio.fail_next(status)

        with pytest.raises(TemporaryChannelError):
            find_sent(channel(api_url=twilio.url), outgoing())

    def test_a_lost_connection_may_be_made_again(self, twilio: TwilioStandIn) -> None:
        """Reading changes nothing, so any failure is temporary."""
        for _ in range(3):  # the client repeats a GET by itself on a connection that went stale
            twilio.drop_next_after_taking()

        with pytest.raises(TemporaryChannelError):
            find_sent(channel(api_url=twilio.url), outgoing())
