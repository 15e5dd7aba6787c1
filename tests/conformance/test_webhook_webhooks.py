"""What a chat system of one's own posts: who signed it, what it says, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conformance.webhook_kit import (
    ADDRESS,
    OTHER,
    PAYLOADS,
    PUBLIC_URL,
    SECRET,
    channel,
    payload,
    signed,
)
from tests.conformance.webhook_receiver import Receiver

from wakeloop.channel import DeliveryStatus, DeliveryUpdate, File, Incoming, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop.events import Attachment
from wakeloop_channels.webhook_bodies import schema

NAMES = sorted(path.stem for path in PAYLOADS.glob("*.json"))
PAGE = Path(__file__).parents[2] / "docs" / "channels" / "webhook.md"
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
HELLO = {"type": "message.received", "id": "m-1", "from": ADDRESS, "text": "hello"}


def changed(request: RawRequest, **headers: str | None) -> RawRequest:
    named = {**request.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return RawRequest(
        method=request.method,
        url=request.url,
        headers={name: value for name, value in named.items() if value is not None},
        body=request.body,
    )


class TestVerify:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_payload_is_verified(self, name: str) -> None:
        """Signed by Standard Webhooks' own library, over the bytes as they are; it fits the published schema."""
        channel().verify(payload(name))
        jsonschema.validate(json.loads(payload(name).body), schema())

    @pytest.mark.parametrize(
        "request_",
        [
            changed(signed(HELLO), webhook_id="other"),
            changed(signed(HELLO), webhook_timestamp=str(int(datetime.now(UTC).timestamp()) - 7)),
            RawRequest(method="POST", url=PUBLIC_URL, headers=signed(HELLO).headers, body=b"{}"),
            signed(HELLO, secret=OTHER),
            *(
                changed(signed(HELLO), **{f"webhook_{part}": value})
                for part in ("id", "timestamp", "signature")
                for value in (None, "", " ", "é", "nonsense", "v1", "v1,", "1" * 10_000)
            ),
            changed(signed(HELLO), webhook_signature="v1a," + signed(HELLO).headers["webhook-signature"][3:]),
        ],
    )
    def test_a_changed_request_is_forged(self, request_: RawRequest) -> None:
        """Id, time, body and secret are all under the signature; what is no signature is refused likewise."""
        with pytest.raises(InvalidWebhook) as raised:
            channel().verify(request_)

        assert raised.value.status == 403

    @pytest.mark.parametrize(
        ("seconds", "taken"), [(-290, True), (290, True), (-310, False), (310, False), (-86_400, False)]
    )
    def test_a_request_is_good_for_five_minutes(self, seconds: int, taken: bool) -> None:
        """So that a recorded one cannot be sent again later."""
        request = signed(HELLO, at=datetime.now(UTC) + timedelta(seconds=seconds))

        if taken:
            channel().verify(request)
        else:
            with pytest.raises(InvalidWebhook, match="replay"):
                channel().verify(request)

    def test_every_secret_verifies(self) -> None:
        """Also when the sender signs with several."""
        both = " ".join(signed(HELLO, secret=one).headers["webhook-signature"] for one in (OTHER, SECRET))

        channel(secret=f"{OTHER},{SECRET}").verify(signed(HELLO))
        channel(secret=f"{SECRET},{OTHER}").verify(signed(HELLO, secret=OTHER))
        channel().verify(changed(signed(HELLO), webhook_signature=f"v1a,xyz {both}"))


class TestParse:
    def test_a_message(self) -> None:
        """Its id is the dedupe key; the raw body is kept."""
        (event,) = channel().parse(payload("received"))

        assert isinstance(event, Incoming)
        assert (event.provider_id, event.address) == ("m-1001", ADDRESS)
        assert event.text == "The billing bug, please 👍🏽 – שלום"
        assert (event.reply_to, event.pressed, event.values, event.automatic) == (None, None, None, False)
        assert event.raw == json.loads(payload("received").body)

    def test_a_message_with_everything(self) -> None:
        """The sender in canonical form; files by reference, or with their bytes."""
        (event,) = channel().parse(payload("received_full"))

        assert isinstance(event, Incoming)
        assert event.address == ADDRESS
        assert (event.reply_to, event.token, event.thread) == ("chat-1", "wl_abc", "room-7")
        assert (event.subject, event.automatic) == ("Re: Invoice 7", True)
        assert event.attachments == (
            Attachment(url="https://files.example.com/7.pdf", content_type="application/pdf", name="7.pdf"),
            Attachment(url="https://files.example.com/8"),
        )
        assert event.files == (File(name="hello.txt", content_type="text/plain", data=b"hello"),)
        assert "aGVsbG8" not in json.dumps(event.raw)

    def test_a_form_that_was_filled_in(self) -> None:
        """The button that sent it, and the values by name."""
        (event,) = channel().parse(payload("received_form"))

        assert isinstance(event, Incoming)
        assert (event.text, event.pressed) == ("", "A7:submit")
        assert event.values == {"amount": "12.50", "why": "two lines\nof it"}

    @pytest.mark.parametrize(
        ("name", "status", "error"),
        [
            ("status_delivered", DeliveryStatus.DELIVERED, None),
            ("status_failed", DeliveryStatus.FAILED, "the account is closed"),
        ],
    )
    def test_a_status(self, name: str, status: DeliveryStatus, error: str | None) -> None:
        """Which message, how far, and what went wrong."""
        (event,) = channel().parse(payload(name))

        assert isinstance(event, DeliveryUpdate)
        assert (event.provider_id, event.status, event.error) == ("chat-1", status, error)

    def test_whoever_is_no_contact_stays_as_they_are(self) -> None:
        """They match nobody."""
        (event,) = channel().parse(signed({**HELLO, "from": "mallory"}))

        assert isinstance(event, Incoming)
        assert event.address == "mallory"

    def test_what_databases_refuse_is_replaced(self) -> None:
        """U+0000 is no character for PostgreSQL, in values neither."""
        (event,) = channel().parse(signed({**HELLO, "text": "a\0b", "values": {"c\0": "d\0"}}))

        assert isinstance(event, Incoming)
        assert event.text == "a\ufffdb"
        assert event.values == {"c\ufffd": "d\ufffd"}
        assert "\0" not in str(event.raw)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"id": None}, "id"),
            ({"id": ""}, "id"),
            ({"id": 7}, "id"),
            ({"id": "x" * 201}, "id"),
            ({"from": None}, "from"),
            ({"text": " "}, "nothing is said"),
            ({"text": None}, "nothing is said"),
            ({"text": ["hello"]}, "text"),
            ({"text": "x" * 100_001}, "text"),
            ({"replyto": "chat-1"}, "replyto"),
            ({"values": {"a": 1}}, "values.a"),
            ({"automatic": "yes"}, "automatic"),
            ({"attachments": [{"url": "file:///etc/passwd"}]}, "attachments.0.url"),
            ({"attachments": [{"url": "data:text/plain;base64,%%%"}]}, "base64"),
            ({"attachments": [{"url": "https://a/"}] * 21}, "attachments"),
            ({"type": "message.created"}, "type"),
            ({"type": None}, "type"),
        ],
    )
    def test_a_body_that_is_none_of_ours_is_told_why(self, change: dict[str, Any], words: str) -> None:
        """Strictly: nothing is guessed, and a misspelled name is no name."""
        body = {name: value for name, value in {**HELLO, **change}.items() if value is not None}

        with pytest.raises(InvalidWebhook) as raised:
            channel().parse(signed(body))

        assert raised.value.status == 400
        assert words in str(raised.value)
        assert "hello" not in str(raised.value)

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (b"", 400),
            (b"[]", 400),
            (b"null", 400),
            (b"{", 400),
            (b"\xff", 400),
            (b"[" * 100_000, 400),
            (b'{"a": NaN}', 400),
            (b" " * (1024 * 1024 + 1), 413),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_a_body_that_is_no_json_is_refused(self, body: bytes, status: int) -> None:
        """Deep, huge and broken ones."""
        with pytest.raises(InvalidWebhook) as raised:
            channel().parse(signed(body))

        assert raised.value.status == status

    def test_another_method_is_refused(self) -> None:
        """405 for GET."""
        request = signed(HELLO)

        with pytest.raises(InvalidWebhook) as raised:
            channel().parse(
                RawRequest(method="GET", url=PUBLIC_URL, headers=request.headers, body=request.body)
            )

        assert raised.value.status == 405

    def test_the_answer_has_no_content(self) -> None:
        """204 says it all."""
        assert channel().respond(payload("received")).status == 204


class TestFuzz:
    @UNHURRIED
    @given(
        st.dictionaries(
            st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "content-type"]),
            st.text() | st.text("v1,a=+/ ").map("v1,".__add__),
        ),
        st.binary(),
    )
    def test_any_request_is_refused_or_read(self, headers: dict[str, str], body: bytes) -> None:
        """Never anything but InvalidWebhook with a 4xx."""
        request = RawRequest(method="POST", url=PUBLIC_URL, headers=headers, body=body)
        hook = channel()
        for step in (hook.verify, hook.parse):
            with pytest.raises(InvalidWebhook) as raised:
                step(request)
            assert 400 <= raised.value.status < 500

    @UNHURRIED
    @given(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["message.received", "message.status", "x"])},
            optional={
                name: st.recursive(
                    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(), inner, max_size=3),
                    max_leaves=5,
                )
                for name in (
                    "id", "from", "text", "reply_to", "pressed", "values", "token", "thread", "subject",
                    "attachments", "automatic", "status", "error",
                )
            },
        )
    )  # fmt: skip
    def test_any_json_is_refused_or_read(self, body: dict[str, Any]) -> None:
        """What is read can be recorded as JSON, without U+0000."""
        events, status = [], 400
        try:
            events = channel().parse(signed(body))
        except InvalidWebhook as error:
            status = error.status

        assert status == 400
        assert "\\u0000" not in json.dumps([dict(event.raw) for event in events])


class TestCurl:
    def test_the_pages_curl_example_is_verified(self) -> None:
        """It is run as it stands, with only the secret and the address filled in."""
        (script,) = re.findall(r"^ *```text\n(?= *secret=)(.*?)^ *```", PAGE.read_text(), re.DOTALL | re.M)
        script = textwrap.dedent(script).replace("whsec_…", SECRET)
        with Receiver(channel(), public_url=PUBLIC_URL) as receiver:
            script = script.replace("https://agents.example.com/webhooks/webhook", receiver.url)

            done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True)

        assert (done.returncode, done.stderr) == (0, "")
        assert "204" in done.stdout
        assert [event.text for event in receiver.said] == ["Ship it."]
