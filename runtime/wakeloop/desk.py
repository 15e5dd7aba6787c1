"""The desk: asks people on each request's timetable, and tells everyone concerned when it has ended."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json
from sqlalchemy.engine import Connection

from wakeloop import asking, calls, tracing
from wakeloop.asking import Due, HowToReply, Progress, RequestSpec, Settled
from wakeloop.calls import DIGEST_PREFIX
from wakeloop.channel import CALLBACK_CHANNEL, Button, Field
from wakeloop.engine.values import JSON_CODEC
from wakeloop.errors import NotFound
from wakeloop.forms import FieldSpec, describe
from wakeloop.forms.dialogue import Draft, prompt
from wakeloop.granting import covers
from wakeloop.links import Links
from wakeloop.logs import get_logger
from wakeloop.status import RequestStatus
from wakeloop.store import amendments, audit, grants, inbox, outbox
from wakeloop.store import requests as store
from wakeloop.store.records import NewMessage, Post
from wakeloop.world import World

log = get_logger("wakeloop.desk")

BATCH = 200
TROUBLE_SECONDS = 60
"""When a request that could not be worked on is looked at again."""

SUBMIT = "submit"
"""What the button stands for that sends a filled in form back."""
SEEN_DIGITS = 16
"""So many digits of a call's digest go with a yes to it: a button's value has 64 bytes."""
_PRESSED = re.compile(r"([0-9a-f]{32}):([^@]+)(?:@([0-9a-f]+))?", re.DOTALL)


def pressed_value(id: UUID, word: str, digest: str | None) -> str:
    """What a button of a request sends back. A yes to a call also names the call that its message showed: that button
    approves no other, such as one that somebody has changed since."""
    seen = f"@{digest.removeprefix(DIGEST_PREFIX)[:SEEN_DIGITS]}" if digest and word == "yes" else ""
    return f"{id.hex}:{word}{seen}"


def read_pressed(value: str) -> tuple[UUID, str, str | None] | None:
    """The request of what a button sent back, the word that it stands for, and how the digest begins of the call that its
    message showed, if it named one; None if it is no button's of ours."""
    found = _PRESSED.fullmatch(value)
    return None if found is None else (UUID(found[1]), found[2], found[3])


class Desk:
    """What happens to requests by itself. Everything here is done in the caller's transaction.

    A request that is due is asked of its first people; then come reminders, escalations and its expiry, each when the
    timetable has it. How it ends is decided by whoever settles it first, by compare-and-set; in the same transaction
    the run that waits for it gets to know, those who were asked are told once, their messages are to be amended where
    that can be done, and a program's callback is queued.
    """

    def __init__(self, *, world: World, links: Links, amending: Collection[str] = ()) -> None:
        """`amending`: the channels that can change what they have sent."""
        self._world = world
        self._links = links
        self._amending = frozenset(amending)

    # ------------------------------------------------------------------ what is due

    def sweep(self, connection: Connection, *, now: datetime) -> int:
        """Do what is due for requests that nobody else has in hand; how many there were."""
        found = store.look_due(connection, now=now, limit=BATCH)
        if not found:
            return 0
        sessions = {row.session_id for row in found if row.session_id is not None}
        rows = store.lock_due(connection, {row.id for row in found}, sessions, now=now)
        specs = {row.id: RequestSpec.model_validate_json(row.spec) for row in rows}
        store.lock_contacts(connection, set().union(*(self._everybody(spec) for spec in specs.values())))
        for row in rows:
            try:
                with connection.begin_nested(), _traced(row):
                    self._work(connection, row, specs[row.id], now)
            except Exception:
                log.exception("a request could not be worked on; it is tried again", request=str(row.id))
                self._move(connection, row, now + timedelta(seconds=TROUBLE_SECONDS))
        return len(rows)

    def begin(self, connection: Connection, id: UUID, *, now: datetime) -> None:
        """Ask a request that was just made, in the same transaction."""
        row = store.lock(connection, id)
        assert row is not None
        spec = RequestSpec.model_validate_json(row.spec)
        store.lock_contacts(connection, self._everybody(spec))
        self._work(connection, row, spec, now)

    def _everybody(self, spec: RequestSpec) -> set[str]:
        """Everybody who may ever be asked."""
        names = [*spec.to, *(step.to for step in spec.escalate if step.to is not None)]
        found = set()
        for name in names:
            try:
                found |= set(self._world.people.expand([name]))
            except NotFound:
                continue
        return found

    def _work(self, connection: Connection, row: Any, spec: RequestSpec, now: datetime) -> None:
        """Do what a request's timetable has up to now, or tell of its end."""
        if row.status != RequestStatus.OPEN:
            settled = Settled.model_validate_json(row.outcome)
            audit.append(connection, row.id, at=now, act="end", result=row.status, comment=settled.reason)
            self._tell_end(connection, row, spec, settled, store.recipients_of(connection, row.id), now)
            self._move(connection, row, None)
            return
        current: Any = row
        while current is not None and current.status == RequestStatus.OPEN:
            coming = asking.next_due(spec, _progress(current))
            if coming is None or coming[0] > now:
                self._move(connection, current, coming[0] if coming else None)
                return
            self._do(connection, current, spec, coming[1], now)
            current = store.find(connection, row.id)

    def _do(self, connection: Connection, row: Any, spec: RequestSpec, due: Due, now: datetime) -> None:
        """Do one thing of a timetable. It is noted before it is done: what it leads to (nobody can be reached, say) may
        change the timetable, or end the request."""
        progress = _progress(row)
        match due:
            case Due.EXPIRE:
                self.expire(connection, row, spec, now)
            case Due.ASK:
                self._move(connection, row, None, replace(progress, asked_at=now))
                self._begin(connection, row, spec, now)
            case Due.ESCALATE:
                self._move(connection, row, None, replace(progress, escalations=progress.escalations + 1))
                self._escalate(connection, row, spec, spec.escalate[progress.escalations], now)
            case Due.REMIND:
                # However late it is, one reminder is enough.
                reminders = _reminders_until(spec, progress, now)
                self._move(connection, row, None, replace(progress, reminders=reminders))
                self._remind(connection, row, spec, now)

    def _begin(self, connection: Connection, row: Any, spec: RequestSpec, now: datetime) -> None:
        """Ask the first people, unless they have given their approval in advance."""
        if self._is_granted(connection, row, spec, now):
            return
        self._ask(connection, row, spec, dict.fromkeys(self._people(spec.to), spec.via), now)
        if not store.recipients_of(connection, row.id):
            self._nobody(connection, row, spec, "there is nobody here who may be asked", now)

    def _move(
        self, connection: Connection, row: Any, due_at: datetime | None, progress: Progress | None = None
    ) -> None:
        progress = progress or _progress(row)
        store.move(
            connection, row.id, due_at=due_at, asked_at=progress.asked_at, reminders=progress.reminders,
            escalations=progress.escalations,
        )  # fmt: skip

    # ------------------------------------------------------------------ asking

    def _people(self, names: Sequence[str]) -> list[str]:
        found: dict[str, None] = {}
        for name in names:
            try:
                found |= dict.fromkeys(self._world.people.expand([name]))
            except NotFound as error:
                log.error("a person who was to be asked is not known any more", error=str(error))
        return list(found)

    def _ask(
        self,
        connection: Connection,
        row: Any,
        spec: RequestSpec,
        people: Mapping[str, str | None],
        now: datetime,
    ) -> None:
        """Ask these contacts, each through one channel only or through any."""
        allowed = self.allowed(spec, people)
        for contact in people:
            if contact not in allowed:
                audit.append(connection, row.id, at=now, act="ask", result="left out: may not decide", contact=contact)  # fmt: skip
        wanted = {contact: people[contact] for contact in allowed}
        earlier = {
            contact: [one for one in store.open_of_contact(connection, contact) if one.id != row.id]
            for contact in wanted
        }
        untold = {contact: [one for one in found if not one.code_told] for contact, found in earlier.items()}
        store.note_told(connection, [(one.id, contact) for contact, found in untold.items() for one in found])
        alone = store.add_recipients(connection, row.id, wanted, now=now)
        for contact, via in wanted.items():
            told = store.one_of_contact(connection, contact, row.id)
            assert told is not None
            how = HowToReply(
                code=None if alone[contact] else told.code,
                earlier=[
                    (one.code, RequestSpec.model_validate_json(one.spec).title) for one in untold[contact]
                ],
            )
            text = self.text(row, spec, contact, how, args=_args(row))
            self._write(connection, row, spec, contact, via, text, now, act="ask")

    def text(
        self, row: Any, spec: RequestSpec, contact: str, how: HowToReply, *, args: dict[str, Any] | None
    ) -> str:
        """A request as a text message to a contact."""
        link = self._links.page(contact, row.id)
        if spec.is_approval:
            call = args or {}
            whole = calls.summary("", call, limit=sys.maxsize)
            told = calls.summary("", call)
            is_short = told != whole or any(is_cut for _, _, is_cut in calls.shown(call))
            lines = told.removeprefix("\n")
            is_needed = spec.args_form is not None or is_short
            return asking.approval_text(spec, lines, replace(how, link=link if is_needed else None))
        form = spec.answer_form
        if form.is_flat:
            return asking.question_text(spec, prompt(form, Draft()), replace(how, link=None))
        if len(form.fields) > 1:
            return asking.question_text(spec, "" if link else describe(form), replace(how, link=link))
        return asking.question_text(spec, "", replace(how, link=None))

    def _remind(self, connection: Connection, row: Any, spec: RequestSpec, now: datetime) -> None:
        for person in store.recipients_of(connection, row.id):
            if person.vote is not None and person.vote == row.digest:
                continue  # has approved, and waits for others as we do
            self._again(connection, row, spec, person, person.via, now, head="Reminder: ", act="remind")

    def ask_changed(
        self, connection: Connection, row: Any, spec: RequestSpec, person: Any, args: dict[str, Any], head: str,
        now: datetime,
    ) -> None:  # fmt: skip
        """Ask somebody who was asked before about arguments that another has changed."""
        self._again(connection, row, spec, person, person.via, now, head=head, args=args)

    def _again(
        self, connection: Connection, row: Any, spec: RequestSpec, person: Any, via: str | None, now: datetime, *,
        head: str = "", args: dict[str, Any] | None = None, act: str = "ask",
    ) -> None:  # fmt: skip
        """Write a request again to somebody who was asked before; with its code, if it is not their only open one."""
        has_others = any(one.id != row.id for one in store.open_of_contact(connection, person.contact))
        if has_others:
            store.note_told(connection, [(row.id, person.contact)])
        how = HowToReply(code=person.code if has_others else None)
        text = head + self.text(row, spec, person.contact, how, args=_args(row) if args is None else args)
        self._write(connection, row, spec, person.contact, via, text, now, act=act)

    def _escalate(
        self, connection: Connection, row: Any, spec: RequestSpec, step: asking.EscalationStep, now: datetime
    ) -> None:
        """Ask somebody else as well, or the same people through another channel."""
        known = {person.contact: person for person in store.recipients_of(connection, row.id)}
        people = self._people([step.to] if step.to is not None else spec.to)
        for contact in people:
            if contact in known:
                store.set_via(connection, row.id, contact, step.via)
                self._again(connection, row, spec, known[contact], step.via, now, act="escalate")
        new = {contact: step.via for contact in people if contact not in known}
        if new:
            self._ask(connection, row, spec, new, now)

    def _write(
        self, connection: Connection, row: Any, spec: RequestSpec, contact: str, via: str | None, text: str,
        now: datetime, *, act: str,
    ) -> None:  # fmt: skip
        """Put a message about a request into the outbox."""
        try:
            channel, address = self._world.people.route(contact, via)[0]
        except NotFound as error:
            log.error("a person cannot be asked", contact=contact, request=str(row.id), error=str(error))
            audit.append(connection, row.id, at=now, act=act, result="no address", contact=contact)
            self._unreachable(connection, row, spec, contact, "no address", now)
            return
        audit.append(connection, row.id, at=now, act=act, result="queued", contact=contact, channel=channel)
        message = NewMessage(
            id=self._world.ids.new_id(), contact=contact, channel=channel, address=address, via=via,
            subject=spec.subject, text=text, run_id=row.run_id, request_id=row.id, urgent=spec.urgent,
        )  # fmt: skip
        outbox.put(connection, row.session_id, [message], now=now)

    def extras(self, connection: Connection, id: UUID, contact: str) -> dict[str, Any]:
        """What may go with a message about an open request to a contact, by its name in Outgoing: what kind of request it
        is, buttons, fields with what sends them back, the link to its page and the token."""
        row = store.one_of_contact(connection, contact, id)
        if row is None or not row.open:
            return {}
        spec = RequestSpec.model_validate_json(row.spec)
        found: dict[str, Any] = {
            "kind": spec.kind,
            "buttons": tuple(
                Button(label=label, value=pressed_value(id, word, row.digest), style=style)
                for label, word, style in asking.choices(spec)
            ),
            "token": self._links.reply_token(contact, id),
        }
        if inputs := asking.inputs(spec):
            found |= {"fields": tuple(_field(one) for one in inputs), "submit": f"{id.hex}:{SUBMIT}"}
        link = self._links.page(contact, id)
        return found if link is None else found | {"link": link}

    def page(self, contact: str, *, at: datetime) -> str | None:
        """The address of a contact's page, the same for the same time; None if nobody outside could reach it."""
        return self._links.page(contact, signed_at=at)

    def allowed(self, spec: RequestSpec, people: Sequence[str] | Mapping[str, Any]) -> list[str]:
        """Those of these contacts who may decide: all, of a question; of an approval those whom the settings allow for
        its function, and never the one on whose behalf it is asked."""
        if not spec.is_approval:
            return list(people)
        may = self._world.people.approvers(spec.action or "")
        return [
            contact for contact in people if (may is None or contact in may) and contact != spec.requester
        ]

    def _is_granted(self, connection: Connection, row: Any, spec: RequestSpec, now: datetime) -> bool:
        """Settle an approval that those who may give it have given in advance."""
        if not spec.is_approval:
            return False
        arguments = _args(row) or {}
        found = grants.active(connection, action=spec.action or "", origin=self.origin(row), now=now)
        fitting = {one.contact: one for one in found if covers(from_json(one.limits), arguments)}
        people = self.allowed(spec, self._people(spec.to))
        givers = [contact for contact in fitting if contact in people]
        if len(givers) < spec.quorum:
            return False
        for contact in givers:
            audit.append(
                connection, row.id, at=now, act="approve", result="counted", contact=contact, auth=f"grant {fitting[contact].id}",
                digest=row.digest,
            )  # fmt: skip
        settled = Settled(
            status=RequestStatus.APPROVED, by=givers[-1], at=now, args=arguments, approvers=tuple(givers),
            digest=row.digest, reason="granted in advance",
        )  # fmt: skip
        return self.end(connection, row, spec, settled, now=now)

    def origin(self, row: Any) -> str:
        """On whose account a request was made: an agent's, or a program's."""
        if row.session_id is None:
            return f"program {row.maker}"
        return f"agent {row.agent}"

    # ------------------------------------------------------------------ the end

    def end(
        self, connection: Connection, row: Any, spec: RequestSpec, settled: Settled, *, now: datetime
    ) -> bool:
        """Settle a request if it is still open, and tell everyone concerned; whether this was what settled it."""
        asked = store.settle_told(connection, row.id, settled.status, settled.model_dump_json(), now=now)
        if asked is None:
            return False
        log.info("request settled", request=str(row.id), status=settled.status, by=settled.by)
        self._tell_run(connection, row, settled, now)
        self._tell_end(connection, row, spec, settled, asked, now)
        return True

    def expire(self, connection: Connection, row: Any, spec: RequestSpec, now: datetime) -> None:
        """Let a request end undecided: its time has run out."""
        audit.append(connection, row.id, at=now, act="expire", result="expired", digest=row.digest)
        self.end(connection, row, spec, Settled(status=RequestStatus.EXPIRED, at=now), now=now)

    def undeliverable(
        self, connection: Connection, request_id: UUID, contact: str, reason: str, *, now: datetime
    ) -> None:
        """A message about a request reached its contact through no channel."""
        row = store.lock(connection, request_id)
        if row is None or row.status != RequestStatus.OPEN:
            return
        spec = RequestSpec.model_validate_json(row.spec)
        store.lock_contacts(connection, self._everybody(spec))
        audit.append(connection, row.id, at=now, act="deliver", result="undeliverable", contact=contact)
        self._unreachable(connection, row, spec, contact, reason, now)

    def _unreachable(
        self, connection: Connection, row: Any, spec: RequestSpec, contact: str, reason: str, now: datetime
    ) -> None:
        store.note_unreachable(connection, row.id, contact)
        left = [
            person
            for person in store.recipients_of(connection, row.id)
            if not person.unreachable or (person.vote is not None and person.vote == row.digest)
        ]
        if len(left) < spec.quorum:
            self._nobody(connection, row, spec, reason, now)

    def _nobody(
        self, connection: Connection, row: Any, spec: RequestSpec, reason: str, now: datetime
    ) -> None:
        """Too few of those who were asked can be reached: the next escalation comes now; if there is none, it fails loudly."""
        fresh = store.find(connection, row.id)
        if fresh is None or fresh.status != RequestStatus.OPEN:
            return
        progress = _progress(fresh)
        if progress.escalations < len(spec.escalate):
            step = spec.escalate[progress.escalations]
            self._move(connection, row, fresh.due_at, replace(progress, escalations=progress.escalations + 1))
            self._escalate(connection, row, spec, step, now)
            return
        log.warning("undeliverable", request=str(row.id), reason=reason)
        settled = Settled(status=RequestStatus.CANCELLED, at=now, reason=reason, undeliverable=True)
        self.end(connection, row, spec, settled, now=now)

    def _tell_run(self, connection: Connection, row: Any, settled: Settled, now: datetime) -> None:
        if row.run_id is None:
            return
        body = {"request": str(row.id), "value": settled.model_dump(mode="json")}
        post = Post(
            agent=row.agent, key=row.key, kind="reply", dedupe=f"settled:{row.id}",
            body=JSON_CODEC.dump(body, "how a request ended"), target=row.run_id,
        )  # fmt: skip
        known = {(row.agent, row.key): row.session_id}
        inbox.touch(connection, inbox.post(connection, [post], known, now=now), now=now)

    def _tell_end(
        self,
        connection: Connection,
        row: Any,
        spec: RequestSpec,
        settled: Settled,
        asked: Sequence[Any],
        now: datetime,
    ) -> None:
        """Tell those who were asked and need not answer any more, and the program that asked; have what asked them show
        how it ended."""
        line = asking.outcome_line(settled, self._deciders(settled))
        amendments.add(connection, row.id, line, self._amending, now=now)
        if settled.status != RequestStatus.EXPIRED and not settled.undeliverable:
            name = self.name(settled.by)
            deciders = {settled.by, *settled.approvers}
            for person in asked:
                if person.contact not in deciders:
                    text = asking.ended_text(spec, settled, name)
                    self._write(connection, row, spec, person.contact, person.via, text, now, act="tell")
        if row.callback is not None:
            self._call_back(connection, row, spec, settled, now)

    def amend_if_over(self, connection: Connection, message: Any, delivery_id: UUID) -> None:
        """A message about a request goes through another channel, one that can change what it has sent: if it asked, and
        the request has ended since, it is to show how."""
        row = store.lock(connection, message.request_id)
        if row is None or row.outcome is None or message.interactive or message.at >= row.settled_at:
            return
        settled = Settled.model_validate_json(row.outcome)
        line = asking.outcome_line(settled, self._deciders(settled))
        amendments.expect(connection, delivery_id, f"{message.text}\n{line}")

    def _deciders(self, settled: Settled) -> str | None:
        """Who decided, as people call them."""
        names = [self.name(contact) or contact for contact in settled.approvers]
        return " and ".join(names) if len(names) > 1 else self.name(settled.by)

    def _call_back(
        self, connection: Connection, row: Any, spec: RequestSpec, settled: Settled, now: datetime
    ) -> None:
        facts = {
            "type": f"request.{settled.status}",
            "timestamp": now.isoformat(),
            "data": {
                "id": str(row.id), "kind": spec.kind, "action": spec.action, "state": from_json(row.state or "null"),
                **settled.model_dump(mode="json"),
            },
        }  # fmt: skip
        message = NewMessage(
            id=self._world.ids.new_id(), contact="", channel=CALLBACK_CHANNEL, address=row.callback,
            via=CALLBACK_CHANNEL, subject=None, text=to_json(facts).decode(), interactive=True,
        )  # fmt: skip
        outbox.put(connection, None, [message], now=now)

    def name(self, contact: str | None) -> str | None:
        """What people call a contact."""
        if contact is None:
            return None
        try:
            return self._world.people.get(contact).name
        except NotFound:
            return contact


def _traced(row: Any) -> AbstractContextManager[Any]:
    """What is first done for a request belongs to the trace in which it was made; what is due later begins one of its own,
    with a link there."""
    if row.asked_at is None:
        return tracing.resumed(row.trace)
    facts = {"wakeloop.request": str(row.id), "wakeloop.run": None if row.run_id is None else str(row.run_id)}
    return tracing.span(f"follow up {row.kind}", "internal", facts, links=[row.trace], is_root=True)


def _field(spec: FieldSpec) -> Field:
    return Field(
        name=spec.name, label=spec.label, kind=spec.kind, description=spec.description, choices=spec.choices,
        required=spec.required, default=spec.default,
    )  # fmt: skip


def _args(row: Any) -> dict[str, Any] | None:
    return None if row.args is None else from_json(row.args)


def _progress(row: Any) -> Progress:
    return Progress(
        created_at=row.created_at, expires_at=row.expires_at, asked_at=row.asked_at, reminders=row.reminders,
        escalations=row.escalations,
    )  # fmt: skip


def _reminders_until(spec: RequestSpec, progress: Progress, now: datetime) -> int:
    assert spec.remind is not None and progress.asked_at is not None
    return max(progress.reminders + 1, int((now - progress.asked_at).total_seconds() // spec.remind))
