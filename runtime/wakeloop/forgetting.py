"""Forgets a person: at once what nothing needs any more, and the rest when it has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json

from wakeloop.asking import RequestSpec, Settled
from wakeloop.store import conversation, erasure, retention
from wakeloop.store.database import Database
from wakeloop.store.erasure import MARKER

BATCH = 100


@dataclass(kw_only=True)
class Forgotten:
    """What was erased and what is left of a person.

    erased: how many rows of each table. waiting: runs, messages, entries of conversations and requests that are still needed, and are erased once
    they have ended. comments: lines of the audit record that hold words of theirs; these stay. states: the sessions in
    whose conversation they are, and whose state may hold something about them."""

    erased: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    comments: int = 0
    states: list[str] = field(default_factory=list)


class Forgetting:
    """Replaces what was said to and by a contact by a marker, up to the moment at which that was asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def forget(
        self, contact: str, addresses: Collection[tuple[str, str]] = (), *, dry_run: bool = False
    ) -> Forgotten:
        """Erase what can be, and have workers erase the rest when it has ended. addresses: those of the contact that are
        known from elsewhere, as (channel, address). dry_run: only count."""
        now = self._database.now()
        if not dry_run:
            with self._database.begin() as connection:
                erasure.ask(connection, contact, now=now)
        done = Forgotten()
        for _ in self.batches(contact, now, done, addresses=addresses, counting=dry_run):
            pass
        with self._database.read() as connection:
            done.comments = erasure.comments(connection, contact)
            found = erasure.sessions_of(connection, contact, until=now)
            done.states = erasure.states(connection, found)
        return done

    def unfinished(self) -> list[tuple[str, datetime]]:
        """The contacts of whom something is still to be erased, each with when that was asked for."""
        with self._database.read() as connection:
            return [(row.contact, row.asked_at) for row in erasure.unfinished(connection, limit=BATCH)]

    def batches(
        self, contact: str, until: datetime, done: Forgotten, *, addresses: Collection[tuple[str, str]] = (),
        counting: bool = False,
    ) -> Iterator[None]:  # fmt: skip
        """Erase a contact in small transactions, yielding after each; what came of it is added to `done`. In the end it is
        noted if nothing is left to be erased later."""
        with self._database.read() as connection:
            known = set(addresses) | erasure.addresses_of(connection, contact)
            sessions = erasure.sessions_of(connection, contact, until=until)
            asked = erasure.requests_of(connection, contact, until=until)
            of_runs = {row.run_id for row in asked if row.run_id is not None}
            runs = erasure.runs_of(connection, contact, sessions, of_runs, until=until)
        open_runs = {row.id for row in runs if not erasure.is_over(row)}
        done.waiting["runs"] += len(open_runs)
        yield from self._runs([row for row in runs if erasure.is_over(row)], contact, done, counting)
        for row in asked:
            if erasure.is_settled(row) and row.run_id not in open_runs:
                self._request(row, contact, done, counting)
                yield
            else:
                done.waiting["requests"] += 1
        for session in sessions:
            with self._transaction(counting) as connection:
                done.erased.update(erasure.erase_inbox(connection, contact, session, counting=counting))
                erased, waiting = conversation.erase(
                    connection, session, contact, until=until, counting=counting
                )
            done.erased["conversation"] += erased
            done.waiting["entries"] += waiting
            yield
        yield from self._messages(contact, until, done, counting)
        for channel, address in sorted(known):
            with self._transaction(counting) as connection:
                done.erased.update(
                    erasure.erase_address(connection, channel, address, until=until, counting=counting)
                )
            yield
        if not counting and not +done.waiting:
            with self._database.begin() as connection:
                erasure.finish(connection, contact, asked_at=until, now=self._database.now())

    def _transaction(self, counting: bool) -> Any:
        return self._database.read() if counting else self._database.begin()

    def _runs(self, rows: list[Any], contact: str, done: Forgotten, counting: bool) -> Iterator[None]:
        changed = [(row, _event(row.event, contact)) for row in rows]
        for start in range(0, len(changed), BATCH):
            part = changed[start : start + BATCH]
            events = {row.id: (event, row.result) for row, event in part}
            with self._transaction(counting) as connection:
                done.erased.update(erasure.erase_runs(connection, events, counting=counting))
            done.erased["runs"] += sum(
                row.event != event or row.failure is not None or row.result not in (None, f'"{MARKER}"')
                for row, event in part
            )
            yield

    def _messages(self, contact: str, until: datetime, done: Forgotten, counting: bool) -> Iterator[None]:
        after: UUID | None = None
        while True:
            with self._transaction(counting) as connection:
                ids = erasure.messages_of(connection, contact, until=until, after=after, limit=BATCH)
                at_rest = retention.at_rest(connection, ids)
                done.erased.update(erasure.erase_messages(connection, at_rest, counting=counting))
            done.waiting["messages"] += len(ids) - len(at_rest)
            yield
            if len(ids) < BATCH:
                return
            after = ids[-1]

    def _request(self, row: Any, contact: str, done: Forgotten, counting: bool) -> None:
        with self._transaction(counting) as connection:
            alone = erasure.recipients_of(connection, row.id) == [contact]
            spec, args = row.spec, row.args
            if alone:
                known = RequestSpec.model_validate_json(spec)
                erased = known.model_copy(
                    update={"text": MARKER, "brief": None, "subject": None, "args": None}
                )
                spec, args = erased.model_dump_json(exclude_defaults=True), None
            outcome = _outcome(row.outcome, contact)
            if (spec, args, outcome) == (row.spec, row.args, row.outcome):
                return
            done.erased["requests"] += 1
            if not counting:
                erasure.erase_request(connection, row.id, contact, spec=spec, args=args, outcome=outcome)


def _event(text: str, contact: str) -> str:
    """What woke a run, without what a contact said."""
    event = from_json(text)
    if event.get("kind") != "message" or event.get("from_") != contact or event.get("text") == MARKER:
        return text
    kept = {name: value for name, value in event.items() if name not in ("subject", "attachments")}
    return to_json({**kept, "text": MARKER}).decode()


def _outcome(text: str | None, contact: str) -> str | None:
    """How a request ended, without what a contact said."""
    if text is None:
        return None
    settled = Settled.model_validate_json(text)
    if settled.by != contact or settled.text == MARKER:
        return text
    words = {"text": MARKER, "comment": "", "value": None, "args": None}
    return settled.model_copy(update=words).model_dump_json(exclude_defaults=True)
