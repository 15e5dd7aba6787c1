"""People as tools: functions whose names, signatures and docstrings say to a model whom it asks, and how."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from wakeloop.errors import ConfigurationError
from wakeloop.people import Card

F = TypeVar("F", bound=Callable[..., Any])
T_co = TypeVar("T_co", covariant=True)

NAME_CHARACTERS = 64
"""The longest name of a tool that the APIs of models take; of characters, they take letters, digits, _ and -."""
HASH_CHARACTERS = 8
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ODD = re.compile(r"[^a-zA-Z0-9_-]+")
_MISLEADING = re.compile(rf"_by_|_[0-9a-f]{{{HASH_CHARACTERS}}}$")


class HumanTool(Protocol[T_co]):
    """A function that asks one person."""

    __name__: str

    def __call__(self, message: str) -> T_co: ...


class AnyHumanTool(Protocol[T_co]):
    """A function that asks the person who is named."""

    __name__: str

    def __call__(self, message: str, contact: str) -> T_co: ...


def tool_name(contact: str | None, via: str | None) -> str:
    """The name of the tool that asks this contact by this channel: `contact_human_marketing_by_sms`.

    At most 64 of the characters that models' APIs take, and always the same. No two contacts or channels share a name: an
    id that had to be changed, or that reads like a part of another name, is followed by a hash of what it was."""
    parts = ["contact_human"]
    if contact is not None:
        parts.append(_ODD.sub("_", contact))
    if via is not None:
        parts += ["by", _ODD.sub("_", via)]
    name = "_".join(parts)
    given = [one for one in (contact, via) if one is not None]
    is_plain = all(_NAME.fullmatch(one) and not _MISLEADING.search(one) for one in given)
    is_plain = is_plain and not (contact or "").startswith("by_")
    if is_plain and len(name) <= NAME_CHARACTERS:
        return name
    mark = hashlib.sha256(f"{contact!r} {via!r}".encode()).hexdigest()[:HASH_CHARACTERS]
    return f"{name[: NAME_CHARACTERS - HASH_CHARACTERS - 1]}_{mark}"


def person(card: Card) -> str:
    """A contact in a line, for a model: never an address."""
    told = card.name if card.name == card.id else f"{card.name} ({card.id})"
    about = " ".join(card.description.split())
    return f"{told}: {about}" if about else told


@dataclass(frozen=True, kw_only=True)
class ToolShape:
    """What a tool is seen as: name, docstring, parameters with their types, and what it gives."""

    name: str
    doc: str
    parameters: dict[str, Any]
    returns: Any

    def dress(self, function: F, module: str) -> F:
        """The function with all of it, for `inspect`, `typing` and the frameworks that build on them."""
        made: Any = function
        made.__name__ = made.__qualname__ = self.name
        made.__module__ = module
        made.__doc__ = self.doc
        made.__annotations__ = {**self.parameters, "return": self.returns}
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        made.__signature__ = inspect.Signature(
            [inspect.Parameter(name, kind, annotation=type_) for name, type_ in self.parameters.items()],
            return_annotation=self.returns,
        )
        return function


def tool_shape(
    contact: str | None,
    *,
    via: str | None,
    name: str | None,
    description: str | None,
    answer: Any,
    options: Sequence[Any] | None,
    cards: Sequence[Card] | None,
) -> ToolShape:
    """What the tool that asks a contact (or, for None, anybody) is seen as. cards: who is known, if that is.

    Raises ConfigurationError for a name that models' APIs do not take."""
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name of a tool: up to {NAME_CHARACTERS} letters, digits, _ and -"
        )
    if contact is not None and (not isinstance(contact, str) or not contact):
        raise ConfigurationError(f"human_as_tool({contact!r}): give the id of one contact or group")
    by_id = {card.id: card for card in cards or ()}
    parameters: dict[str, Any] = {"message": str}
    arguments = ["message: What to ask, with all they need to know to answer. They see nothing but this."]
    if contact is None:
        parameters["contact"] = Literal[tuple(by_id)] if by_id else str
        arguments.append("contact: Whom to ask, by id." + _listed(list(by_id.values())))
    return ToolShape(
        name=name or tool_name(contact, via),
        doc=_doc(description or _about(contact, via, by_id), arguments, _gives(answer, options)),
        parameters=parameters,
        returns=answer,
    )


def _about(contact: str | None, via: str | None, cards: dict[str, Card]) -> str:
    channel = f" by {via}" if via else ""
    who = "a person" if contact is None else contact
    first = f"Ask {who} a question{channel}, and wait for the answer."
    rest = ["A human reads it and replies, which can take minutes or hours."]
    if contact is not None and contact in cards:
        card = cards[contact]
        first = f"Ask {card.name} a question{channel}, and wait for the answer."
        if about := " ".join(card.description.split()):
            rest.insert(0, f"{card.name} is: {about}{'' if about.endswith('.') else '.'}")
    return f"{first}\n\n{' '.join(rest)}"


def _listed(cards: Sequence[Card]) -> str:
    return " One of: " + "; ".join(map(person, cards)) + "." if cards else ""


def _gives(answer: Any, options: Sequence[Any] | None) -> str:
    if options:
        return "What they chose: one of " + ", ".join(repr(str(option)) for option in options) + "."
    if answer is str:
        return "What they answered, in their own words."
    return "What they answered."


def _doc(about: str, arguments: Sequence[str], gives: str) -> str:
    """A docstring in Google's form, which the frameworks for agents read."""
    lines = [
        about.strip(),
        "",
        "Args:",
        *(f"    {line}" for line in arguments),
        "",
        "Returns:",
        f"    {gives}",
    ]
    return "\n".join(lines) + "\n"
