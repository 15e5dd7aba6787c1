"""Takes in what people decide: each attempt is judged under the request's lock, and goes on record whatever it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic_core import from_json, to_json
from sqlalchemy.engine import Connection

from wakeloop import asking, calls
from wakeloop.answers import Unreadable
from wakeloop.asking import RequestSpec, Settled
from wakeloop.desk import Desk
from wakeloop.errors import NotFound
from wakeloop.forms import Form, FormErrors, check, read_fields, read_text
from wakeloop.forms.dialogue import PENDING, Draft, advance, prompt
from wakeloop.granting import limits_for
from wakeloop.links import Links
from wakeloop.status import RequestStatus
from wakeloop.store import audit, grants
from wakeloop.store import requests as store
from wakeloop.verdicts import Reading, Verdict, read_verdict
from wakeloop.world import World

TRIES = 3
"""So many replies that cannot be read are asked again with the reason alone; then a link to the form goes with it."""

WORDS_LIMIT = 5000
"""So many characters of a form that was filled in go on record as they came."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who acts on a request. contact: whom they are taken for. channel: how it came. auth: how that is known, such as
    "provider's signature", "signed link" or "token backoffice". vouched: whether it is certain; an approval takes no word
    of one who is not."""

    contact: str | None
    channel: str
    auth: str
    vouched: bool = True


@dataclass(frozen=True, kw_only=True)
class Grant:
    """Approve all calls like this one for so many seconds; `limits` by argument: see `wakeloop.granting.limits_for`."""

    seconds: float
    limits: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What became of an attempt. accepted: whether it counted. status: how the request stands now. words: what happened,
    for logs and pages. say: what the person is to be told who made it by text, if anything."""

    accepted: bool
    status: RequestStatus
    words: str
    say: str | None = None


class Decisions:
    """Judges attempts to decide. Everything here is done in the caller's transaction.

    An attempt counts if the request is open and its time has not run out, and if it comes from a contact who was asked
    and may decide. The first settlement wins. Every attempt is appended to the audit record with who made it, how they
    were known, when, and the digest of the call that they saw. A request that is not there raises NotFound.
    """

    def __init__(self, *, world: World, desk: Desk, links: Links) -> None:
        self._world = world
        self._desk = desk
        self._links = links

    # ------------------------------------------------------------------ by text

    def reply(
        self, connection: Connection, id: UUID, actor: Actor, text: str, *, now: datetime, locked: Any = None
    ) -> Attempt:
        """Take what somebody wrote as their answer or verdict, if it is one. locked: the request, if it is locked already and
        nothing has changed it since."""
        opened = self._open(connection, id, actor, "reply", now, comment=text, locked=locked)
        if isinstance(opened, Attempt):
            return opened
        if opened.spec.is_approval:
            return self._read_verdict(opened, text)
        return self._read_answer(opened, text)

    def _read_verdict(self, opened: _Opened, text: str, *, is_comment: bool = False) -> Attempt:
        """`is_comment`: whatever it says, it is not meant as a verdict."""
        spec = opened.spec
        reading = Reading(verdict=Verdict.UNCLEAR, comment=text) if is_comment else read_verdict(text)
        if reading.verdict is Verdict.YES:
            return self._approve(opened, reading.comment)
        option = None if is_comment else _reason_in(text, spec.options)
        if option is not None:
            return self._deny(opened, "", option)
        if reading.verdict is Verdict.NO:
            return self._deny(opened, reading.comment, None)
        self._note(opened, "comment", "not a plain verdict", comment=text)
        code = opened.person.code if self._has_others(opened) else None
        return Attempt(
            accepted=False, status=RequestStatus.OPEN, words=f"a comment on request {opened.row.id}",
            say=asking.plain_text(spec, code),
        )  # fmt: skip

    def _read_answer(self, opened: _Opened, text: str) -> Attempt:
        form = opened.spec.answer_form
        draft = Draft.load(opened.person.draft) if opened.person.draft else Draft()
        is_begun = bool(draft.values or draft.left_out)
        try:
            if form.is_flat:
                draft, value = advance(form, draft, text)
                if value is PENDING:
                    self._keep_draft(opened, draft)
                    self._note(opened, "reply", "part of the answer")
                    return Attempt(
                        accepted=True, status=RequestStatus.OPEN,
                        words=f"a part of the answer to request {opened.row.id}", say=self._with_code(opened, prompt(form, draft)),
                    )  # fmt: skip
            else:
                value = read_text(text, form)
        except Unreadable as reason:
            return self._ask_again(opened, form, draft, str(reason), text)
        words = _in_words(value) if is_begun else text
        if text.startswith("#") and form.choices:  # a button, which stands for a choice
            words = next((choice.label for choice in form.choices if choice.value == value), text)
        return self._answer(opened, words, value)

    def _ask_again(self, opened: _Opened, form: Form, draft: Draft, reason: str, text: str) -> Attempt:
        draft = draft.tried_again()
        say = asking.again_text(opened.spec, reason, self._link_after(opened, draft))
        if form.is_flat:
            say = f"{say}\n{prompt(form, draft)}"
        say = self._with_code(opened, say)
        return self._unread(opened, draft, text, say)

    def _link_after(self, opened: _Opened, draft: Draft) -> str | None:
        """A link to the form for somebody who has tried often enough."""
        return self._links.page(opened.person.contact, opened.row.id) if draft.tries > TRIES else None

    def _unread(self, opened: _Opened, draft: Draft, text: str, say: str) -> Attempt:
        self._keep_draft(opened, draft)
        self._note(opened, "reply", "could not be read", comment=text)
        return Attempt(
            accepted=False, status=RequestStatus.OPEN,
            words=f"a reply to request {opened.row.id} that could not be read",
            say=say,
        )  # fmt: skip

    # ------------------------------------------------------------------ by form, button or program

    def press(
        self, connection: Connection, id: UUID, actor: Actor, word: str, *, comment: str = "",
        seen: str | None = None, now: datetime,
    ) -> Attempt:  # fmt: skip
        """Take the choice for which a button stands. comment: what they said besides, which is never read as a verdict.
        seen: how the digest begins of the call that the button's message showed; if another one applies by now, a yes does
        not count."""
        opened = self._open(
            connection, id, actor, "reply", now, comment=": ".join(filter(None, [word, comment]))
        )
        if isinstance(opened, Attempt):
            return opened
        spec = opened.spec
        label = next((label for label, stands_for, _ in asking.choices(spec) if stands_for == word), None)
        if label is None:  # of a message that was not ours, or of other times
            if spec.is_approval:
                return self._read_verdict(opened, comment or word, is_comment=True)
            return self._read_answer(opened, comment or word)
        # Some providers give the button's own words as what was said.
        remark = "" if _bare(comment) in (_bare(label), _bare(word)) else comment
        if not spec.is_approval:
            value = read_text(word, spec.answer_form)
            return self._answer(opened, label, value, comment=remark)
        if word == "yes":
            if seen is not None and not (opened.row.digest or "").startswith(f"{calls.DIGEST_PREFIX}{seen}"):
                return self._changed(opened, seen)
            return self._approve(opened, remark)
        number = word.removeprefix("no").strip()
        option = spec.options[int(number) - 1] if number else None
        return self._deny(opened, remark, option)

    def fill_in(
        self, connection: Connection, id: UUID, actor: Actor, values: Mapping[str, str], *, now: datetime
    ) -> Attempt:
        """Take a question's answer as the inputs of its form say it, by the names of the fields; what is wrong with them is
        told all at once."""
        words = _in_words(values)[:WORDS_LIMIT]
        opened = self._open(connection, id, actor, "answer", now, comment=words)
        if isinstance(opened, Attempt):
            return opened
        if opened.spec.is_approval:
            return self._read_verdict(opened, words, is_comment=True)
        form = opened.spec.answer_form
        try:
            value = read_fields(values, form)
        except Unreadable as problem:
            reasons = problem.reasons if isinstance(problem, FormErrors) else {"": str(problem)}
            draft = (Draft.load(opened.person.draft) if opened.person.draft else Draft()).tried_again()
            labels = {field.name: field.label for field in form.fields}
            lines = [
                f"{labels.get(name, name)}: {reason}" if name else reason for name, reason in reasons.items()
            ]
            link = self._link_after(opened, draft)
            easier = [] if link is None else [f"It may be easier on this page: {link}"]
            say = "\n".join(
                ["That could not be taken. Please correct it and send it again:", *lines, *easier]
            )
            say = self._with_code(opened, say)
            return self._unread(opened, draft, words, say)
        return self._answer(opened, _told(value, form, values), value)

    def answer(
        self, connection: Connection, id: UUID, actor: Actor, *, value: Any, text: str | None = None, now: datetime
    ) -> Attempt:  # fmt: skip
        """Take a question's answer as a JSON value. Raises Unreadable if it is not what was asked for."""
        opened = self._open(connection, id, actor, "answer", now, comment=text)
        if isinstance(opened, Attempt):
            return opened
        if opened.spec.is_approval:
            raise Unreadable("this is an approval: approve or deny it")
        value = check(value, opened.spec.answer_form)
        words = text if text is not None else value if isinstance(value, str) else to_json(value).decode()
        return self._answer(opened, words, value)

    def approve(
        self, connection: Connection, id: UUID, actor: Actor, *, now: datetime, comment: str = "",
        args: Mapping[str, Any] | None = None, grant: Grant | None = None, digest: str | None = None,
    ) -> Attempt:  # fmt: skip
        """Approve a call. args: its arguments as the person changed them, if they may. grant: approve those like it,
        too. digest: of the arguments that they saw; if others apply by now, it does not count.

        Raises Unreadable if the arguments are not what the function takes, or the grant makes no sense."""
        opened = self._open(connection, id, actor, "approve", now, comment=comment, digest=digest)
        if isinstance(opened, Attempt):
            return opened
        if not opened.spec.is_approval:
            raise Unreadable("this is a question: answer it")
        if digest is not None and digest != opened.row.digest:
            return self._changed(opened, digest)
        return self._approve(opened, comment, args, grant)

    def _changed(self, opened: _Opened, digest: str) -> Attempt:
        """They approve what they saw, and that is not the call any more."""
        self._note(opened, "approve", "refused: changed meanwhile", digest=digest)
        words = "refused: the arguments have changed since they were seen"
        return Attempt(accepted=False, status=RequestStatus.OPEN, words=words, say=words)

    def deny(
        self, connection: Connection, id: UUID, actor: Actor, *, now: datetime, comment: str = "",
        option: str | None = None,
    ) -> Attempt:  # fmt: skip
        """Deny a call, with a comment and one of the options for it. Raises Unreadable for another option."""
        opened = self._open(connection, id, actor, "deny", now, comment=comment)
        if isinstance(opened, Attempt):
            return opened
        if not opened.spec.is_approval:
            raise Unreadable("this is a question: answer it")
        if option is not None and option not in opened.spec.options:
            raise Unreadable("the reason is one of: " + asking.numbered(opened.spec.options))
        return self._deny(opened, comment, option)

    def comment(self, connection: Connection, id: UUID, actor: Actor, text: str, *, now: datetime) -> Attempt:
        """Put a remark on record."""
        opened = self._open(connection, id, actor, "comment", now, comment=text)
        if isinstance(opened, Attempt):
            return opened
        self._note(opened, "comment", "noted", comment=text)
        return Attempt(accepted=True, status=RequestStatus.OPEN, words="noted")

    def cancel(
        self, connection: Connection, id: UUID, actor: Actor, *, now: datetime, reason: str = ""
    ) -> Attempt:  # fmt: skip
        """End a request undecided, by whoever made it or an operator: those who were asked are told."""
        row = store.lock(connection, id)
        if row is None:
            raise _unknown(id)
        if row.status != RequestStatus.OPEN:
            return self._late(connection, row, actor, "cancel", now)
        _record(connection, id, actor, "cancel", "counted", now, comment=reason or None)
        settled = Settled(
            status=RequestStatus.CANCELLED, at=now, by=actor.contact, reason=reason or "cancelled"
        )
        self._desk.end(connection, row, RequestSpec.model_validate_json(row.spec), settled, now=now)
        return Attempt(accepted=True, status=RequestStatus.CANCELLED, words="cancelled")

    # ------------------------------------------------------------------ what counts

    def _open(
        self, connection: Connection, id: UUID, actor: Actor, act: str, now: datetime, *,
        comment: str | None = None, digest: str | None = None, locked: Any = None,
    ) -> _Opened | Attempt:  # fmt: skip
        """The request under its lock, if this actor may decide it now; else what is said instead, on record."""
        row = locked if locked is not None else store.lock(connection, id)
        if row is None:
            raise _unknown(id)
        spec = RequestSpec.model_validate_json(row.spec)
        if row.status == RequestStatus.OPEN and row.expires_at is not None and row.expires_at <= now:
            self._desk.expire(connection, row, spec, now)
            row = store.find(connection, id)
            assert row is not None
        person = None
        if actor.contact is not None:
            person = store.one_of_contact(connection, actor.contact, id)
        if person is None or not self._desk.allowed(spec, [person.contact]):
            _record(connection, id, actor, act, "refused: not asked", now, digest=digest, comment=comment)
            words = f"refused: {actor.contact or 'nobody known'} may not decide request {id}"
            say = None if person is None else f"You may not decide about this: {spec.title}"
            return Attempt(accepted=False, status=RequestStatus(row.status), words=words, say=say)
        if row.status != RequestStatus.OPEN:
            return self._late(connection, row, actor, act, now, comment=comment, digest=digest)
        opened = _Opened(connection=connection, actor=actor, now=now, row=row, spec=spec, person=person)
        if spec.is_approval and not actor.vouched:
            return self._unverified(opened, act, comment)
        return opened

    def _unverified(self, opened: _Opened, act: str, comment: str | None) -> Attempt:
        """Nobody knows who really sent this: it decides nothing, whatever it says and whatever it carries."""
        self._note(opened, act, "refused: sender not verified", comment=comment)
        link = self._links.page(opened.person.contact, opened.row.id)
        where = f"Please decide on your page: {link}" if link else "Please decide on another channel."
        return Attempt(
            accepted=False, status=RequestStatus.OPEN,
            words=f"refused: the sender of a word on request {opened.row.id} could not be verified",
            say=f"It could not be verified that this message is from you, so it decides nothing: {opened.spec.title}\n{where}",
        )  # fmt: skip

    def _late(
        self, connection: Connection, row: Any, actor: Actor, act: str, now: datetime, *,
        comment: str | None = None, digest: str | None = None,
    ) -> Attempt:  # fmt: skip
        _record(connection, row.id, actor, act, f"late: {row.status}", now, digest=digest, comment=comment)
        settled = Settled.model_validate_json(row.outcome) if row.outcome else None
        name = self._desk.name(settled.by) if settled is not None and settled.by != actor.contact else None
        if settled is not None and settled.by is not None and settled.by == actor.contact:
            name = "you"
        spec = RequestSpec.model_validate_json(row.spec)
        return Attempt(
            accepted=False, status=RequestStatus(row.status), words=f"too late for request {row.id} ({row.status})",
            say=asking.late_text(spec, row.status, name),
        )  # fmt: skip

    def _answer(self, opened: _Opened, text: str, value: Any, *, comment: str = "") -> Attempt:
        noted = ": ".join(filter(None, [text, comment]))
        self._note(opened, "answer", "counted", comment=noted)
        settled = Settled(
            status=RequestStatus.ANSWERED,
            text=text,
            value=value,
            by=opened.actor.contact,
            channel=opened.actor.channel,
            at=opened.now,
            comment=comment,
        )
        self._end(opened, settled)
        return Attempt(
            accepted=True, status=RequestStatus.ANSWERED, words=f"the answer to request {opened.row.id}"
        )

    def _approve(
        self, opened: _Opened, comment: str, args: Mapping[str, Any] | None = None, grant: Grant | None = None
    ) -> Attempt:
        connection, row, spec = opened.connection, opened.row, opened.spec
        arguments, digest = from_json(row.args or "{}"), row.digest
        edited = False
        if args is not None and dict(args) != arguments:
            arguments = self._edited(opened, args)
            digest, edited = calls.digest(spec.action or "", arguments), True
            spec = asking.with_brief(spec, arguments)
            kept = spec.model_dump_json(exclude_defaults=True)
            store.set_args(connection, row.id, kept, to_json(arguments).decode(), digest)
            self._note(opened, "edit", "counted", digest=digest)
        self._note(opened, "approve", "counted", comment=comment, digest=digest)
        if grant is not None:
            self._grant(opened, grant, arguments)
        store.set_vote(connection, row.id, opened.person.contact, digest)
        people = store.recipients_of(connection, row.id)
        approvers = [person.contact for person in people if person.vote == digest]
        if len(approvers) < spec.quorum:
            if edited:
                self._tell_edit(opened, arguments)
            left = spec.quorum - len(approvers)
            words = f"approved by {len(approvers)} of {spec.quorum}; {left} more must approve it"
            return Attempt(accepted=True, status=RequestStatus.OPEN, words=words, say=f"Noted: {words}.")
        settled = Settled(
            status=RequestStatus.APPROVED, by=opened.actor.contact, channel=opened.actor.channel, at=opened.now,
            comment=comment, args=arguments, edited=edited or self._was_edited(connection, row.id), approvers=tuple(approvers),
            digest=digest,
        )  # fmt: skip
        self._desk.end(connection, row, spec, settled, now=opened.now)
        return Attempt(
            accepted=True, status=RequestStatus.APPROVED, words=f"request {row.id} approved",
            say=f"Approved: {spec.title}",
        )  # fmt: skip

    def _edited(self, opened: _Opened, args: Mapping[str, Any]) -> dict[str, Any]:
        form = opened.spec.edit_form
        if form is None:
            raise Unreadable("the arguments of this call cannot be changed: approve it as it is, or deny it")
        value = check(dict(args), form)
        assert isinstance(value, dict)
        return value

    def _was_edited(self, connection: Connection, id: UUID) -> bool:
        return any(line.act == "edit" for line in audit.of_request(connection, id))

    def _tell_edit(self, opened: _Opened, arguments: dict[str, Any]) -> None:
        """Somebody changed the arguments, and others must approve too: ask them about the new ones."""
        name = self._desk.name(opened.person.contact)
        for person in store.recipients_of(opened.connection, opened.row.id):
            if person.contact != opened.person.contact:
                self._desk.ask_changed(
                    opened.connection, opened.row, opened.spec, person, arguments, f"Changed by {name}: ", opened.now
                )  # fmt: skip

    def _grant(self, opened: _Opened, grant: Grant, arguments: dict[str, Any]) -> None:
        if not 0 < grant.seconds <= 366 * 86400:
            raise Unreadable("a grant is for more than nothing and at most a year")
        try:
            limits = limits_for(arguments, grant.limits)
        except ValueError as error:
            raise Unreadable(str(error)) from error
        id = self._world.ids.new_id()
        grants.add(
            opened.connection, id, action=opened.spec.action or "",
            origin=self._desk.origin(opened.row), contact=opened.person.contact,
            limits=to_json(limits).decode(), request_id=opened.row.id, now=opened.now,
            expires_at=opened.now + timedelta(seconds=grant.seconds),
        )  # fmt: skip
        self._note(opened, "grant", f"grant {id}")

    def _deny(self, opened: _Opened, comment: str, option: str | None) -> Attempt:
        self._note(opened, "deny", "counted", comment=": ".join(filter(None, [option, comment])))
        settled = Settled(
            status=RequestStatus.DENIED, by=opened.actor.contact, channel=opened.actor.channel, at=opened.now,
            comment=comment, option=option, digest=opened.row.digest,
        )  # fmt: skip
        self._end(opened, settled)
        return Attempt(
            accepted=True, status=RequestStatus.DENIED, words=f"request {opened.row.id} denied",
            say=f"Denied: {opened.spec.title}",
        )  # fmt: skip

    # ------------------------------------------------------------------ small things

    def _note(
        self, opened: _Opened, act: str, result: str, *, comment: str | None = None, digest: str | None = None
    ) -> None:
        _record(
            opened.connection, opened.row.id, opened.actor, act, result, opened.now,
            digest=digest or opened.row.digest, comment=comment or None,
        )  # fmt: skip

    def _keep_draft(self, opened: _Opened, draft: Draft) -> None:
        store.set_draft(opened.connection, opened.row.id, opened.person.contact, draft.dump())

    def _end(self, opened: _Opened, settled: Settled) -> None:
        self._desk.end(opened.connection, opened.row, opened.spec, settled, now=opened.now)

    def _with_code(self, opened: _Opened, text: str) -> str:
        if not self._has_others(opened):
            return text
        return f"{text}\n(Reply {opened.person.code} and your answer.)"

    def _has_others(self, opened: _Opened) -> bool:
        return len(store.open_of_contact(opened.connection, opened.person.contact)) > 1


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """An open request under its lock, with who acts on it and when. person: which of those asked that is."""

    connection: Connection
    actor: Actor
    now: datetime
    row: Any
    spec: RequestSpec
    person: Any


def _record(
    connection: Connection, id: UUID, actor: Actor, act: str, result: str, now: datetime, *,
    digest: str | None = None, comment: str | None = None,
) -> None:  # fmt: skip
    audit.append(
        connection, id, at=now, act=act, result=result, contact=actor.contact, channel=actor.channel, auth=actor.auth,
        digest=digest, comment=comment,
    )  # fmt: skip


def _in_words(value: Mapping[str, Any]) -> str:
    """What somebody said in several messages: a line for each field."""
    return "\n".join(
        f"{name}: {part if isinstance(part, str) else to_json(part).decode()}" for name, part in value.items()
    )


def _told(value: Any, form: Form, values: Mapping[str, str]) -> str:
    """The answer of a form in words: a line for each field, or what the only one says."""
    if isinstance(value, Mapping):
        return _in_words(value)
    label = next((choice.label for choice in form.choices if choice.value == value), None)
    return label or next(iter(values.values()), "").strip()


def _reason_in(text: str, options: tuple[str, ...]) -> str | None:
    """The reason for a no that a text names and nothing else: by its words, or after a no by its words or its number."""
    plain = _bare(text)
    for number, option in enumerate(options, start=1):
        if plain == _bare(option):
            return option
        for ending in (_bare(option), str(number)):
            before = plain.removesuffix(ending)
            if before != plain and before[-1:].strip() == "" and read_verdict(before).verdict is Verdict.NO:
                return option
    return None


def _bare(text: str) -> str:
    return " ".join(text.casefold().replace(",", " ").split()).strip(".!;:#()\"' ")


def _unknown(id: UUID) -> NotFound:
    return NotFound(f"there is no request {id}")
