"""Mail by webhook: who made the request, and that each provider's form is read as the mail that it holds."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance.email_inbound_kit import OURS, mail, settings

from wakeloop.channel import Incoming, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop_channels.email_settings import EmailSettings
from wakeloop_channels.email_webhooks import MAX_BYTES, parse, respond, verify

URL = "https://agents.example.com/webhooks/email"
NOW = 1_793_613_600.0
SECRET = "a-secret-that-is-long-enough"
KEY = ec.derive_private_key(4711, ec.SECP256R1())
PUBLIC = base64.b64encode(
    KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
OTHER = base64.b64encode(
    ec.derive_private_key(4712, ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()


def multipart(
    fields: Mapping[str, bytes | str], files: Mapping[str, tuple[str, str, bytes]] | None = None
) -> bytes:
    """A form as providers post it."""
    parts = []
    for name, value in fields.items():
        data = value.encode() if isinstance(value, str) else value
        parts.append(
            b'--xyz\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), data)
        )
    for name, (filename, kind, data) in (files or {}).items():
        parts.append(
            b'--xyz\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: %s\r\n\r\n%s\r\n'
            % (name.encode(), filename.encode(), kind.encode(), data)
        )
    return b"".join(parts) + b"--xyz--\r\n"


def post(
    body: bytes, kind: str = "multipart/form-data; boundary=xyz", url: str = URL, **headers: str
) -> RawRequest:
    """A request; header names with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RawRequest(method="POST", url=url, headers={"content-type": kind, **named}, body=body)


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def mailgun(
    fields: Mapping[str, bytes | str], *, key: str = SECRET, at: float = NOW, **more: Any
) -> RawRequest:
    """Signed as Mailgun does."""
    stamp, token = str(int(at)), "0123456789abcdef" * 3
    signature = hmac.new(key.encode(), (stamp + token).encode(), hashlib.sha256).hexdigest()
    return post(multipart({**fields, "timestamp": stamp, "token": token, "signature": signature}, **more))


def sendgrid(body: bytes, *, key: ec.EllipticCurvePrivateKey = KEY) -> RawRequest:
    """Signed as SendGrid's security policy does."""
    stamp = str(int(NOW))
    signature = base64.b64encode(key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
    return post(
        body, x_twilio_email_event_webhook_signature=signature, x_twilio_email_event_webhook_timestamp=stamp
    )


def raw(body: bytes, *, secret: bytes = SECRET.encode(), at: float = NOW, id: str = "msg_1") -> RawRequest:
    """Signed in the form of Standard Webhooks."""
    told = f"{id}.{int(at)}.".encode() + body
    signature = "v1," + base64.b64encode(hmac.digest(secret, told, "sha256")).decode()
    return post(
        body,
        "message/rfc822",
        webhook_id=id,
        webhook_timestamp=str(int(at)),
        webhook_signature=f"v1,nonsense {signature}",
    )


MAILGUN = settings(inbound="mailgun", mailgun_signing_key=f"old-key,{SECRET}")
SENDGRID = settings(inbound="sendgrid", sendgrid_public_key=f"{OTHER},{PUBLIC}")
SENDGRID_PASSWORD = settings(inbound="sendgrid", sendgrid_password=f"old-password,{SECRET}")
POSTMARK = settings(inbound="postmark", postmark_password=f"old-password,{SECRET}")
RAW = settings(inbound="raw", raw_secret=f"an-old-secret-of-some-length,{SECRET}")

MAIL = mail("gmail_en")
SENDGRID_FORM = {
    "email": MAIL,
    "envelope": '{"to":["agents@example.com"],"from":"alice@example.org"}',
    "SPF": "pass",
    "dkim": "{@example.org : pass}",
}
POSTMARK_JSON = json.dumps({"RawEmail": MAIL.decode(), "OriginalRecipient": "agents@example.com"}).encode()

GOOD: dict[str, tuple[EmailSettings, RawRequest]] = {
    "mailgun": (
        MAILGUN,
        mailgun({"body-mime": MAIL, "recipient": "agents@example.com", "sender": "alice@example.org"}),
    ),
    "sendgrid": (SENDGRID, sendgrid(multipart(SENDGRID_FORM))),
    "sendgrid by password": (SENDGRID_PASSWORD, post(multipart(SENDGRID_FORM), authorization=basic(SECRET))),
    "sendgrid by key": (SENDGRID_PASSWORD, post(multipart(SENDGRID_FORM), url=f"{URL}?key={SECRET}")),
    "postmark": (POSTMARK, post(POSTMARK_JSON, "application/json", authorization=basic(SECRET))),
    "raw": (RAW, raw(MAIL)),
    "raw by bearer": (RAW, post(MAIL, "message/rfc822", authorization=f"Bearer {SECRET}")),
}
EVERY = pytest.mark.parametrize("name", list(GOOD))


HEADERS = ("authorization", "webhook-timestamp", "x-twilio-email-event-webhook-signature", "content-type")
ALLOWED = (None, *range(400, 500))


def outcome(call: Callable[[], object]) -> int | None:
    """With which status it is refused; None if it is not."""
    try:
        call()
    except InvalidWebhook as error:
        return error.status
    return None


def refused(call: Callable[[], object]) -> int:
    """With which status it is refused."""
    with pytest.raises(InvalidWebhook) as raised:
        call()
    return raised.value.status


class TestEveryProvider:
    @EVERY
    def test_its_request_is_verified_and_read(self, name: str) -> None:
        """With the second of two secrets, so that one can be rotated; the mail is read as if fetched."""
        configured, request = GOOD[name]
        verify(request, configured, NOW)
        (item,) = parse(request, configured)

        assert isinstance(item, Incoming)
        assert (item.provider_id, item.text, item.reply_to) == (
            "<gmail_en@example.org>",
            "Yes, go ahead ✓",
            OURS,
        )
        assert respond(request).status == 200

    @EVERY
    def test_the_same_mail_twice_has_the_same_id(self, name: str) -> None:
        """Retries, and the same mail by two ways, count once."""
        configured, request = GOOD[name]

        assert parse(request, configured)[0].provider_id == parse(*reversed(GOOD["raw"]))[0].provider_id

    @EVERY
    def test_secrets_that_were_taken_out_no_longer_count(self, name: str) -> None:
        """Nor do forged requests."""
        configured, request = GOOD[name]
        changes: dict[str, Any] = {
            "mailgun": {"mailgun_signing_key": "other-key"},
            "sendgrid": {"sendgrid_public_key": OTHER},
            "postmark": {"postmark_password": "other-password"},
            "raw": {"raw_secret": "another-secret-of-some-length"},
        }[configured.inbound or ""]
        if name.startswith("sendgrid by"):
            changes = {"sendgrid_password": "other-password"}

        assert refused(lambda: verify(request, settings(inbound=configured.inbound, **changes), NOW)) == 403

    @EVERY
    def test_a_request_without_proof_is_refused(self, name: str) -> None:
        """Whatever it holds."""
        configured, request = GOOD[name]
        bare = post(request.body.replace(b"signature", b"signatuer"), request.headers["content-type"])

        assert refused(lambda: verify(bare, configured, NOW)) == 403

    @EVERY
    def test_huge_bodies_and_other_methods_are_refused(self, name: str) -> None:
        """Before anything is made of them."""
        configured, request = GOOD[name]
        huge = RawRequest(method="POST", url=URL, headers=request.headers, body=b"x" * (MAX_BYTES + 1))
        got = RawRequest(method="GET", url=URL, headers=request.headers, body=request.body)

        for call in (verify, lambda one, its, _: parse(one, its)):
            assert refused(lambda call=call: call(huge, configured, NOW)) == 413  # type: ignore[misc]
            assert refused(lambda call=call: call(got, configured, NOW)) == 405  # type: ignore[misc]

    @EVERY
    def test_a_malformed_mail_is_refused(self, name: str) -> None:
        """With a 4xx: no retry would mend it."""
        configured, request = GOOD[name]
        body = request.body.replace(b"From: Alice", b"Form: Alice")
        changed = RawRequest(method="POST", url=request.url, headers=request.headers, body=body)

        assert refused(lambda: parse(changed, configured)) == 400

    @EVERY
    @given(data=st.data())
    def test_anything_is_read_or_refused(self, name: str, data: st.DataObject) -> None:
        """Bodies cut, exchanged and made up; there is no other outcome."""
        configured, request = GOOD[name]
        body = bytearray(request.body)
        for _ in range(data.draw(st.integers(0, 4))):
            start = data.draw(st.integers(0, len(body)))
            body[start : start + data.draw(st.integers(0, 60))] = data.draw(st.binary(max_size=30))
        kind = data.draw(
            st.sampled_from([request.headers["content-type"], "application/x-www-form-urlencoded", "", "x"])
        )
        made = data.draw(
            st.sampled_from([bytes(body), bytes(body[: len(body) // 2])]) | st.binary(max_size=100)
        )
        changed = RawRequest(
            method="POST", url=request.url, headers={**request.headers, "content-type": kind}, body=made
        )
        for call in (lambda: verify(changed, configured, NOW), lambda: parse(changed, configured)):
            assert outcome(call) in ALLOWED

    @given(value=st.text(max_size=60))
    def test_any_header_is_read_or_refused(self, value: str) -> None:
        """Signatures and credentials that are none."""
        for configured, request in GOOD.values():
            for header in HEADERS:
                if header in request.headers:
                    changed = RawRequest(
                        method="POST",
                        url=f"{URL}?{value}",
                        headers={**request.headers, header: value},
                        body=request.body,
                    )
                    assert outcome(partial(verify, changed, configured, NOW)) in ALLOWED


class TestMailgun:
    @pytest.mark.parametrize("seconds", [-301, 301])
    def test_what_was_signed_long_ago_is_replayed(self, seconds: int) -> None:
        """The signature says nothing about the mail, so it must not live long."""
        request = mailgun({"body-mime": MAIL}, at=NOW + seconds)

        assert refused(lambda: verify(request, MAILGUN, NOW)) == 403
        verify(mailgun({"body-mime": MAIL}, at=NOW + seconds * 0.9), MAILGUN, NOW)

    def test_mail_that_was_taken_apart_is_put_together(self) -> None:
        """A route to an address that does not end with "mime"."""
        request = mailgun(
            {
                "recipient": "agents@example.com",
                "sender": "alice@example.org",
                "message-headers": json.dumps(
                    [
                        ["From", "Älice <alice@example.org>"],
                        ["To", "agents@example.com"],
                        ["Subject", "Ré: draft"],
                        ["Message-Id", "<m1@example.org>"],
                        ["In-Reply-To", OURS],
                        ["Content-Type", "multipart/mixed; boundary=gone"],
                    ]
                ),
                "body-plain": "Ja, schön.\r\n\r\n> yes?",
                "body-html": "<p>Ja, schön.</p>",
            },
            files={"attachment-1": ("a b.txt", "text/plain", b"words")},
        )
        (item,) = parse(request, MAILGUN)

        assert isinstance(item, Incoming)
        assert (item.text, item.subject, item.reply_to) == ("Ja, schön.", "Ré: draft", OURS)
        assert [(file.name, file.data) for file in item.files] == [("a b.txt", b"words")]

    def test_headers_of_its_own_vouch_for_nobody(self) -> None:
        """Anybody can write X-Mailgun-Spf into a mail."""
        body = b"X-Mailgun-Spf: Pass\r\nX-Mailgun-Dkim-Check-Result: Pass\r\n" + mail("dmarc_fail")
        (item,) = parse(mailgun({"body-mime": body, "sender": "alice@example.org"}), MAILGUN)

        assert isinstance(item, Incoming) and item.vouched is False


class TestSendGrid:
    def test_a_changed_body_is_forged(self) -> None:
        """The whole of it is signed."""
        _, request = GOOD["sendgrid"]
        changed = RawRequest(
            method="POST", url=URL, headers=request.headers, body=request.body.replace(b"Yes, go", b"No, go")
        )

        assert refused(lambda: verify(changed, SENDGRID, NOW)) == 403

    def test_with_a_key_set_a_password_is_not_enough(self) -> None:
        """Both are asked for where both are set."""
        both = settings(inbound="sendgrid", sendgrid_public_key=PUBLIC, sendgrid_password=SECRET)
        _, by_password = GOOD["sendgrid by password"]
        signed = GOOD["sendgrid"][1]

        assert refused(lambda: verify(by_password, both, NOW)) == 403
        assert refused(lambda: verify(signed, both, NOW)) == 403
        verify(
            RawRequest(
                method="POST",
                url=URL,
                headers={**signed.headers, "authorization": basic(SECRET)},
                body=signed.body,
            ),
            both,
            NOW,
        )

    @pytest.mark.parametrize(
        ("changes", "vouched", "auth"),
        [
            ({}, True, "dkim=pass for example.org by SendGrid"),
            ({"dkim": "none"}, True, "spf=pass for example.org by SendGrid"),
            ({"dkim": "{@evil.example.net : pass}", "SPF": "fail"}, False, "spf=fail, dkim=pass"),
            ({"dkim": "none", "envelope": '{"to":[],"from":"x@example.net"}'}, False, "spf=pass"),
            ({"dkim": "none", "SPF": "softfail"}, False, "spf=softfail"),
        ],
    )
    def test_its_own_findings_vouch_if_they_are_for_the_sender(
        self, changes: dict[str, str], vouched: bool, auth: str
    ) -> None:
        """They are in the form, beside the mail, where no sender can put them."""
        (item,) = parse(sendgrid(multipart({**SENDGRID_FORM, **changes})), SENDGRID)

        assert isinstance(item, Incoming)
        assert item.vouched is vouched and (item.auth or "").startswith(auth)

    @pytest.mark.parametrize("key", ["nonsense", base64.b64encode(b"x" * 60).decode(), SECRET])
    def test_a_key_that_is_none_stops_the_start(self, key: str) -> None:
        """Else every request would be refused."""
        with pytest.raises(ValueError, match="public key"):
            settings(inbound="sendgrid", sendgrid_public_key=key)

    def test_mail_that_was_taken_apart_is_refused_with_advice(self) -> None:
        """The setting is one box to check."""
        request = sendgrid(multipart({"text": "yes", "from": "alice@example.org"}))

        with pytest.raises(InvalidWebhook, match="POST the raw, full MIME message"):
            parse(request, SENDGRID)


class TestPostmark:
    def test_mail_that_was_taken_apart_is_put_together(self) -> None:
        """Without "Include raw email content in JSON payload"."""
        told = {
            "From": "alice@example.org",
            "Subject": "Re: draft",
            "OriginalRecipient": "agents@example.com",
            "Headers": [
                {"Name": "Message-ID", "Value": "<p1@example.org>"},
                {"Name": "In-Reply-To", "Value": OURS},
                {"Name": "Auto-Submitted", "Value": "auto-replied"},
            ],
            "TextBody": "yes",
            "Attachments": [{"Name": "a.bin", "ContentType": "application/x-thing", "Content": "AAE="}],
        }
        (item,) = parse(post(json.dumps(told).encode(), "application/json"), POSTMARK)

        assert isinstance(item, Incoming)
        assert (item.provider_id, item.reply_to, item.automatic) == ("<p1@example.org>", OURS, True)
        assert [(file.name, file.data) for file in item.files] == [("a.bin", b"\0\1")]

    def test_a_line_end_in_a_header_adds_no_header(self) -> None:
        """What it tells is data."""
        told = {
            "From": "alice@example.org",
            "Subject": "x\r\nFrom: bob@example.net",
            "Headers": [],
            "TextBody": "hi",
        }
        (item,) = parse(post(json.dumps(told).encode(), "application/json"), POSTMARK)

        assert isinstance(item, Incoming)
        assert (item.address, item.subject) == ("alice@example.org", "x From: bob@example.net")


class TestRaw:
    def test_a_changed_body_is_forged_and_an_old_one_replayed(self) -> None:
        """Body and time are both signed."""
        request = raw(MAIL)
        changed = RawRequest(method="POST", url=URL, headers=request.headers, body=MAIL + b"x")

        assert refused(lambda: verify(changed, RAW, NOW)) == 403
        assert refused(lambda: verify(request, RAW, NOW + 301)) == 403

    def test_a_secret_may_be_in_the_form_of_standard_webhooks(self) -> None:
        """`whsec_` and base64."""
        configured = settings(
            inbound="raw", raw_secret="whsec_" + base64.b64encode(b"0123456789abcdef").decode()
        )

        verify(raw(MAIL, secret=b"0123456789abcdef"), configured, NOW)

    def test_the_body_must_be_a_mail(self) -> None:
        """A form is none."""
        assert refused(lambda: parse(post(b"a=1", "application/x-www-form-urlencoded"), RAW)) == 415


def test_without_a_provider_nothing_is_taken() -> None:
    """Nor if mail is fetched."""
    for configured in (
        settings(),
        settings(inbound="imap", imap_host="127.0.0.1", imap_username="u", imap_password="p"),
    ):
        assert refused(lambda configured=configured: verify(raw(MAIL), configured, time.time())) == 404  # type: ignore[misc]
