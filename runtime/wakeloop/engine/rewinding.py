"""Where a retry of a failed run takes up again, and what it takes back of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic.dataclasses import dataclass as model_dataclass

from wakeloop.engine.journal import DELIVERED, DONE, Kind, Record


@model_dataclass(frozen=True, kw_only=True)
class Rewind:
    """Where a retry of a failed run takes up again.

    begin: position of the stretch that is done again. ops: how many operations had been issued before it; what was
    asked for after them is asked for again. forget: whether `begin` is the recorded failure of a step, which is taken
    back. state: the session's state when that stretch began; None if others changed it since, or there is none.
    """

    begin: int
    ops: int
    forget: bool = False
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a stretch began: its position, the operations issued before it, the session's state, and whether others
    had changed that."""

    seq: int
    ops: int
    state: str | None
    by_others: bool


def rewind_for(
    error: BaseException | None, journal: Sequence[Record], stretches: Sequence[Stretch]
) -> Rewind:
    """Where a retry takes up again: at the recorded failure that ended the handler, if nothing that came of it since
    would be lost by that; else at the last stretch. `error` is what the handler raised, None if it returned."""
    at, forget = _stretch_of(_origin(error), journal, stretches)
    if at is None or any(
        record.ok
        and record.op > stretches[at].ops
        and record.kind in DELIVERED
        and record.kind not in (Kind.TIMER, Kind.CONVERSATION)
        for record in journal
    ):
        at, forget = len(stretches) - 1, False
    since = stretches[at:]
    state = None if any(stretch.by_others for stretch in since[1:]) else since[0].state
    return Rewind(begin=since[0].seq, ops=since[0].ops, forget=forget, state=state)


def note_origin(error: Exception, seq: int) -> None:
    """Let an exception bear the journal position of the failure that it was made of again."""
    error.__wakeloop_origin__ = seq  # type: ignore[attr-defined]


def _stretch_of(
    origin: int | None, journal: Sequence[Record], stretches: Sequence[Stretch]
) -> tuple[int | None, bool]:
    """The stretch to begin again with for a recorded failure, and whether it is that failure itself."""
    record = next((record for record in journal if record.seq == origin), None)
    if record is None:
        return None, False
    if record.kind is Kind.STEP:
        found = [index for index, stretch in enumerate(stretches) if stretch.seq == origin]
        return (found[0], True) if found else (None, False)
    if record.kind in DONE and not record.ok:
        return max(index for index, stretch in enumerate(stretches) if stretch.ops < record.op), False
    return None, False


def _origin(error: BaseException | None) -> int | None:
    """The earliest journal position of a recorded failure that led to this exception."""
    found: list[int] = []
    seen: set[int] = set()
    stack = [error]
    while stack:
        one = stack.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        origin = getattr(one, "__wakeloop_origin__", None)
        if isinstance(origin, int):
            found.append(origin)
        stack.extend([one.__cause__, one.__context__])
        if isinstance(one, BaseExceptionGroup):
            stack.extend(one.exceptions)
    return min(found, default=None)


def taken_back(journal: list[Record], rewind: Rewind) -> list[int]:
    """The positions of what a retry takes back. Never a result that was recorded for something asked for earlier."""
    again = {
        record.op
        for record in journal
        if rewind.forget and record.kind is Kind.STEP and not record.ok and record.seq >= rewind.begin
    }

    def is_taken_back(record: Record) -> bool:
        if record.kind is Kind.STATE:
            return int(record.name) >= rewind.begin
        if record.kind is Kind.CANCEL:
            return record.seq > rewind.begin
        if record.op in again:
            return record.kind is not Kind.STEP or record.seq >= rewind.begin
        return record.op > rewind.ops

    return [record.seq for record in journal if is_taken_back(record)]


def applied_before(journal: list[Record], begin: int) -> int:
    """The stretch before one: the last that stays as it is; -1 if there is none."""
    return max(
        (record.seq for record in journal if record.kind in DELIVERED and record.seq < begin),
        default=0 if begin else -1,
    )
