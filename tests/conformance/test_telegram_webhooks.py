"""What comes from Telegram: who sent it, what it says, by webhook and fetched, in private and in groups."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance.channel_kit import send, using
from tests.conformance.telegram_kit import (
    ALICE,
    BOB,
    BOT,
    GROUP,
    NO,
    PAYLOADS,
    PUBLIC_URL,
    YES,
    Taking,
    channel,
    outgoing,
    payload,
    posted,
)
from tests.conformance.webhook_receiver import Receiver

from wakeloop.channel import Button, Incoming, RawRequest
from wakeloop.errors import InvalidWebhook, PermanentChannelError, TemporaryChannelError
from wakeloop.testing.stand_in import Upload
from wakeloop.testing.telegram import SECRET_TOKEN, TelegramStandIn

BUTTONS = (Button(label="Approve", value=YES, style="yes"), Button(label="Deny", value=NO, style="no"))
RESPONDERS = {str(GROUP): [BOB]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def telegram() -> Iterator[TelegramStandIn]:
    with TelegramStandIn() as stand_in:
        stand_in.write("/start", chat=ALICE)
        stand_in.write("/start", chat=GROUP, by=ALICE)
        yield stand_in


def parsed(name: str, **changes: Any) -> Incoming:
    (event,) = channel(**changes).parse(payload(name))
    assert isinstance(event, Incoming)
    return event


class TestVerify:
    def test_every_secret_token_is_accepted(self) -> None:
        """So that one can be changed without losing a message; one that was taken out no longer counts."""
        old, new = posted(b"{}", secret="old"), posted(b"{}", secret="new")

        channel(secret_tokens="old, new").verify(old)
        channel(secret_tokens=["new", "old"]).verify(new)
        with pytest.raises(InvalidWebhook) as raised:
            channel(secret_tokens="new").verify(old)
        assert raised.value.status == 403

    @pytest.mark.parametrize("secret", [None, "", "stand-in", SECRET_TOKEN + "x", "é", "\ud800"])
    def test_a_wrong_one_is_forged(self, secret: str | None) -> None:
        """Missing, cut, longer, or not even ASCII."""
        with pytest.raises(InvalidWebhook) as raised:
            channel().verify(posted(b"{}", secret=secret))

        assert raised.value.status == 403

    def test_without_a_secret_token_nothing_is_accepted(self) -> None:
        """A channel that fetches is not called, by nobody."""
        with pytest.raises(InvalidWebhook):
            channel(polling=True, secret_tokens=None).verify(posted(b"{}", secret=""))


class TestParse:
    def test_a_message(self) -> None:
        """Its number in the chat is the dedupe key; everything that came is kept."""
        event = parsed("message")

        assert event.provider_id == f"{BOT}:{ALICE}:1365"
        assert (event.address, event.text) == (str(ALICE), "The billing bug, please. 50% done 👍")
        assert (event.reply_to, event.pressed, event.opt_out, event.auth) == (None, None, None, None)
        assert event.raw["update_id"] == 10000

    def test_a_reply_names_the_message_that_it_answers(self) -> None:
        """By the id that `send` gave."""
        event = parsed("reply")

        assert (event.text, event.reply_to) == ("not today", f"{BOT}:{ALICE}:1366")

    @pytest.mark.parametrize(("name", "value", "number"), [("press", YES, 1366), ("press_old", NO, 7)])
    def test_a_press(self, name: str, value: str, number: int) -> None:
        """Also below a message so old that Telegram does not show it to bots any more."""
        event = parsed(name)

        assert (event.pressed, event.text) == (value, "")
        assert (event.address, event.reply_to) == (str(ALICE), f"{BOT}:{ALICE}:{number}")

    def test_a_picture(self) -> None:
        """The largest size, with its caption as the text."""
        event = parsed("photo")

        assert event.text == "the receipt"
        assert [(one.url, one.content_type) for one in event.attachments] == [
            ("telegram:AgACAgIAAxkBAAM2", "image/jpeg")
        ]

    def test_a_document(self) -> None:
        """With its name and kind."""
        (attachment,) = parsed("document").attachments

        assert (attachment.url, attachment.content_type, attachment.name) == (
            "telegram:BQACAgIAAxkBAAM3",
            "application/pdf",
            "report.pdf",
        )

    @pytest.mark.parametrize(
        ("text", "opt_out", "help"),
        [
            ("/start", False, False),
            ("/start abc_123", False, False),
            ("/stop", True, False),
            ("/STOP@stand_in_bot", True, False),
            ("/help", None, True),
            ("/stop the deployment", None, False),
            ("stop", None, False),
            ("/started", None, False),
        ],
    )
    def test_commands_are_no_answers(self, text: str, opt_out: bool | None, help: bool) -> None:
        """/start and /stop are wishes about being written to; a sentence is an answer."""
        update = json.loads((PAYLOADS / "start.json").read_text())
        update["message"]["text"] = text

        (event,) = channel().parse(posted(json.dumps(update).encode()))

        assert isinstance(event, Incoming)
        assert (event.opt_out, event.help, event.text) == (opt_out, help, text)

    def test_who_blocks_the_bot_has_opted_out(self) -> None:
        """And in again when they let it in."""
        update = json.loads((PAYLOADS / "blocked.json").read_text())
        change = update["my_chat_member"]
        change["old_chat_member"], change["new_chat_member"] = (
            change["new_chat_member"],
            change["old_chat_member"],
        )

        (event,) = channel().parse(posted(json.dumps(update).encode()))

        assert isinstance(event, Incoming)
        assert (parsed("blocked").opt_out, event.opt_out) == (True, False)
        assert parsed("blocked").address == str(ALICE)

    @pytest.mark.parametrize(
        "update",
        [
            json.loads((PAYLOADS / "edited.json").read_text()),
            {"update_id": 1},
            {"update_id": 1, "channel_post": {"message_id": 1}},
            {"update_id": 1, "message": {"message_id": 1, "chat": {"id": 1, "type": "private"}}},
        ],
    )
    def test_other_updates_say_nothing(self, update: dict[str, Any]) -> None:
        """An edited message is no second answer; what Telegram may add is acknowledged and passed over."""
        assert channel().parse(posted(json.dumps(update).encode())) == []

    def test_in_a_group_only_those_who_are_named_answer(self) -> None:
        """The address is the group's; who it was is kept for the record."""
        event = parsed("group_reply", responders=RESPONDERS)

        assert (event.address, event.text) == (str(GROUP), "yes, go on")
        assert event.reply_to == f"{BOT}:{GROUP}:56"
        assert event.auth == f"Telegram user {BOB} in the group"
        assert channel().parse(payload("group_reply")) == []
        assert channel(responders={str(GROUP): [ALICE]}).parse(payload("group_reply")) == []

    def test_in_a_group_talk_is_not_for_us(self) -> None:
        """What answers nobody, or somebody else, is left alone even if the writer is named."""
        update = json.loads((PAYLOADS / "group_reply.json").read_text())
        other = json.loads((PAYLOADS / "group_reply.json").read_text())
        other["message"]["reply_to_message"]["from"]["id"] = ALICE
        del update["message"]["reply_to_message"]

        for talk in (update, other):
            assert channel(responders=RESPONDERS).parse(posted(json.dumps(talk).encode())) == []

    @pytest.mark.parametrize(
        ("body", "headers", "method", "status"),
        [
            (b" " * (1024 * 1024 + 1), {}, "POST", 413),
            (b"{}", {}, "GET", 405),
            (b"{}", {"content-type": "text/plain"}, "POST", 415),
            (b"{", {}, "POST", 400),
            (b"[]", {}, "POST", 400),
            (b"\xff", {}, "POST", 400),
            (b"NaN", {}, "POST", 400),
            (b'{"update_id": ' + b"9" * 5000 + b"}", {}, "POST", 400),
            (b"[" * 100_000, {}, "POST", 400),
            (b"{}", {}, "POST", 400),
            (b'{"update_id": true}', {}, "POST", 400),
            (b'{"update_id": 1, "message": 7}', {}, "POST", 400),
            (b'{"update_id": 1, "message": {"text": "x"}}', {}, "POST", 400),
        ],
    )
    def test_a_malformed_request_is_refused(
        self, body: bytes, headers: dict[str, str], method: str, status: int
    ) -> None:
        """With a 4xx that says which rule it breaks."""
        request = posted(body, **{name.replace("-", "_"): value for name, value in headers.items()})
        named = {**request.headers, **headers}

        with pytest.raises(InvalidWebhook) as raised:
            channel().parse(RawRequest(method=method, url=PUBLIC_URL, headers=named, body=body))

        assert raised.value.status == status

    def test_what_no_database_keeps_is_replaced(self) -> None:
        """U+0000 and halves of surrogate pairs, which JSON may escape."""
        update = json.loads((PAYLOADS / "message.json").read_text())
        update["message"]["text"] = "a\0b\ud83dc👍"

        (event,) = channel().parse(posted(json.dumps(update).encode()))

        assert isinstance(event, Incoming)
        assert event.text == "a\ufffdb\ufffdc👍"
        assert event.raw["message"]["text"] == event.text

    @settings(max_examples=200, deadline=None)
    @given(data=st.data())
    def test_any_json_is_parsed_or_refused(self, data: st.DataObject) -> None:
        """Whatever stands where in an update, nothing but InvalidWebhook is raised."""
        name = data.draw(st.sampled_from(sorted(path.stem for path in PAYLOADS.glob("*.json"))))
        update = json.loads((PAYLOADS / f"{name}.json").read_text())
        place = update
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(JSON)
        request = posted(json.dumps(update).encode())
        it = channel(responders=RESPONDERS)

        try:
            events = it.parse(request)
            answer = it.respond(request)
        except InvalidWebhook as error:
            status = error.status
        else:
            status = answer.status
            assert all(isinstance(event, Incoming) for event in events)

        assert status == 200 or 400 <= status < 500

    @settings(max_examples=200, deadline=None)
    @given(body=st.binary(max_size=64), secret=st.text(max_size=16))
    def test_any_bytes_are_refused(self, body: bytes, secret: str) -> None:
        """Verifying and parsing raise InvalidWebhook, and never anything else."""
        with pytest.raises(InvalidWebhook):
            channel().verify(posted(body, secret=secret))
        with pytest.raises(InvalidWebhook) as raised:
            channel().parse(posted(body))
        assert 400 <= raised.value.status < 500


class TestFromTheTelephone:
    def test_an_answer_finds_its_question(self, telegram: TelegramStandIn) -> None:
        """From the stand-in's chat through the webhook; the press stops spinning by the webhook's own answer."""
        it = channel(api_url=telegram.url)
        first, second = (send(it, outgoing(text, buttons=BUTTONS)) for text in ("One?", "Two?"))
        one, two = telegram.messages
        with Receiver(it) as receiver:
            telegram.webhook = receiver.url
            answers = [
                telegram.press(two, "Approve", id="77"),
                telegram.press(two, "Approve", id="77"),
                telegram.write("not today", chat=ALICE, reply_to=one),
            ]

        said = [
            (event.reply_to, event.pressed, event.text)
            for event in receiver.events
            if isinstance(event, Incoming)
        ]
        assert [answer.status for answer in answers if answer is not None] == [200, 200, 200]
        assert said == [
            (second.provider_id, YES, ""),
            (second.provider_id, YES, ""),
            (first.provider_id, None, "not today"),
        ]
        assert len({event.provider_id for event in receiver.events}) == 2
        assert [one["callback_query_id"] for one in telegram.answered] == ["77", "77"]

    def test_who_may_not_answer_is_told(self, telegram: TelegramStandIn) -> None:
        """In a group, a press by somebody who is not named is answered and not taken."""
        it = channel(api_url=telegram.url, responders=RESPONDERS)
        send(it, outgoing("Ship it?", to=GROUP, buttons=BUTTONS))
        with Receiver(it) as receiver:
            telegram.webhook = receiver.url
            telegram.press(telegram.messages[0], "Deny", by=ALICE)
            telegram.press(telegram.messages[0], "Approve", by=BOB)

        assert [event.pressed for event in receiver.events if isinstance(event, Incoming)] == [YES]
        assert ["text" in one for one in telegram.answered] == [True, False]

    def test_the_number_of_a_group_can_be_found_out(self, telegram: TelegramStandIn) -> None:
        """/start in it is kept as coming from it, as long as nobody is named for it."""
        it = channel(api_url=telegram.url, responders=RESPONDERS)
        with Receiver(it) as receiver:
            telegram.webhook = receiver.url
            telegram.write("/start@stand_in_bot", chat=GROUP - 1, by=ALICE)
            telegram.write("/start@stand_in_bot", chat=GROUP, by=ALICE)

        assert [
            (event.address, event.opt_out) for event in receiver.events if isinstance(event, Incoming)
        ] == [(str(GROUP - 1), False)]

    def test_a_forged_update_is_refused(self, telegram: TelegramStandIn) -> None:
        """Telegram then reports the failure in getWebhookInfo."""
        it = channel(api_url=telegram.url)
        with Receiver(it) as receiver:
            telegram.webhook = receiver.url
            statuses = [
                telegram.deliver({"update_id": 1}, secret_token=secret).status for secret in ("", "other")
            ]

        assert statuses == [403, 403]
        assert receiver.events == []


class TestListen:
    def listen(self, telegram: TelegramStandIn, inlet: Taking, **changes: Any) -> None:
        it = channel(api_url=telegram.url, polling=True, poll_seconds=1, **changes)
        with pytest.raises(asyncio.CancelledError):
            using(it, lambda it: it.listen(inlet))

    def test_updates_are_fetched_and_forgotten_when_taken(self, telegram: TelegramStandIn) -> None:
        """Not before: at the moment of taking they are still at Telegram. What comes later is fetched, too."""
        waiting: list[int] = []

        def on_take() -> None:
            waiting.append(len(telegram.updates))
            if len(waiting) == 1:
                telegram.write("later", chat=ALICE)

        inlet = Taking(2, on_take)
        self.listen(telegram, inlet)

        texts = [event.text for event in inlet.items if isinstance(event, Incoming)]
        assert texts == ["/start", "/start", "later"]
        assert waiting[0] == 2
        assert len(telegram.updates) == 0

    def test_after_a_crash_they_come_again(self, telegram: TelegramStandIn) -> None:
        """With the same ids, so that they count once."""
        inlets = [Taking(1), Taking(1)]

        class Crashing(Taking):
            async def take(self, items: Any, *, cursor: str | None = None) -> None:
                raise RuntimeError("the database is away")

        with pytest.raises(RuntimeError):
            using(channel(api_url=telegram.url, polling=True), lambda it: it.listen(Crashing(1)))
        self.listen(telegram, inlets[0])

        assert [event.provider_id for event in inlets[0].items] == [f"{BOT}:{ALICE}:1", f"{BOT}:{GROUP}:1"]

    def test_presses_stop_spinning(self, telegram: TelegramStandIn) -> None:
        """And say how it is known who pressed."""
        it = channel(api_url=telegram.url)
        send(it, outgoing("Ship it?", buttons=BUTTONS))
        telegram.press(telegram.messages[0], "Deny", id="78")
        inlet = Taking(1)

        self.listen(telegram, inlet)

        event = inlet.items[-1]
        assert isinstance(event, Incoming)
        assert (event.pressed, event.auth) == (NO, "fetched with the bot's token")
        assert [one["callback_query_id"] for one in telegram.answered] == ["78"]

    def test_an_update_that_cannot_be_read_holds_nothing_up(self, telegram: TelegramStandIn) -> None:
        """It is logged and passed over."""
        telegram.update({"message": {"text": "no chat"}})
        telegram.write("after it", chat=ALICE)
        inlet = Taking(1)

        self.listen(telegram, inlet)

        assert [event.text for event in inlet.items if isinstance(event, Incoming)][-1] == "after it"

    def test_a_webhook_excludes_it(self, telegram: TelegramStandIn) -> None:
        """The error says what to do."""
        telegram.webhook = PUBLIC_URL

        with pytest.raises(PermanentChannelError, match="deleteWebhook"):
            using(channel(api_url=telegram.url, polling=True), lambda it: it.listen(Taking(1)))

    def test_a_second_program_is_named(self, telegram: TelegramStandIn) -> None:
        """Telegram serves the one that asked last."""

        async def both() -> BaseException | None:
            first, second = (channel(api_url=telegram.url, polling=True, poll_seconds=5) for _ in range(2))
            one = asyncio.create_task(first.listen(Taking(1)))
            await asyncio.to_thread(telegram.wait_for_fetch, 1)
            two = asyncio.create_task(second.listen(Taking(1)))
            await asyncio.wait([one])
            two.cancel()
            await asyncio.wait([two])
            await first.close()
            await second.close()
            return one.exception()

        telegram.updates.clear()
        error = asyncio.run(both())

        assert isinstance(error, PermanentChannelError)
        assert "Another program" in str(error)

    def test_telegram_away_is_told(self, telegram: TelegramStandIn) -> None:
        """The runtime calls again after a while."""
        telegram.fail_next(502, page=True)
        telegram.drop_next_after_taking()
        it = channel(api_url=telegram.url, polling=True)

        for _ in range(2):
            with pytest.raises(TemporaryChannelError):
                using(it, lambda it: it.listen(Taking(1)))

    def test_a_file_comes_by_reference(self, telegram: TelegramStandIn) -> None:
        """As by webhook."""
        telegram.write("see", chat=ALICE, files=[Upload("a.jpg", "image/jpeg", b"jpeg")])
        inlet = Taking(1)

        self.listen(telegram, inlet)

        event = inlet.items[-1]
        assert isinstance(event, Incoming)
        assert [one.content_type for one in event.attachments] == ["image/jpeg"]
