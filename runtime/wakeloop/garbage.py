"""How often a process of wakeloop looks for cyclic garbage."""

from __future__ import annotations

import gc

THRESHOLD = 50_000
"""So many more objects than before make Python look for garbage among the young ones."""


def collect_seldom() -> None:
    """Let Python look for cyclic garbage less often than by default, and not among what is there already, unless the
    process has its own idea of that.

    A worker's start makes a hundred and fifty thousand objects, and every run that comes or goes is a few hundred; by
    default each few of them have all those looked through again that are only held. That took a seventh of the time of
    the start, and a quarter of a busy worker's."""
    often = gc.get_threshold()[0]
    if 0 < often <= THRESHOLD:
        gc.freeze()
        gc.set_threshold(THRESHOLD, 20, 50)
