"""What the channels through Twilio do besides messages: files in and out, checking the account, guiding through the
Console."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.conformance.channel_kit import find_sent, send, using
from tests.conformance.twilio_kit import ALICE, PUBLIC_URL, SERVICE, channel, outgoing, payload
from tests.conformance.webhook_receiver import Receiver

from wakeloop.channel import Checking, Fetching, Guiding, Incoming
from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop.events import Attachment
from wakeloop.testing.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER, TwilioStandIn
from wakeloop_channels.twilio import TwilioChannel

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


@pytest.fixture
def twilio() -> Iterator[TwilioStandIn]:
    with TwilioStandIn(api_keys={"SK123": "key secret"}) as stand_in:
        yield stand_in


def with_files(*urls: str) -> Any:
    return replace(outgoing(), attachments=tuple(Attachment(url=url, name="plan") for url in urls))


def fetch(sms: TwilioChannel, url: str) -> bytes:
    return using(sms, lambda it: it.fetch(Attachment(url=url)))


class TestFilesOut:
    def test_files_are_named_for_twilio_to_fetch(self, twilio: TwilioStandIn) -> None:
        """Each as a MediaUrl, in order, beside the text; after a crash the message is found as any other."""
        sms, message = (
            channel(api_url=twilio.url),
            with_files("https://example.com/a.png", "http://example.com/b"),
        )

        receipt = send(sms, message)
        found = find_sent(sms, message)

        (sent,) = twilio.messages
        assert sent.media == ["https://example.com/a.png", "http://example.com/b"]
        assert sent.body == message.text
        assert found is not None
        assert found.provider_id == receipt.provider_id

    def test_a_file_needs_no_text(self, twilio: TwilioStandIn) -> None:
        """Then the message is the file alone."""
        send(channel(api_url=twilio.url), replace(with_files("https://example.com/a.png"), text=""))

        assert [(sent.body, len(sent.media)) for sent in twilio.messages] == [("", 1)]

    @pytest.mark.parametrize(
        ("urls", "words"),
        [
            (["data:text/plain,ship%20it"], "stands in the message, which SMS cannot bring"),
            (["https://example.com/a.png", "wakeloop:files/1"], "stands in the message"),
            ([f"https://example.com/{number}" for number in range(11)], "SMS takes 10 files"),
        ],
    )
    def test_what_twilio_cannot_fetch_is_refused(
        self, twilio: TwilioStandIn, urls: list[str], words: str
    ) -> None:
        """For good, so that another channel brings it: nothing is left out silently."""
        with pytest.raises(PermanentChannelError, match=words):
            send(channel(api_url=twilio.url), with_files(*urls))

        assert twilio.requests == 0


class TestFilesIn:
    def test_a_file_that_came_is_fetched(self, twilio: TwilioStandIn) -> None:
        """With our credentials from Twilio, and without them from where Twilio redirects to."""
        url = twilio.store(PICTURE, "image/png")
        sms = channel(api_url=twilio.url)
        with Receiver(sms) as receiver:
            twilio.webhook = receiver.url
            twilio.reply("look", from_=ALICE, media=[(url, "image/png")])

        (message,) = receiver.events
        assert isinstance(sms, Fetching)
        assert isinstance(message, Incoming)
        assert fetch(sms, message.attachments[0].url) == PICTURE

    def test_an_api_key_fetches_too(self, twilio: TwilioStandIn) -> None:
        """It signs whatever goes to Twilio."""
        sms = channel(api_url=twilio.url, auth_token="other", api_key="SK123", api_secret="key secret")

        assert fetch(sms, twilio.store(PICTURE, "image/png")) == PICTURE

    @pytest.mark.parametrize("size", [0, 1, 100])
    def test_a_file_may_be_as_large_as_allowed(self, twilio: TwilioStandIn, size: int) -> None:
        """Up to `media_bytes`, and not a byte more."""
        sms = channel(api_url=twilio.url, media_bytes=100)

        assert fetch(sms, twilio.store(b"x" * size, "text/plain")) == b"x" * size
        with pytest.raises(PermanentChannelError, match="more than 100 bytes"):
            fetch(sms, twilio.store(b"x" * 101, "text/plain"))

    def test_a_file_that_is_gone_is_gone(self, twilio: TwilioStandIn) -> None:
        """It is asked for again for a moment first: a webhook may come before its file."""
        url = twilio.store(PICTURE, "image/png")
        twilio.lose(url)

        with pytest.raises(PermanentChannelError) as raised:
            fetch(channel(api_url=twilio.url), url)

        assert raised.value.code == "20404"
        assert twilio.requests == 3

    def test_a_file_that_comes_late_is_waited_for(self, twilio: TwilioStandIn) -> None:
        """A 404 at first is no answer."""
        url = twilio.store(PICTURE, "image/png")
        twilio.fail_next(404, 20404)

        assert fetch(channel(api_url=twilio.url), url) == PICTURE

    def test_trouble_at_twilio_passes(self, twilio: TwilioStandIn) -> None:
        """Reading may be tried again."""
        url = twilio.store(PICTURE, "image/png")
        for status in (500, 429):
            twilio.fail_next(status)
            with pytest.raises(TemporaryChannelError):
                fetch(channel(api_url=twilio.url), url)

    @pytest.mark.parametrize(
        "url",
        [
            "https://evil.example/2010-04-01/Accounts/{account}/Messages/MM1/Media/ME1",
            "https://api.twilio.com.evil.example/2010-04-01/Accounts/{account}/Messages/MM1/Media/ME1",
            "http://api.twilio.com/2010-04-01/Accounts/{account}/Messages/MM1/Media/ME1",
            "https://api.twilio.com/2010-04-01/Accounts/AC9/Messages/MM1/Media/ME1",
            "https://api.twilio.com/2010-04-01/Accounts/{account}/Messages/MM1.json",
            "https://api.twilio.com/2010-04-01/Accounts/{account}/Messages/../Keys.json?x=/Media/",
            "http://169.254.169.254/latest/meta-data",
            "wakeloop:files/1",
            "file:///etc/passwd",
            "",
        ],
    )
    def test_credentials_go_nowhere_else(self, twilio: TwilioStandIn, url: str) -> None:
        """Only to files of this account at Twilio, over TLS."""
        with pytest.raises(PermanentChannelError, match="no file of this Twilio account"):
            fetch(channel(), url.format(account=ACCOUNT_SID))

    def test_regional_addresses_are_twilios(self) -> None:
        """api.dublin.ie1.twilio.com and the like; nothing listens in tests, so it is not reached."""
        url = f"https://api.dublin.ie1.twilio.com/2010-04-01/Accounts/{ACCOUNT_SID}/Messages/MM1/Media/ME1"

        with pytest.raises(ChannelError) as raised:
            fetch(channel(api_url="http://127.0.0.1:9"), url.replace("dublin.ie1.twilio.com", "evil.example"))

        assert "no file of this Twilio account" in str(raised.value)
        with pytest.raises(TemporaryChannelError):
            fetch(channel(api_url="http://127.0.0.1:9"), url)

    def test_the_addresses_of_payloads_are_ours(self, twilio: TwilioStandIn) -> None:
        """As the provider's reference shows them."""
        (message,) = channel().parse(payload("inbound_media"))

        assert isinstance(message, Incoming)
        for file in message.attachments:
            with pytest.raises(PermanentChannelError) as raised:
                fetch(channel(api_url=twilio.url), file.url)
            assert raised.value.code == "20404"


class TestCheck:
    def test_the_account_is_named(self, twilio: TwilioStandIn) -> None:
        """By its sid and its name; nobody is written to."""
        sms = channel(api_url=twilio.url)

        assert isinstance(sms, Checking)
        assert using(sms, lambda it: it.check()) == f"account {ACCOUNT_SID} (Stand-in)"

    def test_an_api_key_is_checked_by_a_list(self, twilio: TwilioStandIn) -> None:
        """It may not read the account."""
        sms = channel(api_url=twilio.url, auth_token="other", api_key="SK123", api_secret="key secret")

        assert using(sms, lambda it: it.check()) == f"account {ACCOUNT_SID} with API key SK123"

    def test_a_wrong_token_is_found(self, twilio: TwilioStandIn) -> None:
        """With the variable to mend."""
        with pytest.raises(PermanentChannelError, match="WAKELOOP_SMS_AUTH_TOKEN"):
            using(channel(api_url=twilio.url, auth_token="other"), lambda it: it.check())

    def test_a_suspended_account_is_found(self, twilio: TwilioStandIn) -> None:
        """Its credentials are good, and it sends nothing."""
        twilio.account_status = "suspended"

        with pytest.raises(PermanentChannelError, match="is suspended: see Twilio's Console"):
            using(channel(api_url=twilio.url), lambda it: it.check())


class TestGuide:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [({}, NUMBER), ({"from_number": None, "messaging_service_sid": SERVICE}, SERVICE)],
    )
    def test_the_console_is_told_where_to_call(self, changes: dict[str, Any], named: str) -> None:
        """At the number, or at the messaging service that has it."""
        sms = channel(**changes)

        ((where, what),) = sms.guide(PUBLIC_URL)

        assert isinstance(sms, Guiding)
        assert named in where
        assert "POST" in where
        assert what == PUBLIC_URL
        assert AUTH_TOKEN not in where
