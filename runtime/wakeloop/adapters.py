"""Which channels have an adapter installed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

GROUP = "wakeloop.channels"


def adapters() -> Mapping[str, EntryPoint]:
    """The entry points of the channels' adapters, by the channel's name."""
    return _adapters(tuple(sys.path))


@functools.lru_cache(maxsize=1)
def _adapters(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    # Each look goes through everything that is installed, and a start would do it once for each channel and twice more.
    return {point.name: point for point in entry_points(group=GROUP)}
