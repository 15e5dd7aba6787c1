"""What an operator does to a run: retry, restart, cancel."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from wakeloop.engine.failures import describe
from wakeloop.engine.journal import DELIVERED, Kind, Record
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
        """The run whose id is, begins with or ends with this. Raises NotFound, or NotPossible if there are several."""
        with self._database.read() as connection:
            found = queries.find_runs(connection, fragment)
        if not found:
            raise NotFound(f"there is no run {fragment}; `wakeloop runs` lists them")
        if len(found) > 1:
            raise NotPossible(f"several runs have an id like {fragment}; write more of it")
        return found[0]

    def cancel(self, id: UUID) -> None:
        """End a run: an open one gets CancelledError where it waits and may clean up; a parked one is closed."""
        row = self._row(id)
        if row.status in OPEN_RUN:
            self._intake.cancel(row.agent, row.key, id)
            return
        if row.status not in PARKED_RUN:
            raise NotPossible(f"run {id} is {row.status}: there is nothing left to cancel")
        with self._database.begin() as connection:
            now = self._database.now()
            repair.lock(connection, row.session_id)
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
            inbox.touch(
                connection, inbox.queue_runs(self._database, connection, [run], known, now=now), now=now
            )
        self._intake.nudge()
        return run.id

    def retry(self, id: UUID, *, repeat: bool = False, result: Any = None, fail: str | None = None) -> None:
        """Let a failed or stuck run go on from its last recorded step.

        What is recorded up to the failure stays; a recorded failure that ended it, and all after that, is done again.
        What the last stretch did to the session's state is taken back first, unless it has changed since.
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
            session = repair.lock(connection, row.session_id)
            journal = turns.load_journals(connection, [id])[id]
            error = RunError.model_validate_json(row.failure) if row.failure else None
            if row.status == RunStatus.STUCK:
                waits, applied = row.waits, row.applied
                self._decide(connection, id, journal, now, repeat=repeat, result=result, fail=fail)
            else:
                keep = _last_kept(journal, error.origin if error else None)
                repair.truncate(connection, id, keep)
                waits, applied = None, _before(journal, keep)
                if error is not None and error.state_after is not None and session.state == error.state_after:
                    repair.set_state(connection, row.session_id, error.state_before)
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

    def _row(self, id: UUID) -> Any:
        with self._database.read() as connection:
            row = queries.find_run(connection, id)
        if row is None:
            raise NotFound(f"there is no run {id}; `wakeloop runs` lists them")
        return row


def _unknown_step(journal: list[Record]) -> Record | None:
    """The latest begun step of which nothing more is recorded."""
    open_steps: dict[int, Record] = {}
    for record in journal:
        if record.kind is Kind.STARTED:
            open_steps[record.op] = record
        elif record.kind in (Kind.ATTEMPT, Kind.STEP):
            open_steps.pop(record.op, None)
    return next(reversed(open_steps.values()), None)


def _last_kept(journal: list[Record], origin: int | None) -> int:
    """The position up to which a failed run's journal stays: the last result recorded before the failure that ended it.

    No step's result is ever dropped: if some came after that failure, all of it stays, and only what followed the last
    of them is done again."""
    if origin is not None and any(one.seq > origin and one.kind is Kind.STEP and one.ok for one in journal):
        origin = None
    delivered = [one.seq for one in journal if one.kind in DELIVERED and (origin is None or one.seq < origin)]
    return delivered[-1] if delivered else 0


def _before(journal: list[Record], seq: int) -> int:
    """The stretch before that of this record, so that the record's own stretch is done again; -1 before the first."""
    if seq == 0:
        return -1
    delivered = [record.seq for record in journal if record.kind in DELIVERED and record.seq < seq]
    return delivered[-1] if delivered else 0
