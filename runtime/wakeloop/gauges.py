"""How the store stands, as Prometheus reads it: asked of the database when somebody asks, at most every few seconds."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from sqlalchemy.engine import Connection

from wakeloop.logs import get_logger
from wakeloop.meters import WORK
from wakeloop.status import PARKED_RUN
from wakeloop.store import measures
from wakeloop.store.database import Database

log = get_logger("wakeloop.gauges")

CACHE_SECONDS = 5.0
RECENT = timedelta(hours=1)
_KINDS = ("question", "approval")
_AGES = ("hour", "day", "week", "older")

Family = GaugeMetricFamily


class Gauges(Collector):
    """Collects what the store knows. What was measured is given again for CACHE_SECONDS, however many ask.

    While the database is away there is `wakeloop_store_up 0` and nothing else: an old number would pass for a new one."""

    def __init__(
        self, database: Database, *, lease_seconds: float, cache_seconds: float = CACHE_SECONDS
    ) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_seconds)
        self._cache_seconds = cache_seconds
        self._lock = threading.Lock()
        self._measured: tuple[float, list[Family]] | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """What the store knows, and what this process counts, in the text format of Prometheus."""
        return generate_latest(self._registry) + generate_latest(WORK)

    def collect(self) -> Iterable[Family]:
        """See prometheus_client.registry.Collector."""
        with self._lock:
            now = time.monotonic()
            if self._measured is None or now - self._measured[0] > self._cache_seconds:
                self._measured = (now, self._measure())
            return self._measured[1]

    def describe(self) -> Iterable[Family]:
        """Nothing before it is asked: to be registered must not need the database."""
        return ()

    def _measure(self) -> list[Family]:
        began = time.perf_counter()
        try:
            with self._database.read() as connection:
                families = list(self._families(connection, self._database.now()))
        except Exception as error:  # told as a number: a scrape that fails says nothing about why
            log.warning("the store could not be measured", error=type(error).__name__)
            return [_one("wakeloop_store_up", "Whether the store could be asked.", 0)]
        took = time.perf_counter() - began
        return [
            _one("wakeloop_store_up", "Whether the store could be asked.", 1),
            _one("wakeloop_measure_seconds", "How long it took to ask the store for these numbers.", took),
            *families,
        ]

    def _families(self, connection: Connection, now: datetime) -> Iterator[Family]:
        yield from self._sessions(connection, now)
        yield from _parked(connection)
        yield from _requests(connection, now)
        yield from _deliveries(connection, now)
        skips = Family(
            "wakeloop_recent_skips", "Occurrences of schedules skipped in the last hour.", labels=["reason"]
        )
        for row in measures.recent_skips(connection, since=now - RECENT):
            skips.add_metric([row.skipped], row.number or 0)
        yield skips
        listeners = Family(
            "wakeloop_listener_held", "Whether a process fetches this channel's messages.", labels=["channel"]
        )
        for row in measures.held_listeners(connection, now=now):
            listeners.add_metric([row.channel], float(bool(row.held)))
        yield listeners

    def _sessions(self, connection: Connection, now: datetime) -> Iterator[Family]:
        due = measures.due_sessions(connection, now=now)
        coming = measures.coming_sessions(connection, now=now, lease=self._lease)
        waiting = [*due, *(row for row in coming if row.dispatches and not row.held)]
        since = min((measures.first_dispatch(row.at, row.dispatches) for row in waiting), default=now)
        yield _one(
            "wakeloop_due_sessions", "Sessions that need a turn and that no worker has.",
            sum(row.number for row in waiting),
        )  # fmt: skip
        yield _one(
            "wakeloop_due_lag_seconds", "How long the longest due session has waited for a worker.",
            max(0.0, (now - since).total_seconds()),
        )  # fmt: skip
        yield _one(
            "wakeloop_held_leases", "Sessions that a worker has now.",
            sum(row.number for row in coming if row.held),
        )  # fmt: skip


def _parked(connection: Connection) -> Iterator[Family]:
    parked = Family(
        "wakeloop_parked_runs", "Runs that wait for a human to retry or end them.", labels=["agent", "status"]
    )
    rows = measures.parked_runs(connection)
    for row in rows:
        parked.add_metric([row.agent, row.status], row.number)
    if not rows:
        for status in PARKED_RUN:
            parked.add_metric(["", str(status)], 0)
    yield parked


def _requests(connection: Connection, now: datetime) -> Iterator[Family]:
    numbers: dict[tuple[str, str], int] = {(kind, age): 0 for kind in _KINDS for age in _AGES}
    oldest: dict[str, datetime] = dict.fromkeys(_KINDS, now)
    for row in measures.open_requests(connection, now=now):
        numbers[row.kind, row.age] = row.number
        oldest[row.kind] = min(oldest.get(row.kind, now), row.at)
    open_ones = Family(
        "wakeloop_open_requests", "Questions and approvals that wait for a person; by age: under an hour, a day, a week, or older.",
        labels=["kind", "age"],
    )  # fmt: skip
    for (kind, age), number in numbers.items():
        open_ones.add_metric([kind, age], number)
    yield open_ones
    ages = Family(
        "wakeloop_oldest_request_seconds", "How long the oldest open request is open.", labels=["kind"]
    )
    for kind, at in oldest.items():
        ages.add_metric([kind], max(0.0, (now - at).total_seconds()))
    yield ages


def _deliveries(connection: Connection, now: datetime) -> Iterator[Family]:
    numbers: dict[str, int] = defaultdict(int)
    first = now
    for row in measures.waiting_deliveries(connection, now=now):
        numbers[row.channel] += row.number
        first = min(first, row.at)
    due = Family("wakeloop_due_deliveries", "Deliveries that are due and not made.", labels=["channel"])
    for channel, number in numbers.items():
        due.add_metric([channel], number)
    yield due
    yield _one(
        "wakeloop_delivery_lag_seconds", "How long the longest due delivery has waited.",
        max(0.0, (now - first).total_seconds()),
    )  # fmt: skip
    recent = Family(
        "wakeloop_recent_deliveries", "Deliveries made out in the last hour, by how they stand.",
        labels=["channel", "status"],
    )  # fmt: skip
    for row in measures.recent_deliveries(connection, since=now - RECENT):
        recent.add_metric([row.channel, row.status], row.number)
    yield recent


def _one(name: str, help: str, value: float) -> Family:
    return Family(name, help, value=value)
