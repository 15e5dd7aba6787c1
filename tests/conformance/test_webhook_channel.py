"""The webhook channel against a chat system on real HTTP: settings, addresses, sending, amending."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from standardwebhooks import Webhook
from tests.conformance.channel_kit import send, using
from tests.conformance.webhook_kit import ADDRESS, OTHER, PUBLIC_URL, SECRET, ChatSystem, channel, outgoing
from tests.http_kit import HANG_UP, Reply, json_reply

from wakeloop.channel import Amending, Button, Channel, DeliveryStatus, Field, Guiding, Sent
from wakeloop.errors import ConfigurationError, PermanentChannelError, TemporaryChannelError
from wakeloop.events import Attachment
from wakeloop_channels.webhook_bodies import schema

SCHEMA = Path(__file__).parents[2] / "docs" / "channels" / "webhook.schema.json"


@pytest.fixture
def chat() -> Iterator[ChatSystem]:
    with ChatSystem() as system:
        yield system


class TestSettings:
    def test_the_port_is_fulfilled(self) -> None:
        """A Channel that can amend, and that says what to enter where."""
        hook = channel()

        assert isinstance(hook, Channel)
        assert isinstance(hook, Amending)
        assert isinstance(hook, Guiding)
        assert PUBLIC_URL in [what for _, what in hook.guide(PUBLIC_URL)]

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"secret": None}, "WAKELOOP_WEBHOOK_SECRET"),
            ({"secret": " , "}, "WAKELOOP_WEBHOOK_SECRET"),
            ({"secret": "hunter2"}, "WAKELOOP_WEBHOOK_SECRET"),
            ({"secret": "whsec_c2hvcnQ="}, "24 to 64"),
            ({"hosts": None}, "channels.webhook.hosts"),
            ({"hosts": []}, "channels.webhook.hosts"),
            ({"hosts": ["https://chat.example.com/"]}, "channels.webhook.hosts"),
            ({"timeout": 0}, "channels.webhook.timeout"),
            ({"host": "x"}, "channels.webhook.host is no setting"),
        ],
    )
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        """The error says which key or environment variable to mend, and never the secret."""
        with pytest.raises(ConfigurationError) as raised:
            channel(**changes)

        assert named in str(raised.value)
        assert "hunter2" not in str(raised.value)

    def test_text_from_the_environment_is_understood(self) -> None:
        """Environment variables are always text; a secret shows nowhere."""
        hook = channel(hosts="chat.example.com, .internal", timeout="2.5", secret=f"{SECRET},{OTHER}")

        assert hook.settings.hosts == ("chat.example.com", ".internal")
        assert hook.settings.timeout == 2.5
        assert SECRET not in repr(hook.settings)


class TestNormalize:
    @pytest.mark.parametrize(
        ("given", "url"),
        [
            (ADDRESS, ADDRESS),
            (" HTTPS://Chat.Example.com:443/wakeloop/alice ", ADDRESS),
            ("https://chat.example.com", "https://chat.example.com/"),
            ("https://chat.example.com:8443/a?b=C%20d", "https://chat.example.com:8443/a?b=C%20d"),
            ("http://127.0.0.1:80/a", "http://127.0.0.1/a"),
            ("http://[::1]:8000/a", "http://[::1]:8000/a"),
            ("http://chat.internal/a", "http://chat.internal/a"),
        ],
    )
    def test_every_spelling_becomes_one(self, given: str, url: str) -> None:
        """Scheme and host in lower case, no default port, a path."""
        hook = channel(hosts=["chat.example.com", "127.0.0.1", "[::1]", ".internal"])

        assert hook.normalize(given) == url
        assert hook.normalize(url) == url

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("", "a URL"),
            ("alice", "https://"),
            ("ftp://chat.example.com/a", "https://"),
            ("https:///a", "https://"),
            ("https://chat.example.com/a b", "%-escapes"),
            ("https://chat.example.com/é", "%-escapes"),
            ("https://me:pw@chat.example.com/a", "no user"),
            ("https://chat.example.com/a#b", "no #"),
            ("https://chat.example.com:99999/a", "malformed"),
            ("https://[::1/a", "malformed"),
            ("https://other.example.com/a", "channels.webhook.hosts"),
            ("https://chat.example.com.evil.example/a", "channels.webhook.hosts"),
            ("https://chat.example.com/" + "a" * 2000, "a URL"),
        ],
    )
    def test_what_is_no_address_is_refused_with_the_reason(self, given: str, reason: str) -> None:
        """A wrong contact is found at start; a password is not repeated."""
        with pytest.raises(ValueError, match=reason) as raised:
            channel().normalize(given)

        assert "pw" not in str(raised.value)


class TestSend:
    def test_a_message_is_posted_and_signed(self, chat: ChatSystem) -> None:
        """The receiver's own library verifies it; the id that it answers is the message's."""
        receipt = send(channel(), outgoing("Ship it? 👍🏽\nשלום", chat.address))

        (taken,) = chat.messages.values()
        assert (taken["text"], taken["to"]) == ("Ship it? 👍🏽\nשלום", chat.address)
        assert (receipt.provider_id, receipt.status) == ("chat-1", DeliveryStatus.SENT)
        assert chat.came[0].headers["webhook-id"] == taken["id"] == "d1"

    def test_all_of_it_is_shown(self, chat: ChatSystem) -> None:
        """Buttons, fields, link, token, thread and files are in the body, which fits the schema that is published."""
        message = outgoing(
            "Pay?",
            chat.address,
            subject="Invoice 7",
            kind="approval",
            buttons=(Button(label="Approve", value="A7:yes", style="yes"),),
            fields=(
                Field(name="why", label="Why", kind="select", choices=(("a", "Because"),), required=False),
            ),
            submit="A7:submit",
            link="https://agents.example.com/p/alice",
            token="wl_abc",
            thread=("chat-0",),
            attachments=(Attachment(url="data:text/plain,hi", content_type="text/plain", name="hi.txt"),),
        )

        send(channel(), message)

        (taken,) = chat.messages.values()
        jsonschema.validate(taken, schema())
        assert taken["buttons"] == [{"label": "Approve", "value": "A7:yes", "style": "yes"}]
        assert taken["fields"][0]["choices"] == [["a", "Because"]]
        assert [taken[name] for name in ("subject", "kind", "submit", "link", "token", "thread")] == [
            "Invoice 7",
            "approval",
            "A7:submit",
            "https://agents.example.com/p/alice",
            "wl_abc",
            ["chat-0"],
        ]
        assert taken["attachments"][0]["url"] == "data:text/plain,hi"

    def test_sending_again_changes_nothing(self, chat: ChatSystem) -> None:
        """After a crash between send and receipt: the same id, so the same message."""
        chat.faults.append(HANG_UP)
        with pytest.raises(TemporaryChannelError):
            send(channel(), outgoing(to=chat.address))

        receipt = send(channel(), outgoing(to=chat.address))

        assert len(chat.messages) == 1
        assert receipt.provider_id == "chat-1"

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(),
            Reply(status=204),
            json_reply([]),
            json_reply({"id": 7}),
            json_reply({"id": "x" * 201}),
            json_reply({"id": "a\0"}),
            Reply(body=b"\xff<html>"),
            Reply(body=b'{"id": "' + b"x" * 70_000 + b'"}'),
        ],
        ids=str,
    )
    def test_an_answer_need_say_nothing(self, chat: ChatSystem, reply: Reply) -> None:
        """Without an id that is one, the delivery's key is the message's id."""
        chat.faults.append(reply)

        assert send(channel(), outgoing(to=chat.address)).provider_id == "d1"

    def test_every_secret_signs(self, chat: ChatSystem) -> None:
        """During a rotation the receiver may still have the old one; afterwards no longer."""
        chat.secret = OTHER

        receipt = send(channel(secret=f"{SECRET},{OTHER}"), outgoing(to=chat.address))
        with pytest.raises(PermanentChannelError) as raised:
            send(channel(secret=SECRET), outgoing(to=chat.address))

        assert receipt.provider_id == "chat-1"
        assert "WAKELOOP_WEBHOOK_SECRET" in str(raised.value)

    @pytest.mark.parametrize("status", [400, 403, 404, 410, 413, 422])
    def test_a_refusal_is_for_good(self, chat: ChatSystem, status: int) -> None:
        """Its words are told, without what is personal in them; the address is not."""
        chat.faults.append(json_reply({"error": "alice@example.com left"}, status))

        with pytest.raises(PermanentChannelError) as raised:
            send(channel(), outgoing(to=chat.address))

        assert "left" in str(raised.value)
        assert "alice" not in str(raised.value)

    def test_a_redirect_is_not_followed(self, chat: ChatSystem) -> None:
        """Nobody can have us call another place."""
        chat.faults.append(Reply(status=307, headers={"location": chat.address}))

        with pytest.raises(PermanentChannelError, match="not followed"):
            send(channel(), outgoing(to=chat.address))

        assert len(chat.came) == 1

    @pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
    def test_what_may_pass_is_tried_again(self, chat: ChatSystem, status: int) -> None:
        """Not before the time that Retry-After names."""
        chat.faults.append(Reply(status=status, headers={"Retry-After": "17"}))

        with pytest.raises(TemporaryChannelError) as raised:
            send(channel(), outgoing(to=chat.address))

        assert raised.value.retry_after == 17.0

    def test_a_slow_answer_is_tried_again(self, chat: ChatSystem) -> None:
        """It does no harm if the message was taken."""
        chat.faults.append(2.0)

        with pytest.raises(TemporaryChannelError):
            send(channel(timeout=0.2), outgoing(to=chat.address))

    def test_nobody_there_is_tried_again(self, chat: ChatSystem) -> None:
        """Nothing listens."""
        address = chat.address
        chat.stop()

        with pytest.raises(TemporaryChannelError):
            send(channel(), outgoing(to=address))

    def test_only_named_hosts_are_called(self, chat: ChatSystem) -> None:
        """Whatever address a message came from: an answer to it goes nowhere else."""
        with pytest.raises(PermanentChannelError, match=r"channels\.webhook\.hosts"):
            send(channel(hosts=["chat.example.com"]), outgoing(to=chat.address))

        assert chat.came == []

    def test_nothing_personal_is_logged(self, chat: ChatSystem, caplog: pytest.LogCaptureFixture) -> None:
        """Neither words nor addresses."""
        with caplog.at_level(logging.INFO):
            send(channel(), outgoing("a secret", chat.address))

        assert "a secret" not in caplog.text
        assert "alice" not in caplog.text

    def test_the_signature_is_of_now(self, chat: ChatSystem) -> None:
        """An attempt that comes later is signed anew, else it would be stale."""
        send(channel(), outgoing(to=chat.address, claimed_at=datetime.now(UTC) - timedelta(hours=1)))

        came = chat.came[0]
        assert Webhook(SECRET).verify(came.body, dict(came.headers))["id"] == "d1"


class TestAmend:
    def test_a_message_is_amended(self, chat: ChatSystem) -> None:
        """Twice is the same, by the same webhook-id."""
        hook = channel()
        receipt = send(hook, outgoing("Pay?", chat.address))
        sent = Sent(provider_id=receipt.provider_id, address=chat.address, text="Pay?")

        using(hook, lambda it: it.amend(sent, "Paid."))
        using(hook, lambda it: it.amend(sent, "Paid."))

        assert chat.shown == {"chat-1": "Paid."}
        assert len({came.headers["webhook-id"] for came in chat.came[1:]}) == 1
        jsonschema.validate(chat.came[1].json, schema())

    def test_a_message_that_is_gone_is_no_error(self, chat: ChatSystem) -> None:
        """404 and 410 are fine; a failure is not."""
        sent = Sent(provider_id="chat-9", address=chat.address, text="Pay?")

        using(channel(), lambda it: it.amend(sent, "Paid."))
        chat.faults.append(Reply(status=410))
        using(channel(), lambda it: it.amend(sent, "Paid."))
        chat.faults.append(Reply(status=503))
        with pytest.raises(TemporaryChannelError):
            using(channel(), lambda it: it.amend(sent, "Paid."))


def test_the_schema_is_fresh() -> None:
    """What docs/channels/webhook.schema.json says is what the models say."""
    assert json.loads(SCHEMA.read_text()) == schema()
