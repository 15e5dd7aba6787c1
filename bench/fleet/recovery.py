"""Recovery: the only worker is killed with SIGKILL while many sleep and some are in the middle of a step."""

from __future__ import annotations

import time

from bench.fleet.dbos_side import Dbos
from bench.fleet.ours import Ours
from bench.lab import Lab

FAR_SECONDS = 86_400.0
SET_UP_SECONDS = 1800.0
ORDER_SECONDS = 300.0
LOOK_SECONDS = 0.02


def ours(lab: Lab, *, asleep: int, held: int) -> dict[str, float]:
    """One Celery worker, `asleep` runs in `ctx.sleep_until` until tomorrow, `held` runs in an async step that does not end.
    The worker is killed, a new one is started at once, and a new run is started through the runtime's intake. The step ends
    at once when it is run again.

    ready: seconds from starting the new worker until that new run is completed in the database; in_order: until all of the
    `held` are. The worker takes as many turns at once as are held, which is more than its default."""
    environment = {"WAKELOOP_WORKER_CONCURRENCY": str(max(32, held + 8))}
    with (
        lab.database(sqlite=False) as url,
        Ours(lab.folder(), url, lab.redis, environment=environment) as side,
        side.workers(1) as (worker,),
    ):
        instant = time.time() + FAR_SECONDS
        side.start("sleeper", ((str(number), [number, instant]) for number in range(asleep)))
        side.wait(lambda: side.with_status("sleeper", "waiting") == asleep, SET_UP_SECONDS, every=0.5)
        side.start("stepper", ((str(number), number) for number in range(held)))
        side.wait(lambda: side.marks.count("held") == held, SET_UP_SECONDS)
        time.sleep(1.0)
        worker.kill()
        side.released.touch()
        begun = time.time()
        worker.start()
        side.start("plain", [("new", 0)])
        ready = side.wait(
            lambda: side.with_status("plain", "completed") == 1, ORDER_SECONDS, every=LOOK_SECONDS
        )
        order = side.wait(
            lambda: side.with_status("stepper", "completed") == held, ORDER_SECONDS, every=LOOK_SECONDS
        )
        return {"ready": ready - begun, "in_order": order - begun}


def dbos(lab: Lab, *, asleep: int, held: int) -> dict[str, float]:
    """One process of DBOS with the same: async workflows in `DBOS.sleep_async` and in an async step. The new process has the
    executor id and application version of the one that was killed, so that it recovers its workflows as it starts; a new
    workflow is started in it as soon as it serves.

    ready and in_order: as on the other side. all_begun: until every sleeper has been started again, too, and so will wake."""
    with lab.database(sqlite=False) as url, Dbos(lab.folder(), url) as side, side.apps(1) as (app,):
        instant = time.time() + FAR_SECONDS
        side.start_on([app], "sleeper", [(f"s{number}", [number, instant]) for number in range(asleep)])
        side.wait(lambda: side.asleep() >= asleep, SET_UP_SECONDS, every=0.5)
        side.start_on([app], "stepper", [(f"h{number}", [number]) for number in range(held)])
        side.wait(lambda: side.marks.count("held") == held, SET_UP_SECONDS)
        time.sleep(1.0)
        app.program.kill()
        side.released.touch()
        noted = side.marks.count("begun")
        app.begin()
        app.start("plain", [("new", [0])])
        ready = side.wait(
            lambda: side.with_status("plain", "SUCCESS") == 1, ORDER_SECONDS, every=LOOK_SECONDS
        )
        order = side.wait(
            lambda: side.with_status("stepper", "SUCCESS") == held, ORDER_SECONDS, every=LOOK_SECONDS
        )
        begun = side.wait(lambda: side.marks.count("begun") - noted >= asleep, ORDER_SECONDS)
        return {
            "ready": ready - app.started_at,
            "in_order": order - app.started_at,
            "all_begun": begun - app.started_at,
        }
