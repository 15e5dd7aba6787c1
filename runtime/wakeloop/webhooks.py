"""Takes webhooks that come at the same time: plain messages are recorded together, everything else in its own time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import Context
from dataclasses import dataclass
from functools import partial

from wakeloop import crashpoints
from wakeloop.channel import DeliveryUpdate, Incoming, RawRequest, RawResponse
from wakeloop.intake import TOGETHER, Intake, Said, receiving
from wakeloop.plain import Plain
from wakeloop.routing import SIGNED_BY_PROVIDER

Rest = Callable[[], RawResponse]
"""What is still to be done for a request, in a thread; it takes its time, and raises what goes wrong."""

MOST = TOGETHER
"""So many are taken at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A request to a channel. context: that of whoever serves it, for its trace."""

    request: RawRequest
    context: Context


def take(intake: Intake, channel: str, webhooks: Sequence[Webhook]) -> list[RawResponse | Exception | Rest]:
    """Verify these requests to a channel, no more than MOST, and record the plain messages among them.

    For each, the answer that its provider wants, or what went wrong, as `Intake.webhook` has it; or what is left to do:
    then nothing of it is recorded yet, and the others need not wait until it is."""
    taken = [_Taken(intake, channel, webhook) for webhook in webhooks]
    for one in taken:
        one.proceed(one.read)
    plain = [one for one in taken if one.plain is not None]
    outcomes = intake.route_plain([one.plain for one in plain if one.plain is not None])
    for one, outcome in zip(plain, outcomes, strict=True):
        one.proceed(partial(one.conclude, outcome))
    return [one.result for one in taken]


class _Taken:
    """How far a webhook has come. The span of a plain message is open from the moment it is known to be one until it is
    recorded; all of that happens in the request's context."""

    def __init__(self, intake: Intake, channel: str, webhook: Webhook) -> None:
        self.plain: Plain | None = None
        self.result: RawResponse | Exception | Rest = lambda: webhook.context.run(self._each)
        self._intake = intake
        self._channel = channel
        self._adapter = intake.channel(channel)
        self._webhook = webhook
        self._items: Sequence[Incoming | DeliveryUpdate] = ()
        self._span = ExitStack()
        self._said: Said | None = None

    def proceed(self, work: Callable[[], None]) -> None:
        """Do a part of it; an error is its result."""
        try:
            self._webhook.context.run(work)
        except Exception as error:
            self.result = error

    def read(self) -> None:
        """Verify the request, and find out what it says."""
        self._adapter.verify(self._webhook.request)
        self._items = self._adapter.parse(self._webhook.request)
        if len(self._items) == 1 and isinstance(self._items[0], Incoming):
            self._said = self._intake.said(self._channel, self._items[0])
            if self._said.is_plain:
                self._span.enter_context(receiving(self._channel))
                self.plain = self._said.plain(SIGNED_BY_PROVIDER)

    def conclude(self, outcome: Callable[[], str | None]) -> None:
        """Answer it, or have it done alone."""
        said = self._said
        assert said is not None
        with self._span:
            found = outcome()
            if found is None:
                self._span = self._span.pop_all()
                self.result = lambda: self._webhook.context.run(self._alone, said)
                return
            self._intake.told(said, found)
        self.result = self._answer()

    def _alone(self, said: Said) -> RawResponse:
        with self._span:
            self._intake.route_alone(said, auth=SIGNED_BY_PROVIDER)
        return self._answer()

    def _each(self) -> RawResponse:
        for item in self._items:
            self._intake.take(self._channel, item, auth=SIGNED_BY_PROVIDER)
        return self._answer()

    def _answer(self) -> RawResponse:
        crashpoints.reach("intake.recorded")
        return self._adapter.respond(self._webhook.request)
