"""Slack's Socket Mode: envelopes are acknowledged when they are on record, and none is lost."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from tests.conformance.channel_kit import send
from tests.conformance.slack_kit import ALICE, BOB, REQUEST, TEAM, approval, channel, listening

from wakeloop.channel import DeliveryUpdate, Incoming
from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop.testing.slack import SlackStandIn
from wakeloop_channels import slack_socket
from wakeloop_channels.slack import SlackChannel


class Taken:
    """An inlet that keeps what it is given; `before` may fail first, as a process that dies or a database that is down."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.cursor: str | None = None
        self.items: list[Incoming] = []
        self.before = before

    async def take(self, items: Sequence[Incoming | DeliveryUpdate], *, cursor: str | None = None) -> None:
        self.before()
        self.items += [item for item in items if isinstance(item, Incoming)]


class Listener:
    """A process that listens, on a thread of its own, until the block ends or it fails (`error`)."""

    def __init__(self, it: SlackChannel, inlet: Taken) -> None:
        self.error: BaseException | None = None
        self._it = it
        self._inlet = inlet
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        async def listen() -> None:
            self._task = asyncio.current_task()
            try:
                await self._it.listen(self._inlet)
            finally:
                await self._it.close()

        try:
            self._loop.run_until_complete(listen())
        except BaseException as error:
            self.error = error
        finally:
            self._loop.close()
            self.done.set()

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if not self.done.is_set() and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slack_socket, "PAUSE_SECONDS", 0.02)


@pytest.fixture
def slack() -> Iterator[SlackStandIn]:
    with SlackStandIn(
        channels={TEAM: [ALICE, BOB]}, users=[ALICE, BOB], socket_mode=True, webhook_timeout=5.0
    ) as stand_in:
        yield stand_in


def test_what_people_say_and_press_is_taken(slack: SlackStandIn) -> None:
    """As by a webhook; the record says how it is known who it was."""
    inlet = Taken()
    sent = send(channel(slack), approval(TEAM))
    (message,) = slack.messages
    with Listener(listening(slack, responders={TEAM: [ALICE]}), inlet):
        slack.wait_for_connections()
        answers = [slack.say("hello"), slack.press(message, "Yes")]

    assert [(one.text, one.pressed) for one in inlet.items] == [("hello", None), ("", f"{REQUEST}:yes")]
    assert [one.address for one in inlet.items] == [ALICE, TEAM]
    assert {one.auth for one in inlet.items} == {f"Slack connection, user {ALICE}"}
    assert inlet.items[1].reply_to == sent.provider_id
    assert [answer.body for answer in answers] == ["", ""]


def test_a_dialog_is_opened_and_answered_over_the_socket(slack: SlackStandIn) -> None:
    """What is wrong in it goes back with the acknowledgement."""
    inlet = Taken()
    send(channel(slack), approval())
    with Listener(listening(slack), inlet):
        slack.wait_for_connections()
        slack.press(slack.messages[0], "No with a comment…")
        view = slack.wait_for_view()
        empty, good = slack.submit(view, {"comment": " "}), slack.submit(view, {"comment": "later"})

    assert json.loads(empty.body)["response_action"] == "errors"
    assert json.loads(good.body) == {}
    assert [(one.pressed, one.text) for one in inlet.items] == [(f"{REQUEST}:no", "later")]


def test_a_stranger_is_told_over_the_socket(slack: SlackStandIn) -> None:
    """As by a webhook."""
    send(channel(slack), approval(TEAM))
    with Listener(listening(slack, responders={TEAM: [ALICE]}), Taken()):
        slack.wait_for_connections()
        slack.press(slack.messages[0], "Yes", user=BOB)
        note = slack.wait_for_note()

    assert note.user == BOB


def test_what_was_not_recorded_is_not_acknowledged(slack: SlackStandIn) -> None:
    """A process that dies before the commit: Slack sends it again, to the next, and it counts."""

    def die() -> None:
        raise ConnectionResetError("the database is gone")

    dying, next_one = Taken(die), Taken()
    slack.webhook_timeout = 0.5
    with Listener(listening(slack), dying) as first:
        slack.wait_for_connections()
        with pytest.raises(TimeoutError):
            slack.say("do not lose me")
        assert first.done.wait(5)
    slack.wait_for_connections(0)
    slack.webhook_timeout = 5.0
    with Listener(listening(slack), next_one):
        slack.wait_for_acknowledgements()

    assert isinstance(first.error, ConnectionResetError)
    assert dying.items == []
    assert [one.text for one in next_one.items] == ["do not lose me"]


def test_a_process_that_dies_before_the_acknowledgement_has_it_twice(slack: SlackStandIn) -> None:
    """With one id, so that it counts once."""
    inlet = Taken()

    def lose() -> None:
        threading.Thread(target=slack.close_sockets).start()
        slack.wait_for_connections(0)
        inlet.before = lambda: None

    inlet.before = lose
    with Listener(listening(slack), inlet):
        slack.wait_for_connections()
        slack.say("once")

    assert [one.text for one in inlet.items] == ["once", "once"]
    assert len({one.provider_id for one in inlet.items}) == 1


def test_a_quiet_connection_stays(slack: SlackStandIn) -> None:
    """The timeout is for answers: nobody may say anything for days."""
    inlet = Taken()
    with Listener(listening(slack, timeout=0.2), inlet):
        slack.wait_for_connections()
        before = slack.requests
        threading.Event().wait(0.7)
        slack.say("still there?")

    assert slack.requests == before
    assert [one.text for one in inlet.items] == ["still there?"]


def test_a_dialog_that_cannot_be_opened_stops_nothing(
    slack: SlackStandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """A line in the log says so; the person presses again."""
    inlet = Taken()
    send(channel(slack), approval())
    with Listener(listening(slack), inlet):
        slack.wait_for_connections()
        slack.fail_next("expired_trigger_id", method="views.open")
        slack.press(slack.messages[0], "No with a comment…")
        slack.press(slack.messages[0], "Yes")

    assert [one.pressed for one in inlet.items] == [f"{REQUEST}:yes"]
    assert "could not be answered: PermanentChannelError" in caplog.text


@pytest.mark.parametrize("reason", [None, "warning", "refresh_requested"])
def test_a_connection_that_ends_is_replaced(slack: SlackStandIn, reason: str | None) -> None:
    """Slack renews each every few hours."""
    inlet = Taken()
    with Listener(listening(slack), inlet):
        slack.wait_for_connections()
        before = slack.requests
        slack.close_sockets(reason=reason)
        while slack.requests == before:
            threading.Event().wait(0.01)
        slack.wait_for_connections()
        slack.say("still there?")

    assert [one.text for one in inlet.items] == ["still there?"]


def test_what_cannot_be_read_is_acknowledged(slack: SlackStandIn, caplog: pytest.LogCaptureFixture) -> None:
    """It would be no better the next time; a line in the log says so, without what it said."""
    inlet = Taken()
    with Listener(listening(slack), inlet):
        slack.wait_for_connections()
        answer = slack.event({"type": "message", "channel": "D0ALICE001", "user": ALICE, "text": "a secret"})
        slack.say("next")

    assert (answer.status, [one.text for one in inlet.items]) == (200, ["next"])
    assert "ts is missing" in caplog.text
    assert "a secret" not in caplog.text


@pytest.mark.parametrize(
    ("fault", "error"),
    [("invalid_auth", PermanentChannelError), ("internal_error", TemporaryChannelError), (None, TemporaryChannelError)],
)  # fmt: skip
def test_what_cannot_be_mended_by_waiting_is_raised(
    slack: SlackStandIn, fault: str | None, error: type[ChannelError]
) -> None:
    """The runtime logs it, and calls again after a while."""
    slack.fail_next(fault, status=200 if fault else 503)
    with Listener(listening(slack), Taken()) as listener:
        assert listener.done.wait(5)

    assert isinstance(listener.error, error)


def test_socket_mode_that_is_switched_off_is_told(slack: SlackStandIn) -> None:
    """With where to switch it on."""
    with Listener(listening(slack), Taken()) as listener:
        slack.wait_for_connections()
        slack.close_sockets(reason="link_disabled")
        assert listener.done.wait(5)

    assert isinstance(listener.error, PermanentChannelError)
    assert "switch it on" in str(listener.error)


def test_another_process_takes_over(slack: SlackStandIn) -> None:
    """The inlet cancels the one that has lost its turn."""

    def lost() -> None:
        raise asyncio.CancelledError

    slack.webhook_timeout = 0.5
    with Listener(listening(slack), Taken(lost)) as listener:
        slack.wait_for_connections()
        with pytest.raises(TimeoutError):
            slack.say("for the other")
        assert listener.done.wait(5)

    assert isinstance(listener.error, asyncio.CancelledError)


def test_a_socket_that_cannot_be_opened_keeps_its_ticket_secret(slack: SlackStandIn) -> None:
    """Its address is as good as a password."""

    async def nothing(payload: dict[str, Any]) -> None:
        return None

    class Closed:
        session = property(lambda self: self.real.session)

        def __init__(self, real: Any) -> None:
            self.real = real

        async def call(self, method: str, *, repeatable: bool) -> dict[str, Any]:
            return {"url": "ws://127.0.0.1:1/link?ticket=s3cret"}

    async def run() -> None:
        it = channel(slack)
        try:
            await slack_socket.listen(Closed(it._api), nothing, nothing)  # type: ignore[arg-type]
        finally:
            await it.close()

    with pytest.raises(TemporaryChannelError) as raised:
        asyncio.run(run())

    assert "s3cret" not in str(raised.value)
