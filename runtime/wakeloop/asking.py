"""What is asked of people: the question or approval as data, its timetable, and the words in which it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from wakeloop.calls import shown
from wakeloop.forms import FieldSpec, Form

SHORT_CHARACTERS = 100


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class EscalationStep(_Record):
    """`after` seconds from when it was first asked, `to` is asked as well (by default those who were asked first),
    through `via` if that is given."""

    after: float
    to: str | None = None
    via: str | None = None


class RequestSpec(_Record):
    """What is asked of whom, fixed when it is made.

    to: contacts and groups. brief: what tells it from others like it, in a line. options: what a question may be answered with, or an approval be denied for. form: what an
    answer must look like (`wakeloop.forms.Form` as JSON); None for any words. action, args, args_form: of an approval,
    the function and its arguments; args_form is there if they may be edited. quorum: how many must approve the same
    arguments. requester: a contact who may not decide, being the one on whose behalf it is asked. timeout, remind:
    seconds. urgent: in quiet hours too.
    """

    kind: Literal["question", "approval"]
    to: tuple[str, ...]
    text: str
    brief: str | None = None
    subject: str | None = None
    via: str | None = None
    urgent: bool = False
    options: tuple[str, ...] = ()
    form: str | None = None
    action: str | None = None
    args: dict[str, JsonValue] | None = None
    args_form: str | None = None
    quorum: int = Field(default=1, ge=1)
    requester: str | None = None
    timeout: float | None = None
    remind: float | None = Field(default=None, gt=0)
    escalate: tuple[EscalationStep, ...] = ()

    @property
    def is_approval(self) -> bool:
        return self.kind == "approval"

    @property
    def title(self) -> str:
        """What it is about, in a line."""
        return short(self.brief or self.text)

    @property
    def answer_form(self) -> Form:
        """What an answer must look like; any words if nothing else was said."""
        return Form() if self.form is None else Form.load(self.form)

    @property
    def edit_form(self) -> Form | None:
        """The form of the arguments, if people may change them."""
        return None if self.args_form is None else Form.load(self.args_form)


class Settled(_Record):
    """How a request ended, as whoever waits for it is told.

    status: of the request. text: the words of an answer. value: what they mean, as JSON. by, channel, at: who decided,
    how they said so and when. comment, option: what stood beside a verdict. args, edited, approvers, digest: of an
    approval, the arguments that were approved, whether a person changed them, everybody who approved them, and the name
    of the call. reason: why it ended without anybody's word.
    """

    status: str
    text: str = ""
    value: JsonValue = None
    by: str | None = None
    channel: str | None = None
    at: AwareDatetime
    comment: str = ""
    option: str | None = None
    args: dict[str, JsonValue] | None = None
    edited: bool = False
    approvers: tuple[str, ...] = ()
    digest: str | None = None
    reason: str | None = None
    undeliverable: bool = False


# ---------------------------------------------------------------------- the timetable


class Due(StrEnum):
    """What is next on a request's timetable."""

    ASK = "ask"
    REMIND = "remind"
    ESCALATE = "escalate"
    EXPIRE = "expire"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a request has come on its timetable. `asked_at` is None until it was first asked."""

    created_at: datetime
    expires_at: datetime | None
    asked_at: datetime | None
    reminders: int = 0
    escalations: int = 0


def next_due(spec: RequestSpec, progress: Progress) -> tuple[datetime, Due] | None:
    """What comes next and when; of several at one time the end comes first, and an escalation before a reminder."""
    coming: list[tuple[datetime, int, Due]] = []
    if progress.expires_at is not None:
        coming.append((progress.expires_at, 0, Due.EXPIRE))
    if progress.asked_at is None:
        coming.append((progress.created_at, 1, Due.ASK))
    else:
        if progress.escalations < len(spec.escalate):
            step = spec.escalate[progress.escalations]
            coming.append((progress.asked_at + timedelta(seconds=step.after), 2, Due.ESCALATE))
        if spec.remind is not None:
            after = timedelta(seconds=spec.remind * (progress.reminders + 1))
            coming.append((progress.asked_at + after, 3, Due.REMIND))
    if not coming:
        return None
    at, _, what = min(coming, key=lambda one: one[:2])
    return at, what


# ---------------------------------------------------------------------- the words


@dataclass(frozen=True, kw_only=True)
class HowToReply:
    """What a person must know to answer by text. code: the one to name, if this is not their only open request.
    earlier: what else is open that they were told no code of, as (code, title). link: a page with the whole."""

    code: str | None = None
    earlier: Sequence[tuple[str, str]] = ()
    link: str | None = None


def question_text(spec: RequestSpec, prompt: str, how: HowToReply) -> str:
    """A question as a text message; `prompt` tells what is expected, and is empty for plain words."""
    lines = [spec.text]
    if spec.options:
        lines.append(numbered(spec.options))
    if prompt:
        lines.append(prompt)
    if how.link is not None:
        lines.append(how.link)
    if how.code is not None:
        lines.append(f"(Reply {how.code} and your answer.)")
    return "\n".join([*lines, *_earlier(how)])


def approval_text(spec: RequestSpec, arguments: str, how: HowToReply) -> str:
    """An approval as a text message; `arguments` shows them, one to a line."""
    lines = [spec.text, *([arguments] if arguments else [])]
    named = f"{how.code} " if how.code is not None else ""
    lines.append(f"Reply {named}yes or {named}no.")
    if spec.options:
        lines.append("Reasons for no: " + numbered(spec.options))
    if how.link is not None:
        lines.append(("To see all or change it: " if spec.args_form else "All of it: ") + how.link)
    return "\n".join([*lines, *_earlier(how)])


def _earlier(how: HowToReply) -> list[str]:
    return [f"(For “{title}” reply {code} and your answer.)" for code, title in how.earlier]


def again_text(spec: RequestSpec, reason: str, link: str | None) -> str:
    """Tells why a reply could not be taken, and asks again."""
    lines = [f"That could not be read ({reason}). {spec.text}"]
    if link is not None:
        lines.append(f"It may be easier on this page: {link}")
    return "\n".join(lines)


def plain_text(spec: RequestSpec, code: str | None) -> str:
    """Asks for a plain verdict, after words that may have been meant as one."""
    named = f"{code} " if code is not None else ""
    return f"Noted as a comment. To decide, please reply just {named}yes or {named}no: {spec.title}"


def ended_text(spec: RequestSpec, settled: Settled, name: str | None) -> str:
    """Tells somebody who was asked that their answer is no longer needed. `name`: who decided, as people call them."""
    what = f"“{spec.title}”"
    match settled.status:
        case "answered":
            return f"No answer needed any more, {name or 'somebody'} has answered: {what}"
        case "approved" | "denied":
            return f"{settled.status.capitalize()} by {name or 'somebody'}, nothing more to do: {what}"
        case "expired":
            return f"The time for this has run out: {what}"
        case _:
            return f"No longer needed: {what}"


def outcome_line(settled: Settled, by: str | None) -> str:
    """How a request ended, in a line, for a message that asked it. `by`: who decided, as people call them."""
    who = by or "somebody"
    why = ": ".join(part for part in (settled.option, settled.comment) if part)
    match settled.status:
        case "answered":
            return (
                f"Answered by {who}: {short(settled.text)}" if settled.text.strip() else f"Answered by {who}."
            )
        case "approved":
            changed = ", with changes" if settled.edited else ""
            return f"Approved by {who}{changed}{f': {short(why)}' if why else '.'}"
        case "denied":
            return f"Denied by {who}{f': {short(why)}' if why else '.'}"
        case "expired":
            return "Expired."
        case _:
            return "Withdrawn."


def late_text(spec: RequestSpec, status: str, name: str | None) -> str:
    """Tells somebody whose word came after the end what happened."""
    what = f"“{spec.title}”"
    by = f" by {name}" if name else ""
    match status:
        case "answered":
            return f"That question is closed: it was answered{by}: {what}"
        case "approved" | "denied":
            return f"That request is closed: it was {status}{by}: {what}"
        case "expired":
            return f"That came too late: the time had run out (expired), nobody decided: {what}"
        case _:
            return f"That request is closed ({status}): it is no longer needed: {what}"


def with_brief(spec: RequestSpec, args: Mapping[str, Any]) -> RequestSpec:
    """The spec with what tells one call of a function from another: its arguments, as far as they fit a line."""
    told = ", ".join(f"{name} {' '.join(text.split())}" for name, text, _ in shown(args, limit=40))
    return spec.model_copy(update={"brief": short(f"{spec.text} ({told})")}) if told else spec


def choices(spec: RequestSpec) -> list[tuple[str, str, str]]:
    """What may be pressed instead of typed: the label, the words that it stands for, and what kind of choice it is."""
    if spec.is_approval:
        reasons = [
            (f"No: {option}", f"no {number}", "no") for number, option in enumerate(spec.options, start=1)
        ]
        return [("Yes", "yes", "yes"), ("No", "no", "no"), *reasons]
    if spec.options:
        return [(option, f"#{number}", "") for number, option in enumerate(spec.options, start=1)]
    if spec.answer_form.shape.kind == "boolean":
        return [("Yes", "yes", "yes"), ("No", "no", "no")]
    return []


def inputs(spec: RequestSpec) -> tuple[FieldSpec, ...]:
    """What may be filled in instead of typed: of a question with a form that is no plain choice."""
    if spec.is_approval or choices(spec) or spec.answer_form.is_plain:
        return ()
    return spec.answer_form.fields


def schema_like(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON Schema of arguments like these: the same names, and values of the same types."""
    return {
        "type": "object",
        "properties": {name: _type_of(value) for name, value in arguments.items()},
        "required": list(arguments),
        "additionalProperties": False,
    }


def _type_of(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"type": "boolean"}
        case int() | float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array"}
        case dict():
            return {"type": "object"}
        case _:
            return {}


def numbered(options: Sequence[str]) -> str:
    """The options as people see them: "1 yes, 2 no"."""
    return ", ".join(f"{number} {option}" for number, option in enumerate(options, start=1))


def short(text: str) -> str:
    """A text in one line of at most SHORT_CHARACTERS."""
    line = " ".join(text.split())
    return line if len(line) <= SHORT_CHARACTERS else line[: SHORT_CHARACTERS - 1] + "…"
