"""The conformance suite itself: a channel that can do everything passes all of it, and each way to be wrong is found."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.conformance.board_kit import Board, BoardChannel, BoardProvider

from wakeloop.channel import Button, DeliveryUpdate, Incoming, Inlet, Outgoing, Receipt, Sent
from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Provider

NEVER = datetime(2026, 11, 2, tzinfo=UTC)


class TestBoard(ChannelConformance):
    """Everything but a network and webhooks."""

    adapter = BoardChannel
    webhooks = False
    listening = True
    network = False

    @pytest.fixture
    def provider(self) -> Provider:
        """An empty board."""
        return BoardProvider()


class Sending(BoardChannel):
    """Puts something else on the board than it was given."""

    def change(self, message: Outgoing) -> Outgoing:
        return message

    async def send(self, message: Outgoing) -> Receipt:
        return await super().send(self.change(message))


class Shortened(Sending):
    def change(self, message: Outgoing) -> Outgoing:
        cut = [Button(label=button.label, value=button.value[:32]) for button in message.buttons]
        return replace(message, buttons=tuple(cut))


class WithoutFiles(Sending):
    def change(self, message: Outgoing) -> Outgoing:
        return replace(message, attachments=())


class WithoutToken(Sending):
    def change(self, message: Outgoing) -> Outgoing:
        return replace(message, token=None)


class WithoutSubmit(Sending):
    def change(self, message: Outgoing) -> Outgoing:
        return replace(message, submit="other")


class Plain(Sending):
    def change(self, message: Outgoing) -> Outgoing:
        return replace(message, text=message.text.encode("ascii", "replace").decode())


class Same(BoardChannel):
    async def send(self, message: Outgoing) -> Receipt:
        await super().send(message)
        return Receipt(provider_id="m1")


class Anyone(BoardChannel):
    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        return await super().find_sent(replace(message, text="Ship it?"), known)


class StillPressable(BoardChannel):
    async def amend(self, sent: Sent, text: str) -> None:
        hanging = self.board.messages[sent.provider_id]
        self.board.messages[sent.provider_id] = replace(hanging, text=text)


class Changing(BoardChannel):
    """Makes something else of what it reads."""

    def read(self, item: Any) -> Any:
        return item

    async def listen(self, inlet: Inlet) -> None:
        channel = self

        class Between:
            cursor = inlet.cursor

            async def take(
                self, items: Sequence[Incoming | DeliveryUpdate], *, cursor: str | None = None
            ) -> None:
                await inlet.take([channel.read(item) for item in items], cursor=cursor)

        await super().listen(Between())


class Threadless(Changing):
    def read(self, item: Any) -> Any:
        return replace(item, reply_to=None)


class Wordless(Changing):
    def read(self, item: Any) -> Any:
        return replace(item, error=None)


class Storing(Changing):
    def read(self, item: Any) -> Any:
        return replace(item, raw={"text": "a\0b"})


class Numberless(Changing):
    def read(self, item: Any) -> Any:
        return replace(item, provider_id="in")


class FromNow(BoardChannel):
    """Does not look back."""

    async def listen(self, inlet: Inlet) -> None:
        inlet.cursor = inlet.cursor and str(len(self.board.happened))
        await super().listen(inlet)


class Taking(BoardChannel):
    """Tells the provider that it has a message before it is recorded."""

    async def listen(self, inlet: Inlet) -> None:
        items = list(self.board.happened)
        self.board.happened.clear()
        await inlet.take(items)
        await asyncio.sleep(60)


class Loud(BoardChannel):
    async def check(self) -> str:
        await self.send(Outgoing(key="x", address="alice", text="test", claimed_at=NEVER))
        return "the board"


class Pathless(BoardChannel):
    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        return [("On the wall", "Write to us")]


class Twofold(BoardChannel):
    def normalize(self, address: str) -> str:
        return super().normalize(address) + "x"


class Amendless(BoardChannel):
    amend = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("adapter", "test", "arguments", "says"),
    [
        (Shortened, "test_a_button_comes_back_as_its_value", {"value": "b" * 64}, "as it was given"),
        (WithoutFiles, "test_a_file_by_url_is_sent_along", {}, "did not arrive"),
        (WithoutFiles, "test_a_file_by_value_is_sent_along_or_refused", {}, "left out silently"),
        (WithoutToken, "test_a_token_comes_back", {}, None),
        (WithoutSubmit, "test_a_form_comes_back_filled_in", {}, "Outgoing.submit"),
        (Plain, "test_every_script_arrives_as_it_was_written", {"text": "é"}, "exactly the text"),
        (Same, "test_each_message_has_an_id_of_its_own", {}, None),
        (Anyone, "test_only_the_same_message_is_found", {}, "another text"),
        (StillPressable, "test_what_was_sent_can_be_changed_twice", {}, "not amended"),
        (Threadless, "test_a_reply_names_what_it_answers", {}, None),
        (Wordless, "test_receipts_tell_how_far_a_message_has_come", {}, "must say why"),
        (Storing, "test_a_message_comes_in", {}, "no NUL"),
        (Numberless, "test_two_messages_are_two", {}, "would be dropped"),
        (FromNow, "test_what_comes_while_nobody_listens_is_not_missed", {}, "were awaited"),
        (Taking, "test_what_was_not_recorded_comes_again", {}, "were awaited"),
        (Loud, "test_a_check_says_as_whom", {}, "must not write"),
        (Pathless, "test_the_guide_names_the_address", {}, "no step says"),
        (Twofold, "test_the_canonical_form_is_final", {}, "canonical form"),
        (Amendless, "test_capabilities_agree_with_what_is_there", {}, "`amends` must say"),
    ],
)
def test_a_channel_that_is_wrong_fails(
    adapter: type[BoardChannel],
    test: str,
    arguments: dict[str, Any],
    says: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each defect is found by the test that is named for it."""
    monkeypatch.setattr("wakeloop.testing.channels.listening.PATIENCE_SECONDS", 0.3)
    check: Callable[..., None] = getattr(TestBoard(), test)
    wanted = inspect.signature(check).parameters

    with asyncio.Runner() as runner:
        given = {"provider": BoardProvider(adapter), "run": runner.run, **arguments}
        with pytest.raises(AssertionError, match=says):
            check(**{name: value for name, value in given.items() if name in wanted})


def test_what_is_missing_of_a_provider_is_named() -> None:
    """Its author reads what to write, and for what."""

    class Bare(Provider):
        pass

    with pytest.raises(NotImplementedError, match=r"Bare\.press is needed for capabilities\.buttons"):
        Bare().press("m1", "Yes")


def test_the_runtime_imports_no_pytest() -> None:
    """Neither wakeloop nor its simulation needs what the suite needs."""
    code = "import sys, wakeloop.testing, wakeloop.wiring; assert not {'pytest', 'hypothesis'} & set(sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_board_is_one_for_all() -> None:
    """A second process sees what the first has sent, so the suite's restarts mean something."""
    provider = BoardProvider()

    assert isinstance(provider.restarted(), BoardChannel)
    assert provider.restarted().board is provider.board
    assert provider.board == Board()
