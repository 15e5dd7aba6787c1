"""What an operator does to a run: retry, restart, cancel."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from wakeloop.engine.failures import describe
from wakeloop.engine.journal import Kind, Record
from wakeloop.engine.rewinding import applied_before, taken_back
from wakeloop.engine.values import JSON_CODEC
from wakeloop.errors import NotFound, NotPossible, WakeloopError
from wakeloop.intake import Intake
from wakeloop.open_run import RunError
from wakeloop.status import OPEN_RUN, PARKED_RUN, RunStatus
from wakeloop.store import inbox, queries, repair, turns
from wakeloop.store.database import Database
from wakeloop.store.records import NewRun
from wakeloop.world import World


class Operations:
    """Changes to runs from outside. A run of this id that is not there raises NotFound, one in a state that does not
    allow it NotPossible."""

    def __init__(self, *, database: Database, world: World, intake: Intake) -> None:
        self._database = database
        self._world = world
        self._intake = intake

    def find(self, fragment: str) -> UUID:
        """The run whose id is, begins with or ends with this: see find_run."""
        return find_run(self._database, fragment)

    def cancel(self, id: UUID) -> None:
        """End a run: an open one gets CancelledError where it waits and may clean up; cancelled again, it is ended
        where it is. A parked one is closed."""
        row = self._row(id)
        if row.status in OPEN_RUN:
            self._intake.cancel(row.agent, row.key, id)
            return
        if row.status not in PARKED_RUN:
            raise NotPossible(f"run {id} is {row.status}: there is nothing left to cancel")
        with self._database.begin() as connection:
            now = self._database.now()
            self._lock(connection, row)
            repair.close(connection, id, now=now)
            inbox.touch(connection, [row.session_id], now=now)

    def restart(self, id: UUID) -> UUID:
        """Queue a new run of the same event in the same session; its id. A run that is not over is cancelled."""
        row = self._row(id)
        if row.status in (*OPEN_RUN, *PARKED_RUN):
            self.cancel(id)
        run = NewRun(
            id=self._world.ids.new_id(),
            agent=row.agent,
            key=row.key,
            event=row.event,
            parent_id=row.parent_id,
            parent_session_id=row.parent_session_id,
        )
        with self._database.begin() as connection:
            now = self._database.now()
            known = {(row.agent, row.key): row.session_id}
            inbox.touch(connection, inbox.queue_runs(connection, [run], known, now=now), now=now)
        self._intake.nudge()
        return run.id

    def retry(self, id: UUID, *, repeat: bool = False, result: Any = None, fail: str | None = None) -> None:
        """Let a failed or stuck run go on from its last recorded step.

        Results of steps, and what was received, stay. A recorded failure of a step that ended the run is taken back, and
        the step is tried again; any other failure means that what the handler did since it last received something is
        done again, including what it sent. What it did to the session's state there is taken back first, unless
        another run has changed it since.
        For a step whose outcome is unknown one must be told: `repeat` it, or its `result` (a JSON value; pass
        `{"value": …}`), or that it `fail`ed, with the reason.
        """
        row = self._row(id)
        if row.status not in PARKED_RUN:
            raise NotPossible(
                f"run {id} is {row.status}: only failed and stuck runs can be retried; try restart"
            )
        with self._database.begin() as connection:
            now = self._database.now()
            session, row = self._lock(connection, row)
            journal = turns.load_journals(connection, [id])[id]
            error = RunError.model_validate_json(row.failure) if row.failure else None
            if row.status == RunStatus.STUCK:
                waits, applied = row.waits, row.applied
                self._decide(connection, id, journal, now, repeat=repeat, result=result, fail=fail)
            else:
                rewind = error.rewind if error is not None else None
                if error is None or rewind is None:
                    raise NotPossible(f"run {id} does not say where it failed: it can only be restarted")
                repair.take_back(connection, id, taken_back(journal, rewind))
                waits, applied = None, applied_before(journal, rewind.begin)
                if rewind.state is not None and session.state == error.state:
                    if session.owner is not None:
                        raise NotPossible(
                            f"session {row.agent}/{row.key} is being worked on, and its state is to be taken back: "
                            "retry when its other runs are at rest"
                        )
                    repair.set_state(connection, row.session_id, rewind.state)
            repair.reopen(connection, id, waits=waits, applied=applied)
            inbox.touch(connection, [row.session_id], now=now)
        self._intake.nudge()

    def _decide(
        self,
        connection: Any,
        id: UUID,
        journal: list[Record],
        now: Any,
        *,
        repeat: bool,
        result: Any,
        fail: str | None,
    ) -> None:
        unknown = _unknown_step(journal)
        told = repeat + (result is not None) + (fail is not None)
        if unknown is None:
            if told:
                raise NotPossible(
                    f"run {id} has no step whose outcome is unknown: retry it without a decision"
                )
            return
        if told != 1:
            raise NotPossible(
                f"step {unknown.name} of run {id} was under way when its worker died, and must not be repeated by "
                "itself: find out whether it took effect, then retry with --repeat, --result JSON or --fail REASON"
            )
        facts: dict[str, Any] = {
            "op": unknown.op,
            "name": unknown.name,
            "seq": journal[-1].seq + 1,
            "at": now,
        }
        if repeat:
            value = JSON_CODEC.dump(
                {"error": "outcome unknown; repeated by decision", "again": now.isoformat()}, ""
            )
            record = Record(kind=Kind.ATTEMPT, ok=False, value=value, **facts)
        elif fail is not None:
            failure = describe(WakeloopError(fail)).model_dump_json()
            record = Record(kind=Kind.STEP, ok=False, value=failure, **facts)
        else:
            record = Record(
                kind=Kind.STEP, value=JSON_CODEC.dump(result["value"], "the step's result"), **facts
            )
        repair.append(connection, id, record)

    def _lock(self, connection: Connection, row: Any) -> tuple[Any, Any]:
        """Lock the session of a parked run; the session, and the run as it is then. Raises NotPossible if somebody else has
        set it right in between."""
        session = repair.lock(connection, row.session_id)
        present = queries.find_run(connection, row.id)
        if present is None or present.status not in PARKED_RUN:
            raise NotPossible(
                f"somebody else has retried or cancelled run {row.id} just now: look at it again with `wakeloop runs show`"
            )
        return session, present

    def _row(self, id: UUID) -> Any:
        with self._database.read() as connection:
            row = queries.find_run(connection, id)
        if row is None:
            raise NotFound(f"there is no run {id}; `wakeloop runs` lists them")
        return row


def find_run(database: Database, fragment: str) -> UUID:
    """The run whose id is, begins with or ends with this. Raises NotFound, or NotPossible if there are several."""
    if not fragment.replace("-", "").isalnum():
        raise NotFound(f"{fragment!r} is no id of a run; `wakeloop runs` lists them")
    with database.read() as connection:
        found = queries.find_runs(connection, fragment)
    if not found:
        raise NotFound(f"there is no run {fragment}; `wakeloop runs` lists them")
    if len(found) > 1:
        raise NotPossible(f"several runs have an id like {fragment}; write more of it")
    return found[0]


def _unknown_step(journal: list[Record]) -> Record | None:
    """The latest begun step of which nothing more is recorded."""
    open_steps: dict[int, Record] = {}
    for record in journal:
        if record.kind is Kind.STARTED:
            open_steps[record.op] = record
        elif record.kind in (Kind.ATTEMPT, Kind.STEP):
            open_steps.pop(record.op, None)
    return next(reversed(open_steps.values()), None)
