"""The faults of a campaign: what each does to the world, how often it comes, and how many of each there were."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping

import redis as redis_client
from tests.chaos import poison
from tests.chaos.works import Works
from tests.servers import Redis

LONGEST_OUTAGE_SECONDS = 3.0
CLOCK_SECONDS = 6.0
BURST = 3

WEIGHTS: Mapping[str, int] = {
    "kill a worker": 42,
    "kill the web service": 14,
    "kill the client": 14,
    "kill Redis": 5,
    "kill a process of PostgreSQL": 4,
    "kill PostgreSQL": 3,
    "restart PostgreSQL": 2,
    "cut PostgreSQL's connections": 6,
    "flush Redis": 5,
    "stop Redis": 3,
    "step the database's clock": 5,
    "poison on the queue": 12,
    "the provider refuses": 5,
    "the provider does not acknowledge": 8,
    "the provider is slow": 3,
}
"""How often each comes, relative to the others."""


class Faults:
    """Does one fault after another, drawn by the seed, and counts them."""

    def __init__(self, works: Works) -> None:
        self.counts: Counter[str] = Counter()
        self.server_kills: Counter[str] = Counter()
        self.poisons: Counter[str] = Counter()
        self.steps: list[tuple[float, float, float]] = []
        """When the clock was stepped, until when, and by how many seconds."""
        self._works = works
        self._chance = random.Random(f"{works.plan.options.seed} faults")
        self._deeds: dict[str, Callable[[], bool]] = {
            "kill a worker": self._kill_worker,
            "kill the web service": lambda: self._kill("web"),
            "kill the client": lambda: self._kill("client"),
            "kill Redis": self._kill_redis,
            "kill a process of PostgreSQL": self._kill_backend,
            "kill PostgreSQL": self._kill_postgres,
            "restart PostgreSQL": self._restart_postgres,
            "cut PostgreSQL's connections": self._cut,
            "flush Redis": self._flush,
            "stop Redis": self._stop_redis,
            "step the database's clock": self._step_clock,
            "poison on the queue": self._poison,
            "the provider refuses": lambda: self._trouble("refuses"),
            "the provider does not acknowledge": lambda: self._trouble("drops"),
            "the provider is slow": lambda: self._trouble("slow"),
        }
        self._due_back: Callable[[], None] | None = None
        self._back_at = 0.0

    @property
    def kills(self) -> Counter[str]:
        """Every process that was killed, by kind."""
        return self._works.kills + self.server_kills

    def one(self) -> str | None:
        """Do the next fault; its name, or None if it had nothing to do."""
        self.settle(only_due=True)
        name = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if not self._deeds[name]():
            return None
        self.counts[name] += 1
        return name

    def each(self) -> None:
        """Do every fault once, in an order of the seed's."""
        names = list(WEIGHTS)
        self._chance.shuffle(names)
        for name in names:
            self.settle(only_due=True)
            self.counts[name] += self._deeds[name]()

    def settle(self, *, only_due: bool = False) -> None:
        """Undo what is still under way: the clock's step."""
        if self._due_back is not None and not (only_due and time.monotonic() < self._back_at):
            back, self._due_back = self._due_back, None
            back()

    # ------------------------------------------------------------------ processes

    def _kill(self, kind: str) -> bool:
        victim = self._chance.choice(self._works.of_kind(kind))
        return victim.kill(down=self._chance.uniform(0.0, 1.5))

    def _kill_worker(self) -> bool:
        # Two stay alive: those that are not there cannot be killed, and work is to go on.
        alive = [process for process in self._works.of_kind("worker") if process.is_running]
        if len(alive) < 3 <= self._works.plan.options.workers:
            return False
        return self._kill("worker")

    # ------------------------------------------------------------------ Redis

    @property
    def _redis(self) -> Redis:
        return self._works.redis

    def _down(self) -> None:
        time.sleep(self._chance.uniform(0.0, LONGEST_OUTAGE_SECONDS))

    def _kill_redis(self) -> bool:
        self._redis.kill()
        self._down()
        self._redis.start()
        self.server_kills["Redis"] += 1
        return True

    def _stop_redis(self) -> bool:
        self._redis.stop()
        self._down()
        self._redis.start()
        return True

    def _flush(self) -> bool:
        self._redis.flushall()
        return True

    def _poison(self) -> bool:
        sessions = self._works.sql("SELECT coalesce(max(id), 0) FROM sessions")[0][0]
        kinds = poison.make(self._chance, sessions)
        for name in self._chance.sample(list(kinds), 3):
            with contextlib.suppress(redis_client.RedisError):
                poison.put(self._redis, kinds[name](), self._chance)
                self.poisons[name] += 1
        return True

    # ------------------------------------------------------------------ PostgreSQL

    def _kill_postgres(self) -> bool:
        """An immediate shutdown: as after a crash, it recovers from its log."""
        self._works.postgres.kill()
        self._down()
        self._works.postgres.start()
        self.server_kills["PostgreSQL (immediate)"] += 1
        return True

    def _restart_postgres(self) -> bool:
        self._works.postgres.restart()
        return True

    def _kill_backend(self) -> bool:
        """SIGKILL to one of its processes: PostgreSQL ends all others and recovers."""
        backends = self._works.sql(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'wakeloop' AND pid <> pg_backend_pid()"
        )
        if not backends:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._chance.choice(backends)[0], signal.SIGKILL)
            self.server_kills["PostgreSQL, one of its processes"] += 1
        return True

    def _cut(self) -> bool:
        self._works.sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'wakeloop' AND pid <> pg_backend_pid()"
        )
        return True

    def _step_clock(self) -> bool:
        """Forwards, and back again after some seconds; or backwards, and then forwards."""
        if self._due_back is not None:
            return False
        most = self._works.plan.options.clock
        step = round(self._chance.uniform(1.0, most) * self._chance.choice([1, -1]), 1)
        began = time.monotonic()
        self._set_clock(step)

        def back() -> None:
            self._set_clock(0.0)
            self.steps.append((began, time.monotonic(), step))

        self._due_back, self._back_at = back, began + CLOCK_SECONDS
        return True

    def _set_clock(self, step: float) -> None:
        self._works.sql("UPDATE public.chaos_clock SET step = %s", step)

    # ------------------------------------------------------------------ the provider

    def _trouble(self, how: str) -> bool:
        for _ in range(self._chance.randint(1, BURST)):
            if how == "refuses":
                self._works.twilio.fail_next(*self._chance.choice([(503, None), (503, 20503), (429, 20429), (500, None)]))
            elif how == "drops":
                self._chance.choice([self._works.twilio, self._works.telegram]).drop_next_after_taking()
            else:
                self._works.twilio.slow_next(self._chance.uniform(0.5, 6.0))
        return True
