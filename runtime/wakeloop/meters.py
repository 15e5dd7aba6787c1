"""What this process counts of its own work, for Prometheus, and the port on which a worker shows it.

What the store knows is not counted here: see `wakeloop.gauges`. Labels are names out of the code and the settings,
never a session, a run, a person or an address: each value of a label is a series that Prometheus keeps.
"""

from __future__ import annotations

import functools
import threading
from datetime import datetime
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from wakeloop.logs import get_logger

log = get_logger("wakeloop.meters")
M = TypeVar("M", Counter, Histogram)

WORK = CollectorRegistry()
"""Everything that this process counts."""

_TURN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_LATENESS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)

TURN_SECONDS = Histogram(
    "wakeloop_turn_seconds", "How long a worker held a session for a turn, steps included.", ["agent"],
    buckets=_TURN_BUCKETS, registry=WORK,
)  # fmt: skip
STEPS = Counter(
    "wakeloop_steps", "Attempts at steps that ended, by outcome: ok or error.", ["agent", "outcome"], registry=WORK
)  # fmt: skip
RUNS_ENDED = Counter(
    "wakeloop_runs_ended",
    "Runs that ended or were parked here, by status.",
    ["agent", "status"],
    registry=WORK,
)
SKIPS = Counter(
    "wakeloop_skips", "Occurrences of schedules that were not run, by reason.", ["agent", "reason"], registry=WORK
)  # fmt: skip
WAKE_LATENESS = Histogram(
    "wakeloop_wake_lateness_seconds",
    "How long after its due time something happened: a timer of a run, or an occurrence of a schedule.",
    ["kind"], buckets=_LATENESS_BUCKETS, registry=WORK,
)  # fmt: skip
DELIVERY_ATTEMPTS = Counter(
    "wakeloop_delivery_attempts", "Attempts to get a message through a channel, by the status they ended in.",
    ["channel", "status"], registry=WORK,
)  # fmt: skip
WEBHOOKS = Counter(
    "wakeloop_webhooks", "Requests of channels' providers, by channel and the status they were answered with.",
    ["channel", "status"], registry=WORK,
)  # fmt: skip


@functools.cache
def series(metric: M, *labels: str) -> M:
    """The series of a metric that has these labels. It is kept at hand: each run and each step looks for some."""
    return metric.labels(*labels)


def lateness(kind: str, due: datetime, now: datetime) -> None:
    """Note that something that was due then happened now. kind: `timer` or `schedule`."""
    series(WAKE_LATENESS, kind).observe(max(0.0, (now - due).total_seconds()))


class Exposition:
    """Shows what this process counts on a port of its own, from a thread, to whoever can connect."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def expose(host: str, port: int) -> Exposition | None:
    """Show what this process counts; None, with an error on the log, if the port is not to be had: work is worth more
    than its measurement, and Prometheus tells of a target that does not answer."""
    try:
        made: Any = start_http_server(port, host, WORK)
    except OSError as error:
        log.error(
            "metrics are not shown: the port cannot be used", host=host, port=port, error=error.strerror
        )
        return None
    server, thread = made
    log.info("metrics are shown", host=host, port=port)
    return Exposition(server, thread)
