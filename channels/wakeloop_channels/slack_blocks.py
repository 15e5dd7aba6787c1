"""What a Slack message shows below its text: buttons, a form to fill in, and the dialog for a comment (Block Kit).

A form stands in the message itself, not in a dialog: so it needs nothing that only one process knows, no answer within
three seconds, and what was filled in comes back with the press of its button, together with the blocks, which say what
each field is. A number is a line of text, for Slack has number inputs in dialogs only; a date with a time is a date and a
time, for Slack's own element for both gives an instant in the reader's zone, and not what they chose.

Limits: https://docs.slack.dev/reference/block-kit/blocks and /block-elements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from wakeloop.channel import Button, Field, Outgoing
from wakeloop_channels.slack_text import rich_text, shortened
from wakeloop_channels.text import well_formed

TEXT_CHARACTERS: Final = 12_000
"""So long a text is shown in blocks. Slack refuses more than some 13,000 characters in them (msg_blocks_too_long)."""

MESSAGE_BLOCKS: Final = 50
ACTIONS_ELEMENTS: Final = 25
LABEL_CHARACTERS: Final = 75
SELECT_OPTIONS: Final = 100
OPTION_CHARACTERS: Final = 150
INITIAL_CHARACTERS: Final = 3000
COMMENT_CHARACTERS: Final = 3000
FIELD_LABEL_CHARACTERS: Final = 300
NAME_CHARACTERS: Final = 200
BUTTONS_BESIDE: Final = 5
"""So many choices that are neither the first yes nor the first no are buttons; more are put into a select."""

COMMENT: Final = "comment"
LINK: Final = "link"
SUBMIT: Final = "submit"
PRESS: Final = "press:"
CHOOSE: Final = "choose:"
FIELD: Final = "field:"
DATE: Final = "date:"
TIME: Final = "time:"

Block = dict[str, Any]
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME = re.compile(r"\d{2}:\d{2}", re.ASCII)


def message_blocks(message: Outgoing) -> list[Block] | None:
    """The blocks of a message; None if its text is too long for them, so that nothing of it is left out."""
    text, title = well_formed(message.text), well_formed(message.subject or "")
    if len(text) + len(title) > TEXT_CHARACTERS:
        return None
    blocks = [rich_text(text, title=title)]
    if message.submit is not None and fits(message.fields):
        blocks += [block for field in message.fields for block in _inputs(field)]
        submit = _button("Send", message.submit, SUBMIT, style="primary")
        blocks.append({"type": "actions", "elements": [submit]})
    elements = iter([*_choices(message.buttons, message.kind), *_link(message.link)])
    while batch := list(islice(elements, ACTIONS_ELEMENTS)):
        blocks.append({"type": "actions", "elements": batch})
    return blocks[:MESSAGE_BLOCKS]


def text_blocks(text: str) -> list[Block]:
    """The blocks of a message that asks nothing (any more)."""
    return [rich_text(well_formed(text))] if len(text) <= TEXT_CHARACTERS else []


def comment_view(label: str, pressed: str, place: str) -> dict[str, Any]:
    """The dialog that asks for a comment. pressed: the value of the button it stands for. place: the id of the message."""
    return {
        "type": "modal",
        "callback_id": COMMENT,
        "private_metadata": json.dumps({"pressed": pressed, "place": place}),
        "title": _plain("Comment", 24),
        "submit": _plain("Send", 24),
        "close": _plain("Cancel", 24),
        "blocks": [
            {
                "type": "input",
                "block_id": COMMENT,
                "label": _plain(label, FIELD_LABEL_CHARACTERS),
                "element": {
                    "type": "plain_text_input",
                    "action_id": COMMENT,
                    "multiline": True,
                    "max_length": COMMENT_CHARACTERS,
                },
            }
        ],
    }


def _choices(buttons: Sequence[Button], kind: str) -> Iterator[Block]:
    yes = next((one for one in buttons if one.style == "yes"), None)
    no = next((one for one in buttons if one.style == "no"), None)
    others = [one for one in buttons if one is not yes and one is not no]
    if yes is not None:
        yield _button(yes.label, yes.value, f"{PRESS}yes", style="primary")
    if no is not None:
        yield _button(no.label, no.value, f"{PRESS}no", style="danger")
        if kind == "approval":
            label = shortened(no.label, LABEL_CHARACTERS - len(" with a comment…"))
            yield _button(f"{label} with a comment…", no.value, COMMENT)
    if len(others) <= BUTTONS_BESIDE:
        for index, other in enumerate(others):
            yield _button(other.label, other.value, f"{PRESS}{index}")
        return
    for start in range(0, len(others), SELECT_OPTIONS):
        options = [_option(one.label, one.value) for one in others[start : start + SELECT_OPTIONS]]
        placeholder = _plain("Choose…", OPTION_CHARACTERS)
        yield {
            "type": "static_select", "action_id": f"{CHOOSE}{start}", "placeholder": placeholder, "options": options,
        }  # fmt: skip


def _link(link: str | None) -> Iterator[Block]:
    if link is not None and len(link) <= 3000:
        yield _button("Open the page", LINK, LINK) | {"url": link}


def _button(label: str, value: str, action: str, *, style: str | None = None) -> Block:
    button = {"type": "button", "action_id": action, "text": _plain(label, LABEL_CHARACTERS), "value": value}
    return button if style is None else button | {"style": style}


def _plain(text: str, limit: int) -> Block:
    return {"type": "plain_text", "text": shortened(well_formed(text), limit), "emoji": False}


def _option(label: str, value: str) -> Block:
    return {"text": _plain(label, LABEL_CHARACTERS), "value": value}


# ---------------------------------------------------------------------- forms


def fits(fields: Sequence[Field]) -> bool:
    """Whether Slack can show a form of these; if not, it is answered in words, or on the person's page."""
    inputs = sum(2 if field.kind == "datetime-local" else 1 for field in fields)
    return 0 < inputs <= MESSAGE_BLOCKS - 5 and all(
        len(field.name) <= NAME_CHARACTERS
        and (field.kind != "select" or 0 < len(field.choices) <= SELECT_OPTIONS)
        and all(0 < len(value) <= OPTION_CHARACTERS for value, _ in field.choices)
        for field in fields
    )


def _inputs(field: Field) -> Iterator[Block]:
    label = field.label or field.name
    default = well_formed(field.default or "")
    match field.kind:
        case "datetime-local":
            day, _, hour = default.partition("T")
            yield _input(DATE, field, label, _picker("date", day))
            yield _input(TIME, field, f"{label} (time)", _picker("time", hour[:5]), hint=False)
        case "date" | "time":
            yield _input(FIELD, field, label, _picker(field.kind, default))
        case "checkbox":
            ticked = [_option(label, "true")]
            element: Block = {"type": "checkboxes", "options": ticked}
            yield _input(FIELD, field, label, element | ({"initial_options": ticked} if default else {}))
        case "select":
            options = [_option(shown, value) for value, shown in field.choices]
            chosen = [option for option in options if option["value"] == field.default]
            element = {"type": "static_select", "options": options}
            yield _input(FIELD, field, label, element | ({"initial_option": chosen[0]} if chosen else {}))
        case kind:
            element = {"type": "plain_text_input", "multiline": kind in ("multiline", "json")}
            # A default that is cut would be sent back as if it were meant.
            fitting = 0 < len(default) <= INITIAL_CHARACTERS
            yield _input(FIELD, field, label, element | ({"initial_value": default} if fitting else {}))


def _picker(kind: str, default: str) -> Block:
    valid = (_DATE if kind == "date" else _TIME).fullmatch(default)
    return {"type": f"{kind}picker"} | ({f"initial_{kind}": default} if valid else {})


def _input(part: str, field: Field, label: str, element: Block, *, hint: bool = True) -> Block:
    block = {
        "type": "input",
        "block_id": part + field.name,
        "label": _plain(label, FIELD_LABEL_CHARACTERS),
        "element": element | {"action_id": field.kind},
        "optional": not field.required or field.kind == "checkbox",
    }
    return block | ({"hint": _plain(field.description, 2000)} if hint and field.description else {})


def read_form(
    state: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, str], list[str]]:
    """What was filled in, by the name of the field, as an HTML form would send it; and the labels of what is missing.

    state: `state.values` of the payload. blocks: those of the message, which say what is required."""
    values: dict[str, str] = {}
    missing: list[str] = []
    for block in blocks:
        part, colon, name = str(block.get("block_id", "")).partition(":")
        if block.get("type") != "input" or f"{part}:" not in (FIELD, DATE, TIME) or not colon:
            continue
        given = state.get(f"{part}:{name}")
        element = next(iter(given.values()), None) if isinstance(given, Mapping) else None
        text = _value(element) if isinstance(element, Mapping) else ""
        if not text and block.get("optional") is not True:
            missing.append(_label(block))
        if f"{part}:" == TIME:
            day = values.get(name, "")
            if bool(day) != bool(text) and block.get("optional") is True:
                missing.append(_label(block))  # half of an answer is none
            values[name] = f"{day}T{text}" if day and text else ""
        elif text or not (isinstance(element, Mapping) and element.get("type") == "checkboxes"):
            values[name] = text
    return values, missing


def _value(element: Mapping[str, Any]) -> str:
    option = element.get("selected_option")
    options = element.get("selected_options")
    if isinstance(options, Sequence) and not isinstance(options, str) and options:
        option = options[0]
    candidates = [
        element.get("value"),
        element.get("selected_date"),
        element.get("selected_time"),
        option.get("value") if isinstance(option, Mapping) else None,
    ]
    return next((text for text in candidates if isinstance(text, str)), "")


def _label(block: Mapping[str, Any]) -> str:
    label = block.get("label")
    text = label.get("text") if isinstance(label, Mapping) else None
    return text if isinstance(text, str) else "a field"
