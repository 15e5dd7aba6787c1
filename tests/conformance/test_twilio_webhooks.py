"""Twilio's webhooks: who signed them, what they say, and the way from the telephone to the channel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import pytest
from tests.conformance.channel_kit import send
from tests.conformance.twilio_kit import (
    ALICE,
    FORM,
    PAYLOADS,
    PUBLIC_URL,
    SID,
    channel,
    form,
    outgoing,
    payload,
    signed,
)
from tests.conformance.webhook_receiver import Receiver
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from wakeloop.channel import DeliveryStatus, DeliveryUpdate, Incoming, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop.testing.twilio import AUTH_TOKEN, NUMBER, TwilioStandIn, sign


@pytest.fixture
def twilio() -> Iterator[TwilioStandIn]:
    with TwilioStandIn() as stand_in:
        yield stand_in


class TestVerify:
    def test_the_stand_in_signs_as_twilio_does(self) -> None:
        """Our two implementations are held against Twilio's own."""
        parameters = {"Body": "Café + 50%", "From": ALICE, "To": NUMBER, "Empty": ""}
        signature = sign(PUBLIC_URL, parameters.items(), AUTH_TOKEN)

        assert RequestValidator(AUTH_TOKEN).validate(PUBLIC_URL, parameters, signature)

    @pytest.mark.parametrize("name", sorted(path.stem for path in PAYLOADS.glob("*.form")))
    def test_every_payload_is_verified(self, name: str) -> None:
        """Repeated keys, empty values and any alphabet included."""
        channel().verify(payload(name))

    @pytest.mark.parametrize(
        "change",
        [
            lambda r: RawRequest(method=r.method, url=r.url, headers=r.headers, body=r.body + b"&x=1"),
            lambda r: RawRequest(
                method=r.method, url=r.url, headers=r.headers, body=r.body.replace(b"bug", b"bag")
            ),
            lambda r: RawRequest(method=r.method, url=r.url, headers=r.headers, body=b""),
            lambda r: RawRequest(method=r.method, url=r.url + "&x=1", headers=r.headers, body=r.body),
            lambda r: RawRequest(
                method=r.method, url=r.url.replace("https", "http"), headers=r.headers, body=r.body
            ),
            lambda r: RawRequest(
                method=r.method, url=r.url.replace("agents.", ""), headers=r.headers, body=r.body
            ),
        ],
    )
    def test_a_changed_request_is_forged(self, change: Callable[[RawRequest], RawRequest]) -> None:
        """Body, address and scheme are all under the signature."""
        with pytest.raises(InvalidWebhook) as raised:
            channel().verify(change(payload("inbound")))

        assert raised.value.status == 403

    @pytest.mark.parametrize("signature", ["", "   ", "nonsense", "é" * 28, "a" * 10_000])
    def test_a_signature_that_is_none_is_refused(self, signature: str) -> None:
        """Missing, too short, too long, or not even ASCII."""
        request = payload("inbound")
        headers = {**request.headers, "x-twilio-signature": signature}

        with pytest.raises(InvalidWebhook) as raised:
            channel().verify(RawRequest(method="POST", url=request.url, headers=headers, body=request.body))

        assert raised.value.status == 403

    def test_a_request_without_the_header_is_refused(self) -> None:
        """Twilio signs everything."""
        request = payload("inbound")

        with pytest.raises(InvalidWebhook, match="no X-Twilio-Signature"):
            channel().verify(
                RawRequest(method="POST", url=request.url, headers={"content-type": FORM}, body=request.body)
            )

    def test_every_token_verifies(self) -> None:
        """So a token can be rotated without losing a reply; one that was taken out no longer counts."""
        old = signed(b"a=1", token="old")
        new = signed(b"a=1", token="new")

        channel(auth_token="old,new").verify(old)
        channel(auth_token="old,new").verify(new)
        channel(auth_token="new", auth_tokens=["old"]).verify(old)
        with pytest.raises(InvalidWebhook):
            channel(auth_token="new").verify(old)

    @pytest.mark.parametrize(
        ("twilios", "ours"),
        [
            ("https://example.com:443/a", "https://example.com/a"),
            ("https://example.com/a", "https://example.com:443/a"),
            ("http://example.com:80/a", "http://example.com/a"),
            ("https://example.com/a", "https://example.com:8443/a"),
            ("https://me:pw@example.com:443/a", "https://me:pw@example.com/a"),
            ("https://[::1]:443/a", "https://[::1]/a"),
        ],
    )
    def test_the_port_may_be_signed_or_not(self, twilios: str, ours: str) -> None:
        """Twilio is not consistent about it."""
        request = signed(b"a=1", url=twilios)

        channel().verify(RawRequest(method="POST", url=ours, headers=request.headers, body=request.body))

    def test_a_malformed_url_is_refused(self) -> None:
        """A Host header may hold anything."""
        request = signed(b"a=1")

        with pytest.raises(InvalidWebhook) as raised:
            channel().verify(
                RawRequest(method="POST", url="https://[/a", headers=request.headers, body=b"a=1")
            )

        assert raised.value.status == 400

    def test_json_is_signed_by_its_hash(self) -> None:
        """bodySHA256 stands in the URL, which is signed."""
        body = b'{"event": "\xc3\xa9"}'
        url = f"{PUBLIC_URL}&bodySHA256={hashlib.sha256(body).hexdigest()}"
        request = signed(body, url=url, content_type="application/json")

        assert RequestValidator(AUTH_TOKEN).validate(
            url, body.decode(), request.headers["x-twilio-signature"]
        )
        channel().verify(request)
        with pytest.raises(InvalidWebhook):
            channel().verify(
                RawRequest(method="POST", url=url, headers=request.headers, body=body.replace(b"e", b"a"))
            )
        with pytest.raises(InvalidWebhook, match="not signed"):
            channel().verify(signed(body, content_type="application/json"))

    def test_a_shared_key_may_sign_with_sha256(self) -> None:
        """The settings header names the algorithm; one that is not known is refused, not guessed."""
        parameters = {"Body": "yes", "From": ALICE}
        signature = sign(PUBLIC_URL, parameters.items(), "shared", "SHA256")
        assert RequestValidator("shared").validate(PUBLIC_URL, parameters, signature, "HMAC_SHA256")

        def request(algorithm: str) -> RawRequest:
            headers = {
                "content-type": FORM,
                "x-twilio-signature": signature,
                "x-twilio-webhooks-signature-settings": f"key=webhooks_sharedkey_1,algorithm={algorithm}",
            }
            return RawRequest(
                method="POST", url=PUBLIC_URL, headers=headers, body=urlencode(parameters).encode()
            )

        channel(auth_token=f"{AUTH_TOKEN},shared").verify(request("HMAC_SHA256"))
        for algorithm in ("HMAC_SHA1", "HMAC_MD5", "none"):
            with pytest.raises(InvalidWebhook):
                channel(auth_token=f"{AUTH_TOKEN},shared").verify(request(algorithm))

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"Body=" + b"x" * 65_536, 413),
            (b"Body=%ff%fe", 400),
            (b"Body=\xc3\xa9", 400),
            (b"just words", 400),
            (b"a=1&&b=2", 400),
            (b"&".join(b"a%d=1" % number for number in range(501)), 400),
        ],
    )
    def test_a_body_that_cannot_be_read_is_refused(self, body: bytes, status: int) -> None:
        """Before anything is computed on it; parsing says the same."""
        for step in (channel().verify, channel().parse):
            with pytest.raises(InvalidWebhook) as raised:
                step(signed(body))
            assert status == raised.value.status


class TestParse:
    def test_a_message(self) -> None:
        """Its sid is the dedupe key; everything that came is kept."""
        (event,) = channel().parse(payload("inbound"))

        assert isinstance(event, Incoming)
        assert event.provider_id == "SM1a2b3c4d5e6f708192a3b4c5d6e7f809"
        assert (event.address, event.to_address) == (ALICE, NUMBER)
        assert event.text == "The billing bug, please. 50% done & going"
        assert (event.opt_out, event.help, event.attachments) == (None, False, ())
        assert (event.raw["FromCity"], event.raw["ToCity"]) == ("DALY CITY", "")

    def test_a_message_in_any_alphabet(self) -> None:
        """UTF-8, percent-encoded, line end included."""
        (event,) = channel().parse(payload("inbound_unicode"))

        assert isinstance(event, Incoming)
        assert event.text == "Café 👍🏽 – שלום\nü"

    def test_a_message_with_files(self) -> None:
        """Attachments by reference, in order; no words are needed with them."""
        (event,) = channel().parse(payload("inbound_media"))

        assert isinstance(event, Incoming)
        assert event.text == ""
        assert [file.content_type for file in event.attachments] == ["image/jpeg", "application/pdf"]
        assert [file.url.rpartition("/")[2] for file in event.attachments] == ["ME0", "ME1"]

    def test_repeated_keys_are_kept(self) -> None:
        """All their values, in the order in which they came."""
        (event,) = channel().parse(payload("inbound_repeated"))

        assert isinstance(event, Incoming)
        assert event.raw["OtherRecipients"] == ["+15555550103", "+15555550102", "+15555550102"]

    def test_senders_that_are_no_telephones_are_kept(self) -> None:
        """Short codes and other channels' addresses stay as they are: they match no contact."""
        (event,) = channel().parse(payload("inbound_short_code"))
        (whatsapp,) = channel().parse(form(MessageSid=SID, From=f"whatsapp:{ALICE}", Body="hi"))

        assert isinstance(event, Incoming)
        assert event.address == "32665"
        assert isinstance(whatsapp, Incoming)
        assert f"whatsapp:{ALICE}" == whatsapp.address

    def test_what_databases_refuse_is_replaced(self) -> None:
        """U+0000 is no character for PostgreSQL."""
        (event,) = channel().parse(form(MessageSid=SID, From=ALICE, Body="a\0b"))

        assert isinstance(event, Incoming)
        assert event.text == "a\ufffdb"

    @pytest.mark.parametrize(
        ("body", "kind", "opt_out", "wants_help"),
        [
            *(
                (word, None, True, False)
                for word in ("STOP", "stopall", "Unsubscribe", "CANCEL", "end", "quit")
            ),
            *((word, None, True, False) for word in ("REVOKE", "OPTOUT", "opt out", " Stop. ", "STOP!\n")),
            *((word, None, False, False) for word in ("START", "unstop")),
            *((word, None, None, True) for word in ("HELP", "info")),
            *(
                (word, None, None, False)
                for word in ("YES", "no", "stop it", "A7 cancel", "the end", "", "?")
            ),
            ("arrêt", "STOP", True, False),
            ("join", "START", False, False),
            ("aide", "HELP", None, True),
            ("YES", "START", None, False),
            ("start", "HELP", None, True),
        ],
    )
    def test_keywords_are_the_whole_text(
        self, body: str, kind: str | None, opt_out: bool | None, wants_help: bool
    ) -> None:
        """The carriers' words only; OptOutType decides before they do, but a YES answers questions."""
        extra = {} if kind is None else {"OptOutType": kind}

        (event,) = channel().parse(form(MessageSid=SID, From=ALICE, Body=body, **extra))

        assert isinstance(event, Incoming)
        assert (body, opt_out, wants_help) == (event.text, event.opt_out, event.help)

    @pytest.mark.parametrize(
        ("name", "status", "error"),
        [
            ("status_delivered", DeliveryStatus.DELIVERED, None),
            ("status_undelivered", DeliveryStatus.FAILED, "30003: unreachable handset"),
            ("status_sms_only", DeliveryStatus.SENT, None),
        ],
    )
    def test_a_status_callback(self, name: str, status: DeliveryStatus, error: str | None) -> None:
        """Which message, how far, and what went wrong in words."""
        (event,) = channel().parse(payload(name))

        assert isinstance(event, DeliveryUpdate)
        assert event.provider_id == "SM1a2b3c4d5e6f708192a3b4c5d6e7f810"
        assert (status, error) == (event.status, event.error)

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            *((name, "sent") for name in ("accepted", "scheduled", "queued", "sending", "sent")),
            *((name, "delivered") for name in ("delivered", "read", "partially_delivered")),
            *((name, "failed") for name in ("undelivered", "failed", "canceled")),
        ],
    )
    def test_every_documented_status_is_known(self, theirs: str, ours: str) -> None:
        """Twilio's thirteen, less the two of inbound messages."""
        (event,) = channel().parse(form(MessageSid=SID, MessageStatus=theirs))

        assert isinstance(event, DeliveryUpdate)
        assert DeliveryStatus(ours) == event.status

    def test_a_new_status_changes_nothing(self) -> None:
        """What Twilio may invent is acknowledged and not recorded."""
        assert channel().parse(form(MessageSid=SID, MessageStatus="pondering")) == []

    @pytest.mark.parametrize(
        ("code", "words", "error"),
        [("99999", "", "99999"), ("30007", "Carrier violation", "30007: Carrier violation"), ("0", "", None)],
    )
    def test_an_error_is_code_and_words(self, code: str, words: str, error: str | None) -> None:
        """Twilio's words before our own."""
        extra = {"ErrorMessage": words} if words else {}

        (event,) = channel().parse(form(MessageSid=SID, MessageStatus="failed", ErrorCode=code, **extra))

        assert isinstance(event, DeliveryUpdate)
        assert error == event.error

    @pytest.mark.parametrize(
        "parameters",
        [
            {"From": ALICE, "Body": "hi"},
            {"MessageSid": "", "From": ALICE, "Body": "hi"},
            {"MessageSid": "CA" + "0" * 32, "From": ALICE, "Body": "hi"},
            {"MessageSid": SID + "00NumMedia0", "From": ALICE, "Body": "hi"},
            {"MessageSid": SID, "Body": "hi"},
            {"MessageSid": SID, "From": "", "Body": "hi"},
            {"MessageSid": SID, "From": ALICE},
            {},
        ],
    )
    def test_a_message_with_a_part_missing_is_malformed(self, parameters: dict[str, str]) -> None:
        """Without a sid it could not be told from its own retry."""
        with pytest.raises(InvalidWebhook) as raised:
            channel().parse(form(**parameters))

        assert raised.value.status == 400

    def test_two_sids_are_malformed(self) -> None:
        """Somebody moved the boundaries of a signed request."""
        with pytest.raises(InvalidWebhook):
            channel().parse(signed(f"MessageSid={SID}&MessageSid={SID}1&From=1&Body=hi".encode()))

    @pytest.mark.parametrize(
        ("method", "content_type", "status"),
        [
            ("GET", FORM, 405),
            ("POST", "application/json", 415),
            ("POST", "", 415),
            ("POST", "text/plain", 415),
        ],
    )
    def test_another_kind_of_request_is_refused(self, method: str, content_type: str, status: int) -> None:
        """Twilio must be set to HTTP POST."""
        body = urlencode({"MessageSid": SID, "From": ALICE, "Body": "hi"}).encode()
        headers = {"content-type": content_type}

        with pytest.raises(InvalidWebhook) as raised:
            channel().parse(RawRequest(method=method, url=PUBLIC_URL, headers=headers, body=body))

        assert status == raised.value.status

    def test_the_answer_is_what_twilio_expects(self) -> None:
        """Empty TwiML says nothing to the person; a status callback wants no content at all."""
        said = channel().respond(payload("inbound"))
        reported = channel().respond(payload("status_delivered"))

        assert (said.status, said.content_type) == (200, "text/xml; charset=utf-8")
        assert said.body.endswith(b"<Response/>")
        assert (reported.status, reported.body) == (204, b"")


class TestRoundTrip:
    def test_a_reply_comes_in(self, twilio: TwilioStandIn) -> None:
        """From the telephone to the runtime and back, emoji and files included; a retry keeps its sid."""
        sms = channel()
        media = [("https://api.twilio.com/ME1", "image/png")]
        with Receiver(sms) as receiver:
            twilio.webhook = receiver.url
            first = twilio.reply(
                "yes 👍", from_=ALICE, sid=SID, media=media, extra=[("X", "2"), ("X", "1"), ("X", "2")]
            )
            again = twilio.reply("yes 👍", from_=ALICE, sid=SID, media=media)

        assert [first.status, again.status] == [200, 200]
        assert "<Response/>" in first.body
        assert [event.provider_id for event in receiver.events] == [SID, SID]
        assert [event.text for event in receiver.events if isinstance(event, Incoming)] == [
            "yes 👍",
            "yes 👍",
        ]
        assert receiver.events[0].raw["X"] == ["2", "1", "2"]

    def test_a_forged_reply_does_not(self, twilio: TwilioStandIn) -> None:
        """Neither with a wrong signature nor without one, nor signed with a token that was rotated out."""
        with Receiver(channel()) as receiver:
            twilio.webhook = receiver.url
            answers = [
                twilio.forge("yes", from_=ALICE),
                twilio.forge("yes", from_=ALICE, signature="AAAA"),
                twilio.forge("yes", from_=ALICE, signature=""),
                twilio.reply("yes", from_=ALICE, auth_token="rotated out"),
            ]

        assert [answer.status for answer in answers] == [403] * 4
        assert receiver.events == []

    def test_a_proxy_changes_the_address(self, twilio: TwilioStandIn) -> None:
        """What Twilio signed is the public URL; verified against an inner one, every reply is refused."""
        with Receiver(channel(), public_url=PUBLIC_URL) as told, Receiver(channel()) as not_told:
            twilio.signed_url = PUBLIC_URL
            twilio.webhook = told.url
            accepted = twilio.reply("yes", from_=ALICE)
            twilio.webhook = not_told.url
            refused = twilio.reply("yes", from_=ALICE)

        assert (accepted.status, refused.status) == (200, 403)
        assert "public URL" in refused.body

    def test_a_message_is_followed_to_its_end(self) -> None:
        """Status callbacks come by themselves, as Twilio makes them."""
        sms = channel()
        with Receiver(sms) as receiver, TwilioStandIn(auto_status=True) as twilio:
            sending = channel(api_url=twilio.url, webhook_url=receiver.url)
            receipt = send(sending, outgoing())
            twilio.wait_for_callbacks(2)

        assert [callback.answer and callback.answer.status for callback in twilio.callbacks] == [204, 204]
        assert [
            (receipt.provider_id, DeliveryStatus.SENT),
            (receipt.provider_id, DeliveryStatus.DELIVERED),
        ] == [
            (event.provider_id, event.status)
            for event in receiver.events
            if isinstance(event, DeliveryUpdate)
        ]

    def test_a_failure_is_reported(self, twilio: TwilioStandIn) -> None:
        """With Twilio's code."""
        with Receiver(channel()) as receiver:
            twilio.webhook = receiver.url
            sms = channel(api_url=twilio.url, webhook_url=receiver.url)
            receipt = send(sms, outgoing())
            answer = twilio.post_status(receipt.provider_id, "undelivered", 30005)

        (event,) = receiver.events
        assert answer.status == 204
        assert isinstance(event, DeliveryUpdate)
        assert (event.status, event.error) == (DeliveryStatus.FAILED, "30005: unknown or inactive number")

    def test_a_shared_key_signs_over_http(self, twilio: TwilioStandIn) -> None:
        """The SHA-256 variant, end to end."""
        with Receiver(channel(auth_token=f"{AUTH_TOKEN},shared")) as receiver:
            twilio.webhook = receiver.url
            parameters = [("MessageSid", SID), ("From", ALICE), ("Body", "yes")]
            answer = twilio.post(parameters, auth_token="shared", algorithm="SHA256")

        assert answer.status == 200
        assert len(receiver.events) == 1
