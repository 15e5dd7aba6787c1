"""What stands on a person's page: their requests as cards with forms, and the conversation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_core import from_json
from sqlalchemy.engine import Connection

from wakeloop.asking import RequestSpec, Settled
from wakeloop.calls import shown
from wakeloop.composing import file_name
from wakeloop.errors import NotFound
from wakeloop.events import Attachment
from wakeloop.forms import Form, fields_for, values_for
from wakeloop.forms.fields import FieldSpec
from wakeloop.people import People
from wakeloop.status import RequestStatus
from wakeloop.store import timeline

MESSAGES_SHOWN = 40
ENDED_SHOWN = 10
RADIOS_LIMIT = 7
"""A choice of more than these is a list that opens."""
FIELD_PREFIX = "field."

_ATTACHMENTS = TypeAdapter(tuple[Attachment, ...])


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of a call: its name, its value as `wakeloop.calls.shown` has it, and the whole if that was cut."""

    name: str
    value: str
    is_block: bool
    whole: str | None = None
    length: int = 0
    limit: str | None = None
    is_number: bool = False


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input of a form: what it is, what it shows, and what was wrong with what was sent."""

    spec: FieldSpec
    id: str
    value: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        return FIELD_PREFIX + self.spec.name

    @property
    def type(self) -> str:
        """The type of the HTML element; "radio", "select" and "textarea" are elements of their own."""
        kind = self.spec.kind
        if kind == "select":
            return "radio" if len(self.spec.choices) <= RADIOS_LIMIT else "select"
        if kind in ("multiline", "json"):
            return "textarea"
        return "number" if kind in ("integer", "number") else kind

    @property
    def rows(self) -> int:
        return min(12, max(3, self.value.count("\n") + 2))


@dataclass(frozen=True, kw_only=True)
class Card:
    """A request as one person sees it. state: changes when anything on the card does."""

    id: str
    kind: str
    code: str
    text: str
    title: str
    action: str | None
    asker: str
    created_at: datetime
    expires_at: datetime | None
    status: str
    arguments: tuple[Argument, ...] = ()
    digest: str = ""
    options: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    edits: tuple[Input, ...] | None = None
    quorum: int = 1
    approvers: tuple[str, ...] = ()
    has_approved: bool = False
    outcome: Settled | None = None
    by: str | None = None
    state: str = ""
    problem: str = ""
    sent: Mapping[str, str] = field(default_factory=dict)
    opened: str = ""


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A file of a message: its name, and where it is: at an address, or kept here with the message."""

    name: str
    url: str | None = None
    is_here: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """An entry of the conversation: a message, or that something was asked (then `about` is what)."""

    id: str
    inbound: bool
    text: str
    channel: str
    agent: str | None
    at: datetime
    failed: bool
    attachments: tuple[Attached, ...] = ()
    about: str | None = None
    head: str = ""
    status: str | None = None
    by: str | None = None

    @property
    def state(self) -> str:
        return f"{self.status}{self.failed}"


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A form that was sent and could not be taken: what stood in it, and what was wrong with it."""

    request: UUID
    act: str
    fields: Mapping[str, Sequence[str]]
    texts: Mapping[str, str]
    reasons: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PersonPage:
    """All of a person's page. older: the id of the message before which there are more."""

    cards: tuple[Card, ...]
    ended: tuple[Card, ...]
    lines: tuple[Line, ...]
    older: str | None
    standing: str


def person_page(
    connection: Connection, people: People, contact: str, *, before: UUID | None = None, failed: Failed | None = None
) -> PersonPage:  # fmt: skip
    """What there is to be seen for a contact now; of the conversation the newest part, or what came before a message."""
    standing = timeline.standing(connection, [contact])[contact]
    open_rows = timeline.open_asked(connection, contact)
    votes: dict[UUID, list[Any]] = {}
    for vote in timeline.votes_on(connection, [row.id for row in open_rows]):
        votes.setdefault(vote.request_id, []).append(vote)
    reader = _Reader(people, contact)
    cards = tuple(
        reader.card(row, votes.get(row.id, ()), failed if failed and failed.request == row.id else None)
        for row in open_rows
    )
    ended = tuple(
        reader.card(row, ()) for row in timeline.ended_asked(connection, contact, limit=ENDED_SHOWN)
    )
    found = timeline.messages_of(connection, contact, before=before, limit=MESSAGES_SHOWN + 1)
    rows = found[:MESSAGES_SHOWN]
    about = timeline.requests_by_id(
        connection, {row.request_id for row in rows if row.request_id is not None}
    )
    lines = tuple(reader.line(row, about.get(row.request_id)) for row in reversed(rows))
    return PersonPage(
        cards=cards, ended=ended, lines=lines, older=str(rows[-1].id) if len(found) > len(rows) else None, standing=standing,
    )  # fmt: skip


class _Reader:
    """Reads rows as what stands on a page, with people's names."""

    def __init__(self, people: People, reader: str) -> None:
        self._people = people
        self._reader = reader

    def name(self, contact: str | None) -> str | None:
        if contact is None:
            return None
        if contact == self._reader:
            return "you"
        try:
            return self._people.get(contact).name
        except NotFound:
            return contact

    def card(self, row: Any, votes: Sequence[Any], failed: Failed | None = None) -> Card:
        spec = RequestSpec.model_validate_json(row.spec)
        outcome = None if row.outcome is None else Settled.model_validate_json(row.outcome)
        args = outcome.args if outcome is not None and outcome.args is not None else None
        if args is None:
            args = None if row.args is None else from_json(row.args)
        approvers = tuple(
            self.name(vote.contact) or ""
            for vote in votes
            if vote.vote == row.digest and row.digest is not None
        )
        has_approved = any(vote.contact == row.contact and vote.vote == row.digest for vote in votes)
        seen = f"{row.status}|{row.digest}|{sorted(approvers)}|{has_approved}"
        card = Card(
            id=str(row.id), kind=row.kind, code=row.code, text=spec.text, title=spec.title, action=row.action,
            asker=asker_of(row), created_at=row.created_at, expires_at=row.expires_at, status=row.status,
            arguments=arguments_of(args or {}), digest=row.digest or "", options=spec.options, quorum=spec.quorum,
            approvers=approvers, has_approved=has_approved, outcome=outcome, by=self.name(outcome.by) if outcome else None,
            state=hashlib.sha256(seen.encode()).hexdigest()[:12],
        )  # fmt: skip
        if row.status != RequestStatus.OPEN:
            return card
        sent = failed if failed is not None and failed.act in ("answer", "edit") else None
        if not spec.is_approval:
            return _with_problem(replace(card, inputs=inputs_of(spec.answer_form, row.id, sent)), failed)
        form = spec.edit_form
        edits = None if form is None else inputs_of(form, row.id, sent, args)
        return _with_problem(replace(card, edits=edits), failed)

    def line(self, row: Any, request: Any | None) -> Line:
        line = Line(
            id=str(row.id), inbound=row.inbound, text=row.text, channel=row.channel, agent=row.agent, at=row.at,
            failed=row.delivery in ("failed", "unknown"), attachments=_attachments(row),
        )  # fmt: skip
        if request is None or row.inbound:
            return line
        spec = RequestSpec.model_validate_json(request.spec)
        head = _asking_head(row.text, spec.text)
        if head is None:
            return line
        outcome = None if request.outcome is None else Settled.model_validate_json(request.outcome)
        return replace(
            line, about=str(request.id), text=spec.title, head=head, status=request.status,
            by=self.name(outcome.by) if outcome is not None else None,
        )  # fmt: skip


def _with_problem(card: Card, failed: Failed | None) -> Card:
    if failed is None:
        return card
    general = failed.reasons.get("", "")
    return replace(card, problem=general, sent=dict(failed.texts), opened=failed.act)


_HEADS = re.compile(r"(Reminder: |Changed by [^\n]{1,200}: )?", re.DOTALL)


def _asking_head(text: str, question: str) -> str | None:
    """What stands before the question in a message that asks it; None for a message that says something else."""
    found = _HEADS.match(text)
    head = found[0] if found is not None else ""
    if not text.startswith(question, len(head)):
        return "" if text.startswith(question) else None
    return head.rstrip(": ")


def asker_of(row: Any) -> str:
    """On whose account a request was made, in words."""
    if row.agent is not None:
        return f"agent {row.agent}"
    return f"program {row.maker}" if row.maker else "a program"


def arguments_of(arguments: Mapping[str, Any]) -> tuple[Argument, ...]:
    """Every argument for a page: several lines as they are, long values cut, with the whole to unfold."""
    whole = shown(arguments, limit=2**31)
    found = []
    for (key, value), (name, short, is_cut), (_, full, _) in zip(
        arguments.items(), shown(arguments), whole, strict=True
    ):
        found.append(
            Argument(
                name=name, value=_unbarred(short), is_block=short.startswith("|"), whole=_unbarred(full) if is_cut else None,
                length=len(full), limit=key, is_number=isinstance(value, int | float) and not isinstance(value, bool),
            )
        )  # fmt: skip
    return tuple(found)


def _unbarred(value: str) -> str:
    """A text of several lines without the bars that mark it as one: on a page it has a frame of its own."""
    if not value.startswith("|"):
        return value
    return "\n".join(line[2:] if line.startswith("| ") else line.lstrip("|") for line in value.split("\n"))


def inputs_of(form: Form, request: UUID, failed: Failed | None, value: Any = None) -> tuple[Input, ...]:
    """The inputs of a form, which show a value, or what was sent and was wrong."""
    is_edit = value is not None
    specs = fields_for(form, value) if is_edit else form.fields
    texts = values_for(form, value) if is_edit else {spec.name: spec.default or "" for spec in form.fields}
    found = []
    for number, spec in enumerate(specs):
        text = texts.get(spec.name, "")
        if spec.kind in ("datetime-local", "time") and text.count(":") > 1:
            spec = replace(spec, kind="text")  # a browser would leave seconds of 0 out, which is another text
        if failed is not None:
            text = "\n".join(failed.fields.get(spec.name, [""]))
        if form.is_plain and spec.kind == "text":
            spec = replace(spec, kind="multiline", label="Your answer")
        found.append(
            Input(
                spec=spec, id=f"{'e' if is_edit else 'a'}{number}-{request}", value=text,
                problem=failed.reasons.get(spec.name, "") if failed is not None else "",
            )
        )  # fmt: skip
    return tuple(found)


def _attachments(row: Any) -> tuple[Attached, ...]:
    """The files of a message. Those that came with a person's own are only named: they have them, and some of the
    addresses need a provider's credentials."""
    files = _ATTACHMENTS.validate_json(row.attachments) if row.attachments else ()
    if row.inbound:
        return tuple(Attached(name=file.name or file.content_type) for file in files)
    return tuple(
        Attached(
            name=file_name(file),
            url=file.url if file.url.startswith(("http://", "https://")) else None,
            is_here=file.url.startswith("data:"),
        )
        for file in files
    )
