"""A provider that is away for an hour, on a virtual clock: the real engine, outbox and adapter against Twilio's stand-in.

In that hour it refuses (503), is not reached, or takes a message and loses the answer on the way. A delivery is tried eight
times, which takes ten minutes and some; after that it has failed for good, and whoever asked is told. So nothing may be
lost in silence, and nothing may be sent twice.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.conformance.twilio_kit import channel

from wakeloop import Call, Context, Undeliverable, agent
from wakeloop.clock import VirtualClock
from wakeloop.testing import Simulation
from wakeloop.testing.stand_in import Asked, Failure, Given, gateway_page
from wakeloop.testing.twilio import TwilioStandIn

BEGIN = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
AWAY_FROM, AWAY_UNTIL = BEGIN + timedelta(minutes=20), BEGIN + timedelta(minutes=80)
END = BEGIN + timedelta(hours=4)
STARTS_WITHIN = timedelta(minutes=100)
STEP = timedelta(minutes=1)
ASKS_AGAIN = timedelta(minutes=15)
CRASHES = 0.2
CRASH_POINTS = ("outbox.claimed", "outbox.sent", "engine.committed", "timers.claimed")


@agent()
async def persistent(ctx: Context[None]) -> int:
    """Asks until it has reached somebody, and sends word when it has their approval; how often it asked."""
    assert isinstance(ctx.event, Call)
    label, tries = ctx.event.input, 0
    while True:
        tries += 1
        try:
            await ctx.approve(label, f"go on with {label}", {"try": tries})
        except Undeliverable:
            await ctx.sleep(ASKS_AGAIN)
            continue
        await ctx.send(label, f"{label}: thank you")
        return tries


class AwayTwilio(TwilioStandIn):
    """Twilio, with an hour in which it is away."""

    def __init__(self, clock: VirtualClock, chance: random.Random) -> None:
        super().__init__(clock=clock)
        self.faults: Counter[str] = Counter()
        self._virtual, self._chance = clock, chance

    def handle(self, asked: Asked) -> Given | None:
        if not AWAY_FROM <= self._virtual.now() < AWAY_UNTIL:
            return super().handle(asked)
        how = self._chance.choice(["refused with 503", "not reached", "taken, and the answer lost"])
        self.faults[how] += 1
        if how == "refused with 503":
            return gateway_page(Failure(kind="fail", status=503))
        if how == "taken, and the answer lost":
            super().handle(asked)
        return None


@dataclass(frozen=True, kw_only=True)
class Hour:
    """What came of it. wrong: what must not be; told: how often an asker was told that a question reached nobody."""

    runs: int
    crashes: int
    faults: Counter[str]
    sent: int
    told: int
    wrong: tuple[str, ...]


def hold(runs: int, seed: int) -> Hour:
    """Let so many runs ask somebody each, before and during the outage and after it, with crashes all along."""
    chance = random.Random(f"{seed} outage")
    people = {f"p{number}": {"sms": f"+1415555{2000 + number}"} for number in range(runs)}
    starts = sorted((BEGIN + STARTS_WITHIN * chance.random(), name) for name in people)
    clock, crashes = VirtualClock(BEGIN), 0
    with (
        AwayTwilio(clock, chance) as twilio,
        Simulation([persistent], contacts=people, coalesce_seconds=0, start=BEGIN, seed=seed) as simulation,
    ):
        sms = channel(api_url=twilio.url)
        simulation.channels["sms"] = sms  # type: ignore[assignment]
        while simulation.now < END:
            if chance.random() < CRASHES:
                crashes += 1
                simulation.kill_at(chance.choice(CRASH_POINTS))
            while starts and starts[0][0] <= simulation.now:
                simulation.start(persistent, starts.pop(0)[1])
            clock.move(simulation.now + STEP)
            simulation.advance(STEP)
            arrived = "\n".join(message.body for message in twilio.messages)
            for request in simulation.requests():
                if f"May I {request.action}?\n  try: {(request.args or {})['try']}\n" in arrived:
                    simulation.approve(request)
        simulation._loop.run_until_complete(sms.close())  # the only one that it may be closed in
        return _judge(simulation, twilio, crashes)


def _judge(simulation: Simulation, twilio: AwayTwilio, crashes: int) -> Hour:
    runs = simulation.runs(persistent)
    wrong = [f"run {run.id} is {run.status}: {run.error}" for run in runs if run.status != "completed"]
    twice = [
        text for text, times in Counter(message.body for message in twilio.messages).items() if times > 1
    ]
    wrong += [f"sent more than once: {text!r}" for text in twice]
    told = sum(int(run.result) - 1 for run in runs if run.status == "completed")
    ended = Counter(request.status for request in simulation.requests(status=None))
    if ended["approved"] != len(runs) or sum(ended.values()) != len(runs) + told:
        wrong.append(
            f"{len(runs)} runs, {told} of their questions reached nobody; the requests ended as {dict(ended)}"
        )
    return Hour(
        runs=len(runs),
        crashes=crashes,
        faults=twilio.faults,
        sent=len(twilio.messages),
        told=told,
        wrong=tuple(wrong),
    )
