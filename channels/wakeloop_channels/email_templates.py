"""The templates that messages are made from: those that come with the channel, and a user's own in place of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import (
    ChoiceLoader,
    FileSystemLoader,
    PrefixLoader,
    StrictUndefined,
    TemplateSyntaxError,
    select_autoescape,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from wakeloop.channel import Field, Outgoing
from wakeloop.errors import ConfigurationError

BUILT_IN = Path(__file__).parent / "templates" / "email"
TEXT, HTML = "message.txt", "message.html"

_INPUTS: Mapping[str, str] = {
    "text": "text",
    "multiline": "text; of a list, one entry a line",
    "integer": "a whole number",
    "number": "a number",
    "checkbox": "yes or no",
    "date": "a date, as in 2026-11-28",
    "datetime-local": "a date and time, as in 2026-11-28T14:30",
    "time": "a time, as in 14:30",
    "json": "JSON",
}


class Templates:
    """Makes the text and the HTML of a message. folder: a user's own, whose `message.txt` and `message.html` are taken
    instead of ours; they can build on ours, as `wakeloop/message.txt` and `wakeloop/message.html`. What they may do is
    limited (Jinja's sandbox), whatever is put into HTML is escaped, and a name that does not exist is an error.

    Raises ConfigurationError if a template is broken: each is tried with every kind of message there is."""

    def __init__(self, folder: Path | None = None) -> None:
        own = [FileSystemLoader(folder)] if folder is not None else []
        built_in = FileSystemLoader(BUILT_IN)
        self._environment = ImmutableSandboxedEnvironment(
            loader=ChoiceLoader([*own, built_in, PrefixLoader({"wakeloop": built_in})]),
            autoescape=select_autoescape(enabled_extensions=("html",), default_for_string=False),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        for name in (TEXT, HTML):
            for facts in _SAMPLES:
                self._try(name, facts, folder)

    def render(
        self, message: Outgoing, *, text: str, subject: str, sender: str, files: Sequence[tuple[str, str]]
    ) -> tuple[str, str]:
        """The text and the HTML of a message. files: (name, address) of those that are not attached."""
        facts = {
            "text": text,
            "paragraphs": [part.strip("\n") for part in text.split("\n\n") if part.strip()],
            "subject": subject,
            "sender": sender,
            "kind": message.kind,
            "link": message.link,
            "buttons": _buttons(message),
            "fields": [_described(one) for one in message.fields],
            "files": [{"name": name, "url": url} for name, url in files],
        }
        plain, html = (self._environment.get_template(name).render(facts) for name in (TEXT, HTML))
        return plain.strip("\n") + "\n", html

    def _try(self, name: str, facts: Mapping[str, Any], folder: Path | None) -> None:
        try:
            self._environment.get_template(name).render(facts)
        except TemplateSyntaxError as error:
            where = f"{error.filename or error.name or name}, line {error.lineno}"
            raise ConfigurationError(
                f"A template of the email channel is broken: {where}: {error.message}"
            ) from error
        except Exception as error:
            place = f"{name} in {folder}" if folder is not None else name
            raise ConfigurationError(
                f"A template of the email channel cannot be used: {place}: {error}. What templates are given is listed in "
                "docs/channels/email.md; set channels.email.templates to the folder that they are in."
            ) from error


def _buttons(message: Outgoing) -> list[dict[str, str]]:
    """What can be chosen on the page; an approval always can be given or denied."""
    if message.kind == "approval" and not message.buttons:
        return _VERDICTS
    return [{"label": one.label, "style": one.style} for one in message.buttons]


def _described(field: Field) -> dict[str, str]:
    """A field in words: what it is called, and what is expected."""
    kind = _INPUTS.get(field.kind, field.kind)
    if field.choices:
        kind = "one of: " + ", ".join(label for _, label in field.choices)
    hints = [kind, *([] if field.required else ["optional"])]
    if field.default:
        hints.append(f"{field.default} if nothing else is said")
    return {"label": field.label, "description": field.description, "hint": "; ".join(hints)}


def _sample(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "text": "Ship it?\n\nIt is ready.", "paragraphs": ["Ship it?", "It is ready."], "subject": "Ship it?",
        "sender": "Example agents", "kind": "", "link": None, "buttons": [], "fields": [], "files": [],
    }  # fmt: skip
    return plain | changes


_VERDICTS = [{"label": "Approve", "style": "yes"}, {"label": "Deny", "style": "no"}]
_FIELDS = [
    _described(Field(name="at", label="When", kind="date", description="The day of it", default="2026-11-28"))
]
_SAMPLES: Sequence[Mapping[str, Any]] = (
    _sample(),
    _sample(files=[{"name": "plan.pdf", "url": "https://example.com/plan.pdf"}]),
    _sample(kind="question", link="https://example.com/people/1", fields=_FIELDS),
    _sample(kind="approval", link="https://example.com/people/1", buttons=_VERDICTS),
    _sample(kind="approval", sender=""),
)
