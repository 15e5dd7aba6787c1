"""Named places where a test may end the process: the worst moments to die."""

from __future__ import annotations

from collections.abc import Callable

CRASH_POINTS = {
    "engine.step_done": "a step took effect, and its result is not committed",
    "engine.step_committed": "a step's result is committed, and the handler has not seen it",
    "engine.committing": "a turn's changes are written, and their transaction is not committed",
    "engine.committed": "a turn's changes are committed, and nothing after that has happened",
    "timers.claimed": "something due is marked as dispatched, and nothing has been handed to the broker",
    "handing.taken": "a web process has committed what makes sessions due, marked as dispatched, and has not handed them over",
    "outbox.claimed": "a delivery is claimed, and nothing has been sent",
    "outbox.sent": "the provider took a message, and that is not recorded",
    "outbox.amended": "the provider changed a message, and that is not recorded",
    "intake.recorded": "an inbound message is committed, and the provider has not been answered",
    "listeners.recorded": "messages that were fetched are committed, and how far that goes is not",
}

_armed: Callable[[str], None] | None = None


def arm(callback: Callable[[str], None] | None) -> None:
    """Call `callback` with its name at every crash point from now on; None disarms. For tests."""
    global _armed
    _armed = callback


def reach(point: str) -> None:
    """Pass a crash point. Costs nothing unless armed."""
    if _armed is not None:
        _armed(point)
