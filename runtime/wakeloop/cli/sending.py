"""Waits for what a command has written to somebody, and tells what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from wakeloop.channel import DeliveryStatus
from wakeloop.cli.base import fail, say
from wakeloop.contacting import Written
from wakeloop.store import queries
from wakeloop.terminal import error_console, moment
from wakeloop.wiring import Runtime

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 5.0
"""After so long unsent, people are told that perhaps nobody sends it."""

REACHED = frozenset({DeliveryStatus.SENT, DeliveryStatus.DELIVERED})
_HELD = {"cap": "the person has had their messages of this hour", "quiet": "the person's quiet hours"}

Found = TypeVar("Found")


def latest(runtime: Runtime, written: Written) -> Any:
    """How the delivery stands."""
    with runtime.database.read() as connection:
        return queries.deliveries_of(connection, written.message)[-1]


def final_statuses(runtime: Runtime, written: Written) -> set[str]:
    """After which of them there is no more to wait for: `sent` is one where the provider reports no delivery."""
    reports = runtime.channels[written.channel].capabilities.receipts
    return {DeliveryStatus.DELIVERED, DeliveryStatus.FAILED, *([] if reports else [DeliveryStatus.SENT])}


def wait(
    runtime: Runtime, written: Written, timeout: float, look: Callable[[Any], Found | None]
) -> Found | None:
    """What `look` finds, once it finds something; None after `timeout` seconds. Tells once if it is not being sent."""
    since = time.monotonic()
    told = False
    while True:
        delivery = latest(runtime, written)
        found = look(delivery)
        waited = time.monotonic() - since
        if found is not None or waited > timeout:
            return found
        if not told and delivery.status == DeliveryStatus.PENDING:
            if delivery.held is not None:
                told = True
                until = moment(delivery.due_at) if delivery.due_at else "later"
                error_console().print(
                    f"it is put off until {until}: {_HELD.get(delivery.held, delivery.held)}"
                )
            elif waited > PATIENCE_SECONDS:
                told = True
                why = delivery.error or "is `wakeloop dev` or a worker running?"
                error_console().print(f"nobody has sent it yet: {why}")
        time.sleep(POLL_SECONDS)


def tell_outcome(written: Written, delivery: Any, is_sent_final: bool, timeout: float) -> None:
    """Tell what became of a message; end the command with exit code 1 if it did not go out.

    `is_sent_final`: the channel reports nothing after that."""
    contact, channel = written.contact, written.channel
    if delivery.status == DeliveryStatus.DELIVERED:
        say(("✓ delivered", "green"), f": it reached {contact} by {channel}")
    elif delivery.status == DeliveryStatus.SENT and is_sent_final:
        say(("✓ sent", "green"), f": {channel} took it, and reports no more than that")
    elif delivery.status == DeliveryStatus.SENT:
        say(("✓ sent", "green"), f": {channel} took it; no report of delivery came within {timeout:g} s")
    elif delivery.status == DeliveryStatus.FAILED:
        fail(f"it did not reach {contact} by {channel}: {delivery.error}")
    else:
        fail(
            f"it was not sent within {timeout:g} s: it is {delivery.status}; {delivery.error or 'nobody has sent it'}"
        )
