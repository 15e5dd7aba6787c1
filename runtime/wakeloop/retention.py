"""Deletes by age, and erases what is left of those to be forgotten: batch by batch, by one worker for all, when nothing
else is due."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy.exc import SQLAlchemyError

from wakeloop.forgetting import Forgetting, Forgotten
from wakeloop.logs import get_logger
from wakeloop.settings import Settings
from wakeloop.store import chores, retention
from wakeloop.store.database import Database, is_outage
from wakeloop.store.retention import Kind

log = get_logger("wakeloop.retention")

CHORE = "retention"
REPEATS_DAYS = 30
"""For so long at least it is known what came in, so that a provider that sends it again is not taken at its word."""
BATCH = 100
PAUSE_SECONDS = 0.5
LEASE_SECONDS = 60.0
PASS_SECONDS = 3600.0
"""From the end of a walk over everything to the beginning of the next."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How long what is over is kept: runs with journals and requests; messages with deliveries and files, and what else was
    said in conversations; what providers sent, as they sent it. None: for ever."""

    runs: timedelta | None = None
    messages: timedelta | None = None
    raw: timedelta | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the settings say."""
        days = (settings.retention_days, settings.message_retention_days, settings.raw_retention_days)
        runs, messages, raw = (None if one is None else timedelta(days=one) for one in days)
        return cls(runs=runs, messages=messages, raw=raw)

    def horizons(self, now: datetime) -> dict[Kind, datetime]:
        """Of each kind that is deleted at all, before when something must be over to go."""
        repeats = timedelta(days=REPEATS_DAYS)
        ages = {
            Kind.RAW: self.raw,
            Kind.RUNS: self.runs,
            Kind.REQUESTS: self.runs,
            Kind.INBOX: None if self.runs is None else max(self.runs, repeats),
            Kind.ENTRIES: self.messages,
            Kind.MESSAGES: self.messages,
            Kind.RECEIVED: None if self.messages is None else max(self.messages, repeats),
        }
        return {kind: now - age for kind, age in ages.items() if age is not None}


@dataclass
class _Walk:
    """How far a walk over everything has come."""

    left: Iterator[tuple[Kind, datetime]]
    at: tuple[Kind, datetime] | None
    after: Any = None


class Retention:
    """Deletes what the policy lets go, and nothing that is open, or that something open refers to.

    Of all processes one at a time does it, and once it has walked over everything nobody does for an hour."""

    def __init__(self, *, database: Database, policy: Policy, batch: int = BATCH) -> None:
        self._database = database
        self._policy = policy
        self._batch_size = batch
        self._owner = f"{os.getpid()}:{random.SystemRandom().getrandbits(64):016x}"
        self._walk: _Walk | None = None
        self._removed: Counter[str] = Counter()
        self._rest_until = 0.0
        self._forgetting = Forgetting(database)
        self._erasing: Iterator[None] = iter(())

    def prune(self, *, dry_run: bool = False) -> Counter[str]:
        """Delete everything that may go now, a batch in each transaction; how many rows of each table. dry_run: only
        count them."""
        removed: Counter[str] = Counter()
        walk = self._begin()
        while walk.at is not None:
            removed += self._batch(walk, dry_run=dry_run)
            if not dry_run:
                time.sleep(PAUSE_SECONDS / 10)
        return removed

    def step(self) -> None:
        """Delete or erase at most one batch, if it is time to and no other process does it. Never raises: what went wrong is
        logged and tried again later."""
        if time.monotonic() < self._rest_until:
            return
        try:
            rest = self._step()
        except Exception as error:
            self._walk = None
            rest = LEASE_SECONDS
            if not (isinstance(error, SQLAlchemyError) and is_outage(error)):
                log.exception("what is old could not be deleted; trying again in a minute")
        self._rest_until = time.monotonic() + rest

    def _step(self) -> float:
        """A step; how many seconds to rest after it."""
        if self._walk is None:
            if not self._take():
                return LEASE_SECONDS
            self._walk, self._erasing = self._begin(), self._erase()
            self._removed.clear()
        elif not self._extend(LEASE_SECONDS):
            self._walk = None
            return LEASE_SECONDS
        for _ in self._erasing:
            return PAUSE_SECONDS
        if self._walk.at is not None:
            self._removed += self._batch(self._walk)
            return PAUSE_SECONDS
        self._walk = None
        self._extend(PASS_SECONDS)
        if self._removed:
            log.info(
                "deleted what was old", **{name.replace(" ", "_"): n for name, n in self._removed.items()}
            )
        return LEASE_SECONDS

    def _erase(self) -> Iterator[None]:
        """What is left of those who are to be forgotten, as far as it has ended."""
        for contact, asked_at in self._forgetting.unfinished():
            done = Forgotten()
            yield from self._forgetting.batches(contact, asked_at, done)
            if +done.erased:
                log.info("erased more of a contact", contact=contact, waiting=dict(+done.waiting))

    def _take(self) -> bool:
        now = self._database.now()
        with self._database.read() as connection:
            next_time = chores.next_time(connection, CHORE)
        if next_time is not None and next_time > now:
            return False
        until = now + timedelta(seconds=LEASE_SECONDS)
        with self._database.begin() as connection:
            return chores.take(connection, CHORE, owner=self._owner, now=now, until=until)

    def _begin(self) -> _Walk:
        left = iter(self._policy.horizons(self._database.now()).items())
        return _Walk(left=left, at=next(left, None))

    def _extend(self, seconds: float) -> bool:
        """Keep the chore, or put it off; False if another process has taken it on."""
        until = self._database.now() + timedelta(seconds=seconds)
        with self._database.begin() as connection:
            return chores.extend(connection, CHORE, owner=self._owner, until=until)

    def _batch(self, walk: _Walk, *, dry_run: bool = False) -> Counter[str]:
        """One batch, in a transaction of its own; the walk goes on."""
        assert walk.at is not None
        kind, before = walk.at
        repeats = self._database.now() - timedelta(days=REPEATS_DAYS)
        with self._database.read() if dry_run else self._database.begin() as connection:
            found = retention.find(connection, kind, before=before, after=walk.after, limit=self._batch_size)
            removed = retention.remove(connection, kind, found.ids, repeats=repeats, counting=dry_run)
        walk.after = found.after
        if found.after is None:
            walk.at = next(walk.left, None)
        return Counter({name: count for name, count in removed.items() if count})
