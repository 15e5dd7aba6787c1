"""When an attempt at a provider is made again, and in which words its failure is kept. Pure."""

from __future__ import annotations

from wakeloop.channel import Capabilities
from wakeloop.errors import ChannelError

TRIES = 8
COPIES = 3
"""So many attempts whose outcome is unknown are made where each may have got through."""
LONGEST_WAIT_SECONDS = 900.0


def failure_words(error: ChannelError) -> str:
    """A provider's refusal, with its code."""
    return f"{error.code}: {error}" if error.code else str(error)


def may_double(capabilities: Capabilities) -> bool:
    """Whether an attempt after one whose outcome is unknown may be a second copy: nobody can tell, and nothing prevents
    it."""
    return not (capabilities.idempotent or capabilities.reconcile)


def most_tries(capabilities: Capabilities, *, may_double: bool = False) -> int:
    """How many attempts are made before one is given up. may_double: each may have got through."""
    tries = TRIES if capabilities.retry_seconds is None else len(capabilities.retry_seconds) + 1
    return min(tries, COPIES) if may_double else tries


def wait_seconds(capabilities: Capabilities, tries: int, retry_after: float | None) -> float:
    """How long to wait after so many attempts: as the provider says, but for a timetable of its own not shorter."""
    if capabilities.retry_seconds is not None:
        return max(capabilities.retry_seconds[tries - 1], retry_after or 0.0)
    return retry_after if retry_after is not None else _backoff(tries)


def _backoff(tries: int) -> float:
    return float(min(LONGEST_WAIT_SECONDS, 5.0 * 2 ** (tries - 1)))
