"""Requests from outside a run: made, decided, cancelled and looked at by pages, programs and commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy.engine import Connection

from wakeloop.answers import Unreadable
from wakeloop.asking import RequestSpec
from wakeloop.decisions import Actor, Attempt, Decisions, Grant
from wakeloop.desk import Desk
from wakeloop.errors import NotFound, NotPossible
from wakeloop.store import audit, grants, queries
from wakeloop.store import requests as store
from wakeloop.store.database import Database
from wakeloop.views import AuditLine, GrantView, RequestView, audit_line, grant_view, request_view
from wakeloop.world import World, check_request

T = TypeVar("T")

PATIENCE_SECONDS = 5.0
POLL_SECONDS = 0.25


class Requests:
    """What people and programs do with requests. Each call is one transaction, tried again for a few seconds if the
    database is away; when it returns, what happened is recorded, and whoever it concerns is being told.

    A request that is not there raises NotFound. Attempts that do not count raise nothing: `Attempt` says what became of
    them, as late words are no mistake of the caller's."""

    def __init__(
        self,
        *,
        database: Database,
        world: World,
        desk: Desk,
        decisions: Decisions,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._world = world
        self._desk = desk
        self._decisions = decisions
        self._changed = changed

    # ------------------------------------------------------------------ made and ended

    def make(
        self,
        spec: RequestSpec,
        *,
        maker: str,
        id: UUID | None = None,
        state: Any = None,
        callback: str | None = None,
    ) -> tuple[RequestView, bool]:
        """Make a request for a program, and ask its people; and whether it is new: with an id that is there already, of
        the same maker and asking the same, nothing is made again.

        maker: who asks. state: a JSON value that is given back as it was. callback: the address that is told of the end.
        Raises NotFound for an unknown contact, NotPossible if too few of them may approve it, or if the id was used for
        something else."""
        check_request(self._world.people, spec)
        chosen = id or self._world.ids.new_id()
        kept = None if state is None else to_json(state).decode()

        def work(connection: Connection) -> bool:
            now = self._database.now()
            new = store.new_request(spec, id=chosen, now=now, maker=maker, state=kept, callback=callback)
            if store.open_requests(connection, [(None, new)], now=now):
                self._desk.begin(connection, chosen, now=now)
                return True
            known = store.find(connection, chosen)
            assert known is not None
            same = (known.maker, known.spec, known.state, known.callback, known.digest)
            if known.maker != maker or (
                same != (maker, new.spec, kept, callback, new.digest)
                and not self._was_edited(connection, chosen)
            ):
                raise NotPossible(
                    f"request {chosen} is there already and asks something else: use a new id for it",
                    request=str(chosen),
                )
            return False

        is_new = self._transact(work)
        return self.get(chosen), is_new

    def _was_edited(self, connection: Connection, id: UUID) -> bool:
        return any(line.act == "edit" for line in audit.of_request(connection, id))

    def answer(self, id: UUID, actor: Actor, value: Any, *, text: str | None = None) -> Attempt:
        """Answer a question: see `Decisions.answer`."""
        return self._decide(
            id,
            actor,
            "answer",
            lambda connection: self._decisions.answer(
                connection, id, actor, value=value, text=text, now=self._database.now()
            ),
        )

    def reply(self, id: UUID, actor: Actor, text: str) -> Attempt:
        """Answer in words, as by SMS: see `Decisions.reply`."""
        return self._decide(
            id,
            actor,
            "reply",
            lambda connection: self._decisions.reply(connection, id, actor, text, now=self._database.now()),
        )

    def approve(
        self, id: UUID, actor: Actor, *, comment: str = "", args: Mapping[str, Any] | None = None,
        grant: Grant | None = None, digest: str | None = None,
    ) -> Attempt:  # fmt: skip
        """Approve a call: see `Decisions.approve`."""
        return self._decide(
            id,
            actor,
            "approve",
            lambda connection: self._decisions.approve(
                connection,
                id,
                actor,
                now=self._database.now(),
                comment=comment,
                args=args,
                grant=grant,
                digest=digest,
            ),
        )

    def deny(self, id: UUID, actor: Actor, *, comment: str = "", option: str | None = None) -> Attempt:
        """Deny a call: see `Decisions.deny`."""
        return self._decide(
            id,
            actor,
            "deny",
            lambda connection: self._decisions.deny(
                connection, id, actor, now=self._database.now(), comment=comment, option=option
            ),
        )

    def comment(self, id: UUID, actor: Actor, text: str) -> Attempt:
        """Put a remark on record."""
        return self._decide(
            id,
            actor,
            "comment",
            lambda connection: self._decisions.comment(connection, id, actor, text, now=self._database.now()),
        )

    def cancel(self, id: UUID, actor: Actor, *, reason: str = "") -> Attempt:
        """End a request undecided; those who were asked are told."""
        return self._decide(
            id,
            actor,
            "cancel",
            lambda connection: self._decisions.cancel(
                connection, id, actor, now=self._database.now(), reason=reason
            ),
        )

    # ------------------------------------------------------------------ looked at

    def get(self, id: UUID) -> RequestView:
        """One request. Raises NotFound."""
        with self._database.read() as connection:
            row = queries.find_request(connection, id)
            if row is None:
                raise NotFound(f"there is no request {id}")
            return request_view(row, store.recipients_of(connection, id))

    def find(
        self, *, status: str | None = None, contact: str | None = None, run: UUID | None = None, limit: int = 100
    ) -> list[RequestView]:  # fmt: skip
        """Requests, oldest first (a contact's: newest first); `contact`: those that this one was asked."""
        with self._database.read() as connection:
            if contact is not None:
                ids = [row.id for row in store.of_contact(connection, contact, limit=limit)]
                found = [queries.find_request(connection, id) for id in ids]
                rows = [row for row in found if row is not None and status in (None, row.status)]
            else:
                rows = list(queries.list_requests(connection, status=status, run=run, limit=limit))
            asked = store.recipients_of_all(connection, [row.id for row in rows])
            return [request_view(row, asked[row.id]) for row in rows]

    def audit(self, id: UUID) -> list[AuditLine]:
        """What happened to a request, oldest first."""
        with self._database.read() as connection:
            return [audit_line(row) for row in audit.of_request(connection, id)]

    def wait(self, id: UUID, seconds: float) -> RequestView:
        """The request when it has ended, or as it is after `seconds`. Raises NotFound."""
        deadline = time.monotonic() + seconds
        while True:
            view = self.get(id)
            left = deadline - time.monotonic()
            if view.status != "open" or left <= 0:
                return view
            time.sleep(min(POLL_SECONDS, left))

    # ------------------------------------------------------------------ grants

    def grants(self, *, limit: int = 100) -> list[GrantView]:
        """Approvals in advance, newest first, those that are over too."""
        with self._database.read() as connection:
            return [grant_view(row, self._database.now()) for row in grants.newest(connection, limit=limit)]

    def revoke_grant(self, id: UUID, by: str) -> GrantView:
        """Take an approval in advance back; from then on calls are asked about again. Raises NotFound."""

        def work(connection: Connection) -> Any:
            now = self._database.now()
            grants.revoke(connection, id, by=by, now=now)
            return grants.find(connection, id)

        row = self._transact(work)
        if row is None:
            raise NotFound(f"there is no grant {id}")
        return grant_view(row, self._database.now())

    # ------------------------------------------------------------------ inside

    def _decide(self, id: UUID, actor: Actor, act: str, work: Callable[[Connection], Attempt]) -> Attempt:
        try:
            return self._transact(work)
        except Unreadable as error:
            reason = str(error)[:500]
            # What was tried is undone, and goes on record all the same.
            self._transact(
                lambda connection: audit.append(
                    connection, id, at=self._database.now(), act=act, result="refused: could not be read",
                    contact=actor.contact, channel=actor.channel, auth=actor.auth, comment=reason,
                )
            )  # fmt: skip
            raise

    def _transact(self, work: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with self._database.begin() as connection:
                return work(connection)

        result = self._database.retrying(attempt, seconds=PATIENCE_SECONDS)
        self._changed()
        return result
