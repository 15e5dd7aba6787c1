"""The Matrix channel's settings, and what it makes of a homeserver that fails and of events that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conformance.channel_kit import send, using
from tests.conformance.matrix_homeserver import HomeServer
from tests.conformance.matrix_kit import Ear, Person, channel, hear, outgoing, person
from tests.http_kit import HANG_UP, Reply, json_reply

from wakeloop.channel import (
    Amending,
    Button,
    Channel,
    ChannelServices,
    Checking,
    Fetching,
    Listening,
    RawRequest,
)
from wakeloop.errors import (
    ChannelError,
    ConfigurationError,
    InvalidWebhook,
    PermanentChannelError,
    TemporaryChannelError,
)
from wakeloop.events import Attachment
from wakeloop_channels.matrix import MatrixChannel
from wakeloop_channels.matrix_events import pressed, receipts, said, since_joined, target

ME = "@bot:localhost"


@pytest.fixture
def server() -> Iterator[HomeServer]:
    with HomeServer() as homeserver:
        yield homeserver


@pytest.fixture
def bot(server: HomeServer) -> Person:
    return person(server.url, "bot")


@pytest.fixture
def room(bot: Person) -> str:
    return bot.create()


def make(**section: Any) -> MatrixChannel:
    facts = {"homeserver": "https://matrix.example.com", "access_token": "s3cret", **section}
    return MatrixChannel.from_settings(
        {name: value for name, value in facts.items() if value is not None}, ChannelServices()
    )


class TestSettings:
    def test_the_port_is_fulfilled(self) -> None:
        """It listens, amends, fetches and can be checked."""
        matrix = make()

        for port in (Channel, Listening, Amending, Fetching, Checking):
            assert isinstance(matrix, port)
        assert matrix.listens
        assert not make(listen="false").listens

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"homeserver": None}, "channels.matrix.homeserver"),
            ({"homeserver": "matrix.example.com"}, "channels.matrix.homeserver"),
            ({"access_token": None}, "WAKELOOP_MATRIX_ACCESS_TOKEN"),
            ({"access_token": ""}, "WAKELOOP_MATRIX_ACCESS_TOKEN"),
            ({"responders": {"#room:example.com": []}}, "channels.matrix.responders"),
            ({"responders": {"!room:example.com": ["alice"]}}, "channels.matrix.responders"),
            ({"inviters": ["@alice"]}, "channels.matrix.inviters"),
            ({"timeout": 0}, "channels.matrix.timeout"),
            ({"room": "x"}, "channels.matrix.room is no setting"),
        ],
    )
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        """The error says which key or environment variable to mend; the token shows nowhere."""
        with pytest.raises(ConfigurationError) as raised:
            make(**changes)

        assert named in str(raised.value)
        assert "s3cret" not in str(raised.value)
        assert "s3cret" not in repr(make().settings)

    @pytest.mark.parametrize(
        ("address", "canonical"),
        [
            ("@alice:example.com", "@alice:example.com"),
            (" @Alice:Example.COM ", "@Alice:example.com"),
            ("@a.b=c/d:example.com:8448", "@a.b=c/d:example.com:8448"),
            ("@alice:[::1]", "@alice:[::1]"),
            ("!AbC:example.com", "!AbC:example.com"),
            ("!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM", "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"),
        ],
    )
    def test_ids_are_taken(self, address: str, canonical: str) -> None:
        """Of users, and of rooms of any version."""
        assert make().normalize(address) == canonical

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("#room:example.com", "alias"),
            ("alice", "user id"),
            ("@alice", "user id"),
            ("@:example.com", "user id"),
            ("@a b:example.com", "user id"),
            ("!", "user id"),
            ("", "user id"),
            ("@" + "a" * 255 + ":example.com", "255 bytes"),
        ],
    )
    def test_anything_else_is_refused_with_the_reason(self, address: str, reason: str) -> None:
        """An alias is no address: it may come to name another room."""
        with pytest.raises(ValueError, match=reason):
            make().normalize(address)

    def test_there_are_no_webhooks(self) -> None:
        """404, and nothing is parsed."""
        request = RawRequest(method="POST", url="https://example.com", headers={}, body=b"")

        for step in (make().verify, make().parse):
            with pytest.raises(InvalidWebhook) as raised:
                step(request)
            assert raised.value.status == 404
        assert make().respond(request).status == 404


class TestFailures:
    @pytest.mark.parametrize(
        ("fault", "waits"),
        [
            (json_reply({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 1500}, 429), 1.5),
            (json_reply({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 1}, 429, Retry_After="7"), 7.0),
            (json_reply({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": "soon"}, 429), None),
            (Reply(status=503, headers={"Retry-After": "17"}), 17.0),
            (json_reply({"errcode": "M_UNKNOWN"}, 500), None),
            (Reply(status=502, body=b"<html>"), None),
            (HANG_UP, None),
        ],
        ids=str,
    )
    def test_what_may_pass_is_tried_again(
        self, server: HomeServer, bot: Person, room: str, fault: Reply, waits: float | None
    ) -> None:
        """It does no harm if the message was taken: the transaction id is the same. Matrix' own time to wait counts."""
        matrix, message = channel(bot), outgoing(room)
        server.faults.append(json_reply({"errcode": "M_NOT_FOUND"}, 404))  # of encryption
        server.faults += [fault, fault] if fault.hang_up else [fault]  # aiohttp repeats a PUT once by itself

        with pytest.raises(TemporaryChannelError) as raised:
            send(matrix, message)
        send(matrix, message)

        assert raised.value.retry_after == waits
        assert len(bot.seen(room)) == 1

    def test_nobody_there_is_tried_again(self, server: HomeServer, bot: Person, room: str) -> None:
        """Nothing listens."""
        server.stop()

        with pytest.raises(TemporaryChannelError):
            send(channel(bot), outgoing(room))

    def test_a_slow_answer_is_tried_again(self, server: HomeServer, bot: Person, room: str) -> None:
        """After the time that is set."""
        server.faults.append(2.0)

        with pytest.raises(TemporaryChannelError):
            send(channel(bot, timeout=0.2), outgoing(room))

    @pytest.mark.parametrize("body", [b"[]", b"null", b"{}", b'{"event_id": 7}'])
    def test_an_answer_without_an_event_is_none(
        self, server: HomeServer, bot: Person, room: str, body: bytes
    ) -> None:
        """It is asked again."""
        server.faults += [json_reply({"errcode": "M_NOT_FOUND"}, 404), Reply(body=body)]

        with pytest.raises(TemporaryChannelError):
            send(channel(bot), outgoing(room))

    def test_reactions_that_fail_do_not_matter(self, server: HomeServer, bot: Person, room: str) -> None:
        """The message is out."""
        server.faults += [json_reply({"errcode": "M_NOT_FOUND"}, 404), 0.0, Reply(status=500)]
        buttons = (Button(label="Yes", value="A7:yes", style="yes"),)

        receipt = send(channel(bot), outgoing(room, buttons=buttons))

        assert [event["event_id"] for event in bot.seen(room)] == [receipt.provider_id]

    def test_a_file_that_cannot_be_read_is_refused(self, bot: Person, room: str) -> None:
        """Before anything is said."""
        broken = Attachment(url="data:text/plain;base64,%%%")

        with pytest.raises(PermanentChannelError, match="Attachment 1"):
            send(channel(bot), outgoing(room, attachments=(broken,)))

        assert bot.seen(room) == []

    @pytest.mark.parametrize("url", ["https://example.com/a", "mxc://", "mxc://a", "mxc://a/b/c", "mxc:///b"])
    def test_only_files_of_matrix_are_fetched(self, server: HomeServer, bot: Person, url: str) -> None:
        """Nobody can have us call another place with our token."""
        before = len(server.came)

        with pytest.raises(PermanentChannelError):
            using(channel(bot), lambda it: it.fetch(Attachment(url=url)))

        assert len(server.came) == before

    def test_listening_ends_with_the_homeserver(self, server: HomeServer, bot: Person) -> None:
        """The runtime begins again after a while."""
        with pytest.raises(ChannelError):
            hear(channel(bot), server.stop, lambda ear: False)

    def test_an_old_homeserver_is_named(self, server: HomeServer, bot: Person) -> None:
        """Before v1.1 the addresses of the API were others."""
        server.faults.append(json_reply({"versions": ["r0.6.1"]}))

        with pytest.raises(ChannelError, match=r"v1\.1"):
            using(channel(bot), lambda it: it.check())


SCRAPS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(
        [ME, "@a:b", "m.room.message", "m.reaction", "m.text", "m.file", "m.thread", "m.annotation", "✅", "$1", "\0", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["body", "msgtype", "url", "info", "mimetype", "filename", "rel_type", "event_id", "key", "m.relates_to",
             "m.in_reply_to", "m.read", "membership", "events", "content", "type", "wakeloop.buttons", "style", "value"]
        ),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
EVENTS = st.dictionaries(
    st.sampled_from(["type", "sender", "event_id", "content", "state_key", "events"]), SCRAPS
)


class TestFuzz:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(EVENTS, EVENTS)
    def test_any_event_is_read_or_left(self, event: dict[str, Any], other: dict[str, Any]) -> None:
        """A homeserver passes on what anybody's client wrote; what is read can be recorded."""
        found = [
            said(event, "!r", me=ME, speaks_for="@a:b"),
            pressed(event, other, "yes", "!r", me=ME, speaks_for="@a:b"),
            *receipts(event, me=ME),
        ]
        target(event, me=ME)
        since_joined([event, other], ME)

        for item in found:
            if item is not None:
                assert item.provider_id
                assert "\0" not in repr(item)
                repr(item).encode()

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.text())
    def test_any_address_is_an_id_or_refused(self, address: str) -> None:
        """And its canonical form is its own."""
        matrix = make()
        try:
            found = matrix.normalize(address)
        except ValueError:
            return

        assert matrix.normalize(found) == found


@pytest.mark.parametrize("answer", [{}, {"next_batch": 7}, {"next_batch": None, "rooms": []}])
def test_an_answer_without_a_cursor_is_an_error(server: HomeServer, bot: Person, answer: Any) -> None:
    """Else the same would be asked for ever."""
    server.faults += [json_reply({"user_id": bot.id}), json_reply(answer)]

    with pytest.raises(ChannelError):
        hear(channel(bot), lambda: None, lambda ear: False, cursor="s0")


@pytest.mark.parametrize(
    "rooms",
    [
        [],
        {"join": []},
        {"join": {"!r": 7}},
        {"join": {"!r": {"timeline": 7, "ephemeral": 7}}},
        {"join": {"!r": {"timeline": {"events": [7, {"sender": 7}, {"sender": ME}]}}}},
        {"invite": {"!r": {"invite_state": 7}}},
    ],
    ids=str,
)
def test_rooms_that_are_none_are_left_out(server: HomeServer, bot: Person, rooms: Any) -> None:
    """Nothing of the shape of an answer is taken for granted."""
    server.faults += [json_reply({"user_id": bot.id}), json_reply({"next_batch": "s1", "rooms": rooms})]

    ear: Ear = hear(channel(bot), lambda: None, lambda ear: ear.takes, cursor="s0")

    assert (ear.items, ear.takes >= 1) == ([], True)
