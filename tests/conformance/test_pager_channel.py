"""The example of channels/ADDING_A_CHANNEL.md passes the suite, and one that is wrong does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.conformance.pager_channel import PagerChannel
from tests.conformance.pager_kit import PagerProvider

from wakeloop.channel import DeliveryUpdate, Incoming, Outgoing, RawRequest, Receipt
from wakeloop.errors import PermanentChannelError, TemporaryChannelError
from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Fault, Provider


class TestPager(ChannelConformance):
    """A channel of a third party."""

    adapter = PagerChannel
    timed_signatures = True
    secret_setting = "signing_secret"

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in, listening."""
        pager = PagerProvider()
        yield pager
        pager.close()


class Twice(PagerChannel):
    """Sends a message anew at every attempt."""

    attempts = 0

    async def send(self, message: Outgoing) -> Receipt:
        self.attempts += 1
        return await super().send(Outgoing(**{**vars(message), "key": f"{message.key}-{self.attempts}"}))


class Blind(PagerChannel):
    """Believes whoever calls."""

    def verify(self, request: RawRequest) -> None:
        pass


class Forgetful(PagerChannel):
    """Gives each webhook a number of its own."""

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        (item,) = super().parse(request)
        return [type(item)(**{**vars(item), "provider_id": request.headers["x-pager-signature"]})]


class Hasty(PagerChannel):
    """Gives up for good when the answer is lost."""

    async def send(self, message: Outgoing) -> Receipt:
        try:
            return await super().send(message)
        except TemporaryChannelError as error:
            raise PermanentChannelError(str(error), code=None) from error


class Careless(PagerChannel):
    """Lets anything malformed become its own kind of error."""

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        if b"page" not in request.body and b"status" not in request.body:
            raise KeyError("kind")
        return super().parse(request)


class Cutting(PagerChannel):
    """Sends what fits."""

    async def send(self, message: Outgoing) -> Receipt:
        return await super().send(Outgoing(**{**vars(message), "text": message.text[:500]}))


class Telling(PagerChannel):
    """Shows its settings, secrets included."""

    def __repr__(self) -> str:
        return f"PagerChannel({self.settings.token.get_secret_value()})"


@pytest.mark.parametrize(
    ("adapter", "check", "says"),
    [
        (Twice, lambda suite, pager, run: suite.test_the_same_key_is_the_same_message(pager, run), "twice"),
        (Blind, lambda suite, pager, run: suite.test_a_forged_webhook_is_refused(pager), "must be refused"),
        (Blind, lambda suite, pager, run: suite.test_an_old_webhook_is_refused(pager), "must be refused"),
        (
            Forgetful,
            lambda suite, pager, run: suite.test_a_duplicate_is_recognised(pager, run),
            "answered twice",
        ),
        (
            Hasty,
            lambda suite, pager, run: suite.test_a_lost_answer_leaves_the_outcome_open(
                pager, run, Fault.LOST
            ),
            "this is no refusal",
        ),
        (Hasty, lambda suite, pager, run: suite.test_a_busy_provider_is_asked_again(pager, run), "busy"),
        (Careless, lambda suite, pager, run: suite.test_a_malformed_body_gets_a_4xx(pager), "not KeyError"),
        (
            Cutting,
            lambda suite, pager, run: suite.test_a_message_that_is_too_long_is_never_cut(pager, run),
            "missing",
        ),
        (Telling, lambda suite, pager, run: suite.test_secrets_are_never_shown(pager), "is shown"),
    ],
)
def test_an_adapter_that_is_wrong_fails(
    adapter: type[PagerChannel], check: Callable[..., Any], says: str
) -> None:
    """Each defect is found by the test that is named for it, which says what is wrong."""
    pager = PagerProvider(adapter)

    with asyncio.Runner() as runner:
        with pytest.raises(AssertionError, match=says):
            check(TestPager(), pager, runner.run)
        runner.run(pager.channel.close())
    pager.close()


def test_what_does_not_concern_an_adapter_is_not_asked() -> None:
    """The tests of buttons, threads and lists are gone, those of webhooks are there; nothing is skipped at run time."""
    asked = {name for name in dir(TestPager) if name.startswith("test_") and getattr(TestPager, name)}

    assert "test_a_forged_webhook_is_refused" in asked
    assert "test_the_same_key_is_the_same_message" in asked
    assert not asked & {
        "test_a_button_comes_back_as_its_value",
        "test_a_reply_names_what_it_answers",
        "test_after_a_crash_the_message_is_found_once",
        "test_what_comes_while_nobody_listens_is_not_missed",
    }
