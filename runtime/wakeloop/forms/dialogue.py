"""Filling in a form by text messages: what to ask next, and taking one reply at a time.

The caller keeps the draft between messages::

    prompt(form, draft)                                   # "1/3 amount (a whole number, at least 1)?"
    try:
        draft, value = advance(form, draft, text)
    except Unreadable as reason:
        draft = draft.tried_again()                       # after a few tries, hand over a link to the page
    if value is PENDING: ...                              # ask again, with prompt(form, draft)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal

from wakeloop.answers import Unreadable
from wakeloop.forms.fields import shown_default
from wakeloop.forms.form import Form, describe, read_text
from wakeloop.forms.reading import MISSING, Leaf, assembled, checked, field_line, humanised, read_leaf
from wakeloop.forms.schema import describe_shape
from wakeloop.forms.text import read_json


class Pending(Enum):
    """That there is no value yet: fields are still to be asked."""

    PENDING = "pending"


PENDING: Final = Pending.PENDING


@dataclass(frozen=True, kw_only=True)
class Draft:
    """How far a dialogue has come: the JSON values of the fields answered, by name; the names of those left out; and
    how many replies to the current field could not be read."""

    values: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    tries: int = 0

    def tried_again(self) -> Draft:
        """The draft after a reply that could not be read."""
        return replace(self, tries=self.tries + 1)

    def dump(self) -> str:
        """The draft as JSON text."""
        data = {"values": dict(self.values), "left_out": self.left_out, "tries": self.tries}
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def load(cls, text: str) -> Draft:
        """The draft again."""
        data = json.loads(text)
        return cls(values=data["values"], left_out=tuple(data["left_out"]), tries=data["tries"])


def prompt(form: Form, draft: Draft) -> str:
    """What to ask next: the field's place, label, description and what is expected of it, as in
    "1/3 amount (a whole number, at least 1)?". For a form that is not flat, all that is expected, as `describe` has it;
    empty for plain text, and when nothing is left to ask."""
    if not form.is_flat:
        return describe(form)
    leaves = form.leaves
    if (leaf := _current(leaves, draft)) is None:
        return ""
    label = leaf.label[:1].lower() + leaf.label[1:] if leaf.label == humanised(leaf.path[-1]) else leaf.label
    told = f": {leaf.description}" if leaf.description else ""
    expected = describe_shape(leaf.shape if leaf.required else replace(leaf.shape, nullable=False))
    return f"{leaves.index(leaf) + 1}/{len(leaves)} {label}{told} ({expected}{_unless(leaf)})?"


def advance(form: Form, draft: Draft, text: str) -> tuple[Draft, Any | Literal[Pending.PENDING]]:
    """Take one reply: the draft after it, and the form's JSON value, or PENDING while fields are left to ask.

    A reply is the value of the current field; or lines "field: value", or a JSON object, for any fields, also to correct
    earlier ones. Nothing is taken of a reply that cannot be read in part. "-" leaves out a field that is not required.
    `tries` counts from 0 again for each field. A form that is not flat is read as a whole, by `read_text`.

    Raises Unreadable with what to tell the person; the draft that the caller keeps is then `draft.tried_again()`."""
    if not form.is_flat:
        return Draft(), read_text(text, form)
    leaves = form.leaves
    current = _current(leaves, draft)
    read = dict(_read(text, leaves, current, form))
    values = {name: value for name, value in {**draft.values, **read}.items() if value is not MISSING}
    left_out = tuple(
        leaf.name
        for leaf in leaves
        if leaf.name not in values and (leaf.name in draft.left_out or leaf.name in read)
    )
    draft = Draft(values=values, left_out=left_out, tries=draft.tries)
    following = _current(leaves, draft)
    if following is not None:
        return (draft if following is current else replace(draft, tries=0)), PENDING
    whole = assembled({leaf.path: values[leaf.name] for leaf in leaves if leaf.name in values}, leaves)
    return replace(draft, tries=0), checked(whole, form.shape)


def _current(leaves: Sequence[Leaf], draft: Draft) -> Leaf | None:
    done = {*draft.values, *draft.left_out}
    return next((leaf for leaf in leaves if leaf.name not in done), None)


def _unless(leaf: Leaf) -> str:
    """What a dash stands for, of a field that is not required."""
    if leaf.required:
        return ""
    return f"; - for {default}" if (default := shown_default(leaf)) else "; - to leave it out"


def _read(text: str, leaves: Sequence[Leaf], current: Leaf | None, form: Form) -> list[tuple[str, Any]]:
    # The reply is bounded, and of characters that can be stored, before anything looks into it.
    words = read_text(text, Form())
    if words.startswith("{"):
        return _of_json(words, leaves)
    named = [field_line(line, leaves) for line in words.splitlines() if line.strip()]
    if named and None not in named:
        return [(found[0].name, read_leaf(found[1], found[0])) for found in named if found is not None]
    if current is None:
        names = ", ".join(leaf.name for leaf in leaves)
        raise Unreadable(f'to change an answer, write a line "field: value"; the fields are {names}')
    return [(current.name, read_leaf(words, current))]


def _of_json(words: str, leaves: Sequence[Leaf]) -> list[tuple[str, Any]]:
    try:
        whole = read_json(words)
    except Unreadable as reason:
        raise Unreadable(f"the text {reason}") from reason
    found = []
    for leaf in leaves:
        part = whole
        for key in leaf.path:
            part = part.get(key, MISSING) if isinstance(part, dict) else MISSING
        if part is not MISSING:
            try:
                found.append((leaf.name, checked(part, leaf.shape)))
            except Unreadable as reason:
                raise Unreadable(f"{leaf.name}: {reason}") from reason
    if not found:
        raise Unreadable(f"none of the fields is in it; they are {', '.join(leaf.name for leaf in leaves)}")
    return found
