"""A Celery app whose host writes down what is asked of it: `celery -A tests.integration.recording_app worker`.

Configured by RECORD_* in the environment, because it runs in processes of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence

from wakeloop.celery_app import make_app
from wakeloop.dispatch import Dispatcher, RunsFailed, TurnMessage
from wakeloop.errors import ConfigurationError, SchemaMismatch

FAILS = 666
HANGS = 777
SLOW = 888
CLAIMED = 10_000  # the first session that the claiming thread dispatches
CLAIM_SECONDS = 0.2


class RecordingHost:
    """Appends a line per event to RECORD_FILE: `<event> <detail> pid=<pid>`."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._claimer: threading.Thread | None = None

    def agents(self) -> Mapping[str, str | None]:
        if os.environ.get("RECORD_BROKEN") == "agents":
            raise ConfigurationError("agents/standup.py cannot be loaded:\nno such trigger")
        return {"standup": None, "billing": None, "render": "gpu"}

    def run_turns(self, sessions: Sequence[int]) -> None:
        for session in sessions:
            _record("turn", session)
            if session == FAILS:
                raise RunsFailed("run 0199 of billing/default failed")
            if session == HANGS:
                self._stopping.wait(60)
            if session == SLOW:
                time.sleep(1)

    def run_deliveries(self, ids: Sequence[str]) -> None:
        for each in ids:
            _record("delivery", each)

    def start(self, dispatcher: Dispatcher) -> None:
        if os.environ.get("RECORD_BROKEN") == "schema":
            raise SchemaMismatch(
                "the database is at revision none, this version works with 0001; run `wakeloop db upgrade`"
            )
        _record("start", "host")
        if os.environ.get("RECORD_CLAIMS"):
            self._claimer = threading.Thread(target=self._claim, args=(dispatcher,), daemon=True)
            self._claimer.start()

    def stop(self, *, grace: float = 10.0) -> None:
        self._stopping.set()
        if self._claimer is not None:
            self._claimer.join()
        _record("stop", grace)

    def _claim(self, dispatcher: Dispatcher) -> None:
        session = CLAIMED
        while not self._stopping.wait(CLAIM_SECONDS):
            started = time.monotonic()
            message = TurnMessage(
                agent="standup", queue=None, sessions=(session,), names=("standup/claimed",)
            )
            try:
                dispatcher.turns([message])
            except Exception as error:
                _record("refused", f"{type(error).__name__}:{time.monotonic() - started:.1f}")
            else:
                _record("claimed", session)
                session += 1


def _record(event: str, detail: object) -> None:
    line = f"{event} {detail} pid={os.getpid()}\n"
    with open(os.environ["RECORD_FILE"], "a", buffering=1) as file:
        file.write(line)


app = make_app(
    os.environ.get("RECORD_BROKER", "redis://127.0.0.1:1/0"),
    queue="wakeloop",
    concurrency=int(os.environ.get("RECORD_CONCURRENCY", "4")),
    host=RecordingHost,
    pool=os.environ.get("RECORD_POOL", "threads"),
)
