"""The Matrix channel against a homeserver: rooms, sending, listening, answers, presses, files.

These tests know nothing of which homeserver it is: `make matrix` runs them against Synapse.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from tests.conformance.channel_kit import send, using
from tests.conformance.matrix_kit import Ear, Person, channel, hear, homeserver, outgoing, person

from wakeloop.channel import Button, DeliveryStatus, DeliveryUpdate, Sent
from wakeloop.errors import PermanentChannelError
from wakeloop.events import Attachment
from wakeloop_channels.matrix import MatrixChannel

BUTTONS = (
    Button(label="Approve", value="A7:yes", style="yes"),
    Button(label="Deny", value="A7:no", style="no"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with homeserver(tmp_path_factory.mktemp("homeserver")) as url:
        yield url


@pytest.fixture
def bot(server: str) -> Person:
    return person(server, "bot")


@pytest.fixture
def alice(server: str) -> Person:
    return person(server, "alice")


@pytest.fixture
def bob(server: str) -> Person:
    return person(server, "bob")


@pytest.fixture
def room(bot: Person, alice: Person, bob: Person) -> str:
    """One that all three are in."""
    room = bot.create(alice.id, bob.id)
    alice.join(room)
    bob.join(room)
    return room


def talk(matrix: MatrixChannel, alice: Person) -> tuple[str, str]:
    """A conversation that the channel began and Alice accepted: the room, and the id of the first message."""
    id = send(matrix, outgoing(alice.id, "hello")).provider_id
    return alice.accept(), id


class TestSend:
    def test_a_person_is_invited_and_written_to(self, bot: Person, alice: Person) -> None:
        """The room is remembered as a direct one, and used again by any process."""
        first = send(channel(bot), outgoing(alice.id, "Ship it? 👍🏽\nשלום"))
        room = alice.accept()
        second = send(channel(bot), outgoing(alice.id, "Well?"))

        bodies = {event["event_id"]: event["content"]["body"] for event in alice.seen(room)}
        assert bodies == {first.provider_id: "Ship it? 👍🏽\nשלום", second.provider_id: "Well?"}
        assert list(alice.rooms()) == [room]
        assert bot.call("GET", "user", bot.id, "account_data", "m.direct") == {alice.id: [room]}

    def test_a_room_is_written_to(self, bot: Person, alice: Person, room: str) -> None:
        """By its id; nobody is called by name."""
        receipt = send(channel(bot), outgoing(room, "hello all"))

        content = alice.event(room, receipt.provider_id)["content"]
        assert (content["body"], content["m.mentions"]) == ("hello all", {})
        assert receipt.status == DeliveryStatus.SENT

    def test_sending_again_changes_nothing(self, bot: Person, alice: Person, room: str) -> None:
        """After a crash between send and receipt: one transaction id, one event."""
        message = outgoing(room, "once")

        receipts = {send(channel(bot), message).provider_id for _ in range(3)}

        assert [event["event_id"] for event in alice.seen(room)] == list(receipts)

    def test_an_answer_is_in_its_thread(self, bot: Person, alice: Person, room: str) -> None:
        """In a room, in the thread of what came first; to a person, as an answer to what came last."""
        question = alice.say(room, "who is on call?")
        first = send(channel(bot), outgoing(room, "Bob", thread=(question,)))
        threaded = alice.say(
            room,
            "thanks",
            m__relates_to={"rel_type": "m.thread", "event_id": question, "is_falling_back": True},
        )
        second = send(channel(bot), outgoing(room, "gladly", thread=(threaded, first.provider_id)))
        direct, hello = talk(channel(bot), alice)
        third = send(channel(bot), outgoing(alice.id, "again", thread=(hello,)))

        relations = [
            alice.event(where, receipt.provider_id)["content"]["m.relates_to"]
            for where, receipt in ((room, first), (room, second), (direct, third))
        ]
        assert relations[0]["rel_type"] == relations[1]["rel_type"] == "m.thread"
        assert [relation.get("event_id") for relation in relations] == [question, question, None]
        assert [relation["m.in_reply_to"]["event_id"] for relation in relations] == [
            question,
            first.provider_id,
            hello,
        ]

    def test_a_thread_that_is_not_seen_is_left_out(self, bot: Person, room: str) -> None:
        """What was said elsewhere begins no thread here."""
        receipt = send(channel(bot), outgoing(room, "hello", thread=("$elsewhere",)))

        assert "m.relates_to" not in bot.event(room, receipt.provider_id)["content"]

    def test_files_are_uploaded(self, bot: Person, alice: Person, room: str) -> None:
        """Those that are held; the others are linked to."""
        data = base64.b64encode(b"\x89PNG...").decode()
        files = (
            Attachment(url=f"data:image/png;base64,{data}", content_type="image/png", name="a.png"),
            Attachment(url="https://files.example.com/b.pdf", content_type="application/pdf"),
        )

        send(channel(bot), outgoing(room, "see these", attachments=files))

        text, file = (event["content"] for event in alice.seen(room))
        assert text["body"] == "see these\nhttps://files.example.com/b.pdf"
        assert (file["msgtype"], file["body"], file["info"]["size"]) == ("m.image", "a.png", 7)
        fetched = using(channel(bot), lambda it: it.fetch(Attachment(url=file["url"])))
        assert fetched == b"\x89PNG..."

    def test_who_left_is_not_asked_back(self, bot: Person, alice: Person) -> None:
        """The next channel is used; they may begin again."""
        matrix = channel(bot)
        room, _ = talk(matrix, alice)
        alice.leave(room)

        with pytest.raises(PermanentChannelError, match="left"):
            send(matrix, outgoing(alice.id))

    def test_an_encrypted_room_is_refused(self, bot: Person, alice: Person) -> None:
        """Plain text would be shown there as a fault, and read by the homeserver."""
        room = bot.create(alice.id, encrypted=True)

        with pytest.raises(PermanentChannelError, match="encrypted"):
            send(channel(bot), outgoing(room))

    def test_a_room_that_is_not_ones_own_is_refused(self, bot: Person, alice: Person) -> None:
        """With the code of Matrix, and what to do."""
        room = alice.create()

        with pytest.raises(PermanentChannelError, match="Invite the account") as raised:
            send(channel(bot), outgoing(room, "a secret"))

        assert raised.value.code == "M_FORBIDDEN"
        assert "a secret" not in str(raised.value)
        assert room not in str(raised.value)

    def test_a_token_that_is_none_is_named(self, bot: Person, room: str) -> None:
        """With the environment variable to set."""
        matrix = channel(bot, access_token="nonsense")

        with pytest.raises(PermanentChannelError, match="WAKELOOP_MATRIX_ACCESS_TOKEN") as raised:
            send(matrix, outgoing(room))

        assert raised.value.code == "M_UNKNOWN_TOKEN"

    def test_what_is_too_long_is_refused(self, bot: Person, room: str) -> None:
        """What fits an event, twice, is taken, in any alphabet."""
        longest = "👍" * channel(bot).capabilities.max_length  # type: ignore[operator]
        receipt = send(channel(bot), outgoing(room, longest))
        using(
            channel(bot),
            lambda it: it.amend(Sent(provider_id=receipt.provider_id, address=room, text=longest), longest),
        )

        with pytest.raises(PermanentChannelError) as raised:
            send(channel(bot), outgoing(room, "x" * 70_000))

        assert raised.value.code == "M_TOO_LARGE"

    def test_the_settings_are_checked(self, bot: Person) -> None:
        """As whom, without writing to anybody."""
        assert bot.id in using(channel(bot), lambda it: it.check())


class TestAmend:
    def test_a_message_is_replaced(self, bot: Person, alice: Person) -> None:
        """Twice is the same; in whichever of the person's rooms it stands."""
        matrix = channel(bot)
        room, id = talk(matrix, alice)
        sent = Sent(provider_id=id, address=alice.id, text="hello")

        using(matrix, lambda it: it.amend(sent, "Answered."))
        using(matrix, lambda it: it.amend(sent, "Answered."))

        edits = [event["content"] for event in alice.seen(room) if "m.new_content" in event["content"]]
        assert [edit["m.new_content"]["body"] for edit in edits] == ["Answered."]
        assert edits[0]["m.relates_to"] == {"rel_type": "m.replace", "event_id": id}

    def test_a_message_that_is_gone_is_no_error(self, bot: Person, alice: Person) -> None:
        """Redacted, never there, or of somebody never written to."""
        matrix = channel(bot)
        room, id = talk(matrix, alice)
        bot.redact(room, id)

        for address, gone in ((alice.id, id), (alice.id, "$never"), ("@never:localhost", id), (room, id)):
            using(matrix, lambda it: it.amend(Sent(provider_id=gone, address=address, text=""), "x"))  # noqa: B023

        assert [event for event in alice.seen(room) if "m.new_content" in event["content"]] == []


class TestListen:
    def test_only_what_comes_from_now_on_is_heard(self, bot: Person, alice: Person) -> None:
        """The first time; afterwards from where the last one stopped, with nothing left out."""
        matrix = channel(bot)
        room, id = talk(matrix, alice)
        alice.say(room, "before")

        first = hear(matrix, lambda: alice.answer(room, id, "now"), lambda ear: ear.messages)
        away = [alice.say(room, f"away {number}") for number in range(3)]
        second = hear(matrix, lambda: None, lambda ear: len(ear.messages) >= 3, cursor=first.cursor)

        (now,) = first.messages
        assert (now.text, now.address, now.to_address, now.reply_to) == ("now", alice.id, room, id)
        assert now.auth == f"Matrix account {alice.id}"
        assert now.raw["content"]["body"] == "now"
        assert [message.provider_id for message in second.messages] == away

    def test_a_gap_is_filled(self, bot: Person, alice: Person) -> None:
        """More than a server tells at once, in the order in which it was said."""
        matrix = channel(bot)
        room, _ = talk(matrix, alice)
        first = hear(matrix, lambda: alice.say(room, "begin"), lambda ear: ear.messages)
        texts = [f"message {number}" for number in range(115)]
        for text in texts:
            alice.say(room, text)

        second = hear(
            matrix, lambda: None, lambda ear: len(ear.messages) >= 115, cursor=first.cursor, seconds=60
        )

        assert [message.text for message in second.messages] == texts

    def test_our_own_words_and_edits_are_not_heard(self, bot: Person, alice: Person) -> None:
        """What is corrected later was answered already."""
        matrix = channel(bot)
        room, _ = talk(matrix, alice)

        def happens() -> None:
            id = alice.say(room, "yse")
            alice.say(
                room,
                "* yes",
                m__new_content={"msgtype": "m.text", "body": "yes"},
                m__relates_to={"rel_type": "m.replace", "event_id": id},
            )
            bot.say(room, "our own")
            alice.say(room, "end")

        ear = hear(matrix, happens, lambda ear: any(m.text == "end" for m in ear.messages))

        assert [message.text for message in ear.messages] == ["yse", "end"]

    def test_an_invitation_is_followed(self, bot: Person, alice: Person) -> None:
        """Of who is on our homeserver; what they said meanwhile is heard, and they are answered there."""
        matrix = channel(bot)

        def happens() -> None:
            room = alice.create(bot.id, is_direct=True)
            alice.say(room, "are you there?")

        ear = hear(matrix, happens, lambda ear: ear.messages)
        send(matrix, outgoing(alice.id, "I am."))

        (heard,) = ear.messages
        assert (heard.text, heard.address) == ("are you there?", alice.id)
        (room,) = alice.rooms()
        assert [event["content"]["body"] for event in alice.seen(room)] == ["are you there?", "I am."]

    def test_an_invitation_of_anybody_else_is_not(self, bot: Person, alice: Person, bob: Person) -> None:
        """Nor is it refused: the settings may change."""
        matrix = channel(bot, inviters=[alice.id])
        spam: list[str] = []

        def happens() -> None:
            spam.append(bob.create(bot.id, is_direct=True))
            alice.say(alice.create(bot.id), "hello")

        ear = hear(matrix, happens, lambda ear: ear.messages)

        assert [message.address for message in ear.messages] == [alice.id]
        assert list(bot.rooms("invite")) == spam

    def test_responders_speak_for_a_room(self, bot: Person, alice: Person, bob: Person, room: str) -> None:
        """Whoever else is there speaks for themselves only."""
        matrix = channel(bot, responders={room: [alice.id]})
        id = send(matrix, outgoing(room, "Ship it?")).provider_id

        def happens() -> None:
            bob.answer(room, id, "no")
            alice.answer(room, id, "yes")

        ear = hear(matrix, happens, lambda ear: len(ear.messages) >= 2)

        assert [(message.address, message.text, message.auth) for message in ear.messages] == [
            (bob.id, "no", f"Matrix account {bob.id}"),
            (room, "yes", f"Matrix account {alice.id}"),
        ]

    def test_an_answer_in_a_thread_names_its_first_message(
        self, bot: Person, alice: Person, room: str
    ) -> None:
        """Unless it really answers another one."""
        matrix = channel(bot)
        root = send(matrix, outgoing(room, "Ship it?")).provider_id
        relation = {"rel_type": "m.thread", "event_id": root}

        def happens() -> None:
            first = alice.say(
                room,
                "one",
                m__relates_to={**relation, "is_falling_back": True, "m.in_reply_to": {"event_id": root}},
            )
            alice.say(
                room,
                "two",
                m__relates_to={**relation, "is_falling_back": False, "m.in_reply_to": {"event_id": first}},
            )

        ear = hear(matrix, happens, lambda ear: len(ear.messages) >= 2)

        one, two = ear.messages
        assert [one.thread, two.thread] == [root, root]
        assert [one.reply_to, two.reply_to] == [root, one.provider_id]

    def test_files_are_heard(self, bot: Person, alice: Person) -> None:
        """By reference; the homeserver gives the bytes with our token."""
        matrix = channel(bot)
        room, _ = talk(matrix, alice)
        url = using(channel(alice), lambda it: it._api.upload(b"%PDF", "application/pdf", "a.pdf"))

        def happens() -> None:
            file = {"msgtype": "m.file", "url": url, "info": {"mimetype": "application/pdf"}}
            alice.put(room, "m.room.message", {**file, "body": "a.pdf"})
            alice.put(room, "m.room.message", {**file, "body": "the invoice", "filename": "a.pdf"})

        ear = hear(matrix, happens, lambda ear: len(ear.messages) >= 2)

        assert [message.text for message in ear.messages] == ["", "the invoice"]
        (attachment,) = ear.messages[1].attachments
        assert (attachment.name, attachment.content_type) == ("a.pdf", "application/pdf")
        assert using(matrix, lambda it: it.fetch(attachment)) == b"%PDF"
        with pytest.raises(PermanentChannelError):
            using(matrix, lambda it: it.fetch(Attachment(url="mxc://localhost/nothing")))

    def test_what_was_read_is_delivered(self, bot: Person, alice: Person) -> None:
        """A read receipt of somebody else."""
        matrix = channel(bot)
        room, id = talk(matrix, alice)

        ear = hear(matrix, lambda: alice.read(room, id), lambda ear: ear.updates)

        assert [(one.provider_id, one.status) for one in ear.updates] == [(id, DeliveryStatus.DELIVERED)]

    def test_a_cursor_that_is_none_is_begun_anew(self, bot: Person, alice: Person) -> None:
        """A homeserver that was set up again knows nothing of before."""
        matrix = channel(bot)
        room, _ = talk(matrix, alice)
        ear = Ear()

        def heard(ear: Ear) -> bool:
            if not ear.messages and ear.takes:
                alice.say(room, "hello")
            return bool(ear.messages)

        ear = hear(matrix, lambda: None, heard, cursor="nonsense")

        assert ear.messages[0].text == "hello"


class TestPress:
    def test_an_approval_can_be_pressed(self, bot: Person, alice: Person) -> None:
        """The reactions are there already; the one that is chosen presses the only button of its kind."""
        matrix = channel(bot)
        room, _ = talk(matrix, alice)
        id = send(matrix, outgoing(alice.id, "Pay?", kind="approval", buttons=BUTTONS)).provider_id
        offered = [event["content"]["m.relates_to"]["key"] for event in alice.seen(room, "m.reaction")]

        ear = hear(matrix, lambda: alice.react(room, id, "✅"), lambda ear: ear.messages)

        (press,) = ear.messages
        assert offered == ["✅", "❌"]
        assert (press.pressed, press.reply_to, press.address, press.text) == ("A7:yes", id, alice.id, "")

    def test_other_reactions_press_nothing(self, bot: Person, alice: Person) -> None:
        """To other messages, with other signs, or where it is not certain which button is meant."""
        matrix = channel(bot)
        room, hello = talk(matrix, alice)
        two = (*BUTTONS, Button(label="Approve all", value="A7:all", style="yes"))
        unsure = send(matrix, outgoing(alice.id, "Pay?", buttons=two)).provider_id
        sure = send(matrix, outgoing(alice.id, "Pay?", buttons=BUTTONS)).provider_id
        hers = alice.put(
            room,
            "m.room.message",
            {"msgtype": "m.text", "body": "x", "wakeloop.buttons": [{"value": "A7:yes", "style": "yes"}]},
        )

        def happens() -> None:
            for id, key in ((hello, "✅"), (unsure, "✅"), (sure, "🎉"), (hers, "✅"), (sure, "👎🏽")):
                alice.react(room, id, key)

        ear = hear(matrix, happens, lambda ear: ear.messages)

        assert [(press.pressed, press.reply_to) for press in ear.messages] == [("A7:no", sure)]

    def test_a_message_that_was_removed_presses_nothing(self, bot: Person, alice: Person) -> None:
        """Its buttons went with it."""
        matrix = channel(bot)
        room, _ = talk(matrix, alice)
        id = send(matrix, outgoing(alice.id, "Pay?", buttons=BUTTONS)).provider_id
        bot.redact(room, id)

        def happens() -> None:
            alice.react(room, id, "👍")
            alice.say(room, "end")

        ear = hear(matrix, happens, lambda ear: ear.messages)

        assert [message.text for message in ear.messages] == ["end"]


def test_nothing_else_is_handed_in(bot: Person, alice: Person) -> None:
    """Only messages and updates, each with an id of its own."""
    matrix = channel(bot)
    room, _ = talk(matrix, alice)

    ear = hear(
        matrix, lambda: [alice.say(room, "a"), alice.say(room, "b")], lambda ear: len(ear.messages) >= 2
    )

    assert len({item.provider_id for item in ear.messages}) == 2
    assert [item for item in ear.items if isinstance(item, DeliveryUpdate)] == ear.updates
