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
from tests.chaos.works import Fleet, Works
from tests.servers import Redis

LONGEST_OUTAGE_SECONDS = 3.0
CLOCK_SECONDS = 6.0
BURST = 3
REFUSALS: tuple[tuple[int, int | None], ...] = ((503, None), (503, 20503), (429, 20429), (500, None))

Deed = Callable[[], bool]
"""Does a fault, and says whether there was something to do."""


class Faults:
    """Does one fault after another, drawn by the seed, and counts them."""

    weights: Mapping[str, int]
    """How often each comes, relative to the others."""

    def __init__(self, works: Works) -> None:
        self.counts: Counter[str] = Counter()
        self.server_kills: Counter[str] = Counter()
        self.poisons: Counter[str] = Counter()
        self.steps: list[tuple[float, float, float]] = []
        """When the clock of the store was stepped, until when, and by how many seconds."""
        self.chance = random.Random(f"{works.plan.options.seed} faults")
        self._works = works
        self._back: Callable[[], None] | None = None
        self._back_at = 0.0

    def deeds(self) -> Mapping[str, Deed]:
        """What can be done, by the names of the weights."""
        return {
            "kill the client": lambda: self.kill("client"),
            "the provider refuses": self._refuse,
            "the provider does not acknowledge": self._drop,
            "the provider is slow": self._slow,
        }

    @property
    def kills(self) -> Counter[str]:
        """Every process that was killed, by kind."""
        return self._works.kills + self.server_kills

    def one(self, *, kills: bool = True) -> str | None:
        """Do the next fault; its name, or None if it had nothing to do, or would have killed and must not."""
        self.settle(only_due=True)
        name = self.chance.choices(list(self.weights), list(self.weights.values()))[0]
        if (name.startswith("kill ") and not kills) or not self.deeds()[name]():
            return None
        self.counts[name] += 1
        return name

    def settle(self, *, only_due: bool = False) -> None:
        """Undo what is still under way."""
        if self._back is not None and not (only_due and time.monotonic() < self._back_at):
            back, self._back = self._back, None
            back()

    def kill(self, kind: str) -> bool:
        """Kill a process of a kind."""
        victim = self.chance.choice(self._works.of_kind(kind))
        return victim.kill(down=self.chance.uniform(0.0, 1.5))

    def step_clock(self, move: Callable[[float], None]) -> bool:
        """Step the clock that timers go by, forwards or backwards, and back again after some seconds."""
        if self._back is not None:
            return False
        most = self._works.plan.options.clock
        step = round(self.chance.uniform(1.0, most) * self.chance.choice([1, -1]), 1)
        began = time.monotonic()
        move(step)

        def back() -> None:
            move(0.0)
            self.steps.append((began, time.monotonic(), step))

        self._back, self._back_at = back, began + CLOCK_SECONDS
        return True

    # ------------------------------------------------------------------ the providers

    def _refuse(self) -> bool:
        for _ in range(self.chance.randint(1, BURST)):
            self._works.twilio.fail_next(*self.chance.choice(REFUSALS))
        return True

    def _drop(self) -> bool:
        for _ in range(self.chance.randint(1, BURST)):
            self.chance.choice([self._works.twilio, self._works.telegram]).drop_next_after_taking()
        return True

    def _slow(self) -> bool:
        self._works.twilio.slow_next(self.chance.uniform(0.5, 6.0))
        return True


class FleetFaults(Faults):
    """The faults of a fleet."""

    weights: Mapping[str, int] = {
        "kill a worker": 32,
        "kill the web service": 9,
        "kill the client": 16,
        "kill Redis": 8,
        "kill a process of PostgreSQL": 8,
        "kill PostgreSQL": 5,
        "restart PostgreSQL": 2,
        "cut PostgreSQL's connections": 6,
        "flush Redis": 5,
        "stop Redis": 3,
        "step the database's clock": 5,
        "poison on the queue": 10,
        "the provider refuses": 5,
        "the provider does not acknowledge": 8,
        "the provider is slow": 3,
    }

    def __init__(self, works: Fleet) -> None:
        super().__init__(works)
        self._fleet = works

    def deeds(self) -> Mapping[str, Deed]:
        return {
            **super().deeds(),
            "kill a worker": self._kill_worker,
            "kill the web service": self._kill_web,
            "kill Redis": self._kill_redis,
            "kill a process of PostgreSQL": self._kill_backend,
            "kill PostgreSQL": self._kill_postgres,
            "restart PostgreSQL": self._restart_postgres,
            "cut PostgreSQL's connections": self._cut,
            "flush Redis": self._flush,
            "stop Redis": self._stop_redis,
            "step the database's clock": self._step_database,
            "poison on the queue": self._poison,
        }

    def _kill_worker(self) -> bool:
        # Two stay alive, as far as nobody else ends them.
        alive = [process for process in self._works.of_kind("worker") if process.is_running]
        if len(alive) < 3 <= self._works.plan.options.workers:
            return False
        return self.kill("worker")

    def _kill_web(self) -> bool:
        # It takes some seconds to come up, and one that is never there is killed in no interesting moment.
        return self._works.is_serving and self.kill("web")

    # ------------------------------------------------------------------ Redis

    @property
    def _redis(self) -> Redis:
        return self._fleet.redis

    def _down(self) -> None:
        time.sleep(self.chance.uniform(0.0, LONGEST_OUTAGE_SECONDS))

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
        sessions = self._fleet.sql("SELECT coalesce(max(id), 0) FROM sessions")[0][0]
        kinds = poison.make(self.chance, sessions)
        for name in self.chance.sample(list(kinds), 3):
            with contextlib.suppress(redis_client.RedisError):
                poison.put(self._redis, kinds[name](), self.chance)
                self.poisons[name] += 1
        return True

    # ------------------------------------------------------------------ PostgreSQL

    def _kill_postgres(self) -> bool:
        """An immediate shutdown: as after a crash, it recovers from its log."""
        self._fleet.postgres.kill()
        self._down()
        self._fleet.postgres.start()
        self.server_kills["PostgreSQL (immediate)"] += 1
        return True

    def _restart_postgres(self) -> bool:
        self._fleet.postgres.restart()
        return True

    def _kill_backend(self) -> bool:
        """SIGKILL to one of its processes: PostgreSQL ends all others and recovers."""
        backends = self._fleet.sql(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'wakeloop' AND pid <> pg_backend_pid()"
        )
        if not backends:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(backends)[0], signal.SIGKILL)
            self.server_kills["PostgreSQL, one of its processes"] += 1
        return True

    def _cut(self) -> bool:
        self._fleet.sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'wakeloop' AND pid <> pg_backend_pid()"
        )
        return True

    def _step_database(self) -> bool:
        def move(step: float) -> None:
            self._fleet.sql("UPDATE public.chaos_clock SET step = %s", step)

        return self.step_clock(move)
