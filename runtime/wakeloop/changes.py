"""Turns what handlers ask for into what is to be written, to be committed with their journals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_core import from_json

from wakeloop import calendar
from wakeloop.asking import Settled
from wakeloop.engine import commands as cmd
from wakeloop.engine.failures import Failure, describe
from wakeloop.engine.values import JSON_CODEC
from wakeloop.entries import AGENT, CONTACT
from wakeloop.errors import ChildFailed
from wakeloop.events import EVENT, Attachment, dump_event
from wakeloop.status import RequestStatus, RunStatus
from wakeloop.store import requests
from wakeloop.store.records import (
    ChildEnd,
    InboxRow,
    NewEntry,
    NewMessage,
    NewRun,
    NewWakeup,
    RunRow,
    SessionCommit,
    SessionRow,
    Settlement,
)
from wakeloop.triggers import At, dump_schedule, load_schedule
from wakeloop.world import World, signal_posts

_ATTACHMENTS = TypeAdapter(tuple[Attachment, ...])
_NEVER = datetime.min.replace(tzinfo=UTC)


class Changes:
    """What one session changes until the next commit. `is_dirty`: there is something that must be committed before
    anything else may happen."""

    def __init__(self, world: World, session: SessionRow) -> None:
        self._world = world
        self.commit = SessionCommit(session=session, lease_until=_NEVER)
        self.is_dirty = False

    def apply(self, run_id: UUID, command: cmd.Command) -> None:
        """Turn what a handler asked for into what is to be written."""
        match command:
            case cmd.SendMessage(message=message, via=via, urgent=urgent):
                assert message.to is not None
                self.commit.entries.append(NewEntry(role=AGENT, source=UUID(message.id)))
                channel, address = self._world.people.route(message.to, via)[0]
                self.commit.messages.append(
                    NewMessage(
                        id=UUID(message.id),
                        contact=message.to,
                        channel=channel,
                        address=address,
                        via=via,
                        subject=message.subject,
                        text=message.text,
                        run_id=run_id,
                        urgent=urgent,
                        attachments=_ATTACHMENTS.dump_json(message.attachments).decode()
                        if message.attachments
                        else None,
                    )
                )
            case cmd.OpenRequest(id=id, spec=spec, at=at):
                self.commit.requests.append(requests.new_request(spec, id=UUID(id), now=at, run_id=run_id))
                words = JSON_CODEC.dump(spec.text, "a question")
                entry = NewEntry(role=AGENT, contact=", ".join(spec.to), content=words, source=UUID(id))
                self.commit.entries.append(entry)
            case cmd.CancelRequest(id=id, at=at):
                self.commit.settlements.append(cancellation(UUID(id), at, "not needed any more"))
            case cmd.SpawnRun():
                event = EVENT.validate_python(
                    {"kind": "call", "input": JSON_CODEC.load(command.input), "by": str(run_id)}
                )
                self.commit.spawned.append(
                    NewRun(
                        id=UUID(command.id),
                        agent=command.agent,
                        key=command.key,
                        event=dump_event(event),
                        parent_id=run_id,
                        parent_session_id=self.commit.session.id,
                    )
                )
            case cmd.EmitSignal(signal=signal):
                posts, emitted = signal_posts(self._world.registry, signal)
                self.commit.posts.extend(posts)
                self.commit.signals.append(emitted)
            case cmd.SetWakeup():
                schedule = command.schedule
                if isinstance(schedule, At):
                    nominal: datetime | None = schedule.when  # one that is past already is due at once
                else:
                    nominal = calendar.next_after(schedule, command.anchor, anchor=command.anchor)
                due = (
                    calendar.jittered(command.schedule, command.id, nominal) if nominal is not None else None
                )
                self.commit.wakeups.append(
                    NewWakeup(
                        ref=command.id,
                        spec=dump_schedule(command.schedule),
                        anchor=command.anchor,
                        nominal=nominal,
                        due_at=due,
                    )
                )
            case cmd.CancelWakeup():
                self.commit.cancelled_wakeups.append(command.id)
            case cmd.AppendEntry(role=role, content=content):
                self.commit.entries.append(NewEntry(role=role, content=content))

    def hear(self, item: InboxRow, place: int) -> None:
        """Note in the conversation what a person said, at its place among what this commit adds to it."""
        facts = from_json(item.body or "{}")
        if item.kind == "message":
            self.commit.entries.insert(place, NewEntry(role=CONTACT, source=UUID(facts["id"])))
        elif item.kind == "reply" and facts.get("value", {}).get("by") is not None:
            settled = Settled.model_validate(facts["value"])
            words = settled.text or ", ".join(filter(None, [settled.status, settled.option, settled.comment]))
            content = JSON_CODEC.dump(words, "an answer")
            entry = NewEntry(role=CONTACT, contact=settled.by, content=content, source=UUID(facts["request"]))
            self.commit.entries.insert(place, entry)

    def tell_parent(
        self, row: RunRow, status: RunStatus, result: str | None, failure: Failure | None
    ) -> None:
        """If the run was spawned, tell the run that waits for it what it came to."""
        if row.parent_id is None or row.parent_session_id is None:
            return
        facts: dict[str, Any] = {"run": str(row.id)}
        if status is RunStatus.COMPLETED:
            facts["value"] = JSON_CODEC.load(result or "null")
        else:
            reason = failure.title if failure is not None else str(status)
            failed = ChildFailed(
                f"run {row.id} of agent {self.commit.session.agent} ended {status}: {reason}",
                run=str(row.id),
                status=str(status),
                reason=reason,
            )
            facts["failure"] = describe(failed).model_dump(mode="json")
        self.commit.answers.append(
            ChildEnd(
                session=row.parent_session_id,
                parent=row.parent_id,
                run=row.id,
                body=JSON_CODEC.dump(facts, "child"),
            )
        )

    def wakeups(self, schedules: Sequence[Any], coming: Mapping[int, datetime]) -> tuple[cmd.Wakeup, ...]:
        """The session's coming wakeups, with what its runs changed and is not committed yet. coming: the first occurrence
        of those schedules that have queued one ahead of its time."""
        found = [
            cmd.Wakeup(id=row.ref, schedule=load_schedule(row.spec), next=next, own=row.own)
            for row in schedules
            if (next := coming.get(row.id, row.nominal)) and row.ref not in self.commit.cancelled_wakeups
        ]
        found += [
            cmd.Wakeup(id=new.ref, schedule=load_schedule(new.spec), next=new.nominal, own=True)
            for new in self.commit.wakeups
            if new.ref not in self.commit.cancelled_wakeups and all(new.ref != one.id for one in found)
        ]
        return tuple(sorted(found, key=lambda one: (one.next is None, one.next, one.id)))


def cancellation(id: UUID, at: datetime, reason: str) -> Settlement:
    """The end of a request that nobody waits for any more."""
    settled = Settled(status=RequestStatus.CANCELLED, at=at, reason=reason)
    return Settlement(id=id, status=RequestStatus.CANCELLED, outcome=settled.model_dump_json())
