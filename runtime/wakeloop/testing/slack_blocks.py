"""Block Kit as Slack's stand-in knows it: which blocks it refuses, and what people see of those that it takes.

The limits are those of https://docs.slack.dev/reference/block-kit/blocks, /block-elements, /composition-objects and
/surfaces/modals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MESSAGE_BLOCKS = 50
VIEW_BLOCKS = 100
BLOCKS_CHARACTERS = 13_200
"""Not documented; what those who met `msg_blocks_too_long` have counted."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"))


class InvalidBlocks(ValueError):
    """What is wrong with blocks, and where."""

    def __init__(self, words: str, pointer: str) -> None:
        super().__init__(f"[ERROR] {words} [json-pointer:{pointer}]")


class TooLong(ValueError):
    """The texts of all blocks are too long together."""


def check_blocks(blocks: object, *, limit: int = MESSAGE_BLOCKS, modal: bool = False) -> list[dict[str, Any]]:
    """The blocks, with an id for each that has none. Raises InvalidBlocks or TooLong."""
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise InvalidBlocks("must be a list of blocks", "/blocks")
    if len(blocks) > limit:
        raise InvalidBlocks(f"no more than {limit} items allowed", "/blocks")
    seen_blocks: set[str] = set()
    found = []
    for index, block in enumerate(blocks):
        at = f"/blocks/{index}"
        check = _BLOCKS.get(str(block.get("type")))
        _need(check is not None, f"unsupported type: {block.get('type')}", f"{at}/type")
        assert check is not None
        check(block, at, modal)
        id = str(block.get("block_id") or f"b{index}")
        _need(len(id) <= 255, "must be less than 256 characters", f"{at}/block_id")
        _need(id not in seen_blocks, "block_id already exists", f"{at}/block_id")
        seen_blocks.add(id)
        found.append({**block, "block_id": id})
    if sum(len(text) for text in _texts(blocks)) > BLOCKS_CHARACTERS:
        raise TooLong
    return found


def check_view(view: object) -> dict[str, Any]:
    """A modal. Raises InvalidBlocks."""
    if not isinstance(view, dict) or view.get("type") != "modal":
        raise InvalidBlocks("must be a modal", "/view/type")
    _plain(view.get("title"), 24, "/view/title")
    for name in ("submit", "close"):
        if name in view:
            _plain(view[name], 24, f"/view/{name}")
    _need(len(str(view.get("private_metadata", ""))) <= 3000, "must be less than 3001 characters", "/view")
    _need(len(str(view.get("callback_id", ""))) <= 255, "must be less than 256 characters", "/view")
    blocks = check_blocks(view.get("blocks"), limit=VIEW_BLOCKS, modal=True)
    _need(all(block["type"] != "input" for block in blocks) or "submit" in view, "submit is needed", "/view")
    return {**view, "blocks": blocks}


def shown(blocks: list[dict[str, Any]]) -> str:
    """The text that blocks show: of rich text what it says, of a section what its mrkdwn stands for."""
    lines = []
    for block in blocks:
        if block["type"] == "rich_text":
            sections = [section["elements"] for section in block["elements"]]
            lines += ["".join(part.get("text") or part["url"] for part in parts) for parts in sections]
        elif block["type"] in ("section", "header"):
            lines.append(unescaped(block["text"]["text"]))
    return "\n".join(lines)


def unescaped(text: str) -> str:
    """What mrkdwn without any markup shows. Raises ValueError if there is markup that calls somebody or leads somewhere."""
    if "<" in text or ">" in text:
        raise ValueError(f"{text!r} is not escaped")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    return text


def elements(blocks: list[dict[str, Any]], *kinds: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every (block, element) of these types that can be pressed or chosen."""
    for block in blocks:
        for element in block.get("elements", ()) if block["type"] == "actions" else ():
            if element["type"] in kinds:
                yield block, element


def initial_state(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """`state.values` before anybody has filled anything in."""
    state: dict[str, Any] = {}
    for block in blocks:
        if block["type"] == "input":
            element = block["element"]
            state[block["block_id"]] = {element["action_id"]: filled(element, None)}
    return state


def filled(element: Mapping[str, Any], value: str | bool | None) -> dict[str, Any]:
    """What the state has for an element: with this value, or untouched if it is None. Raises LookupError."""
    kind = element["type"]
    if kind == "checkboxes":
        options = element.get("initial_options", []) if value is None else element["options"] if value else []
        return {"type": kind, "selected_options": options}
    if kind == "static_select":
        option = element.get("initial_option")
        if value is not None:
            fitting = [one for one in element["options"] if value in (one["value"], one["text"]["text"])]
            if not fitting:
                raise LookupError(f"there is no option {value!r}")
            option = fitting[0]
        return {"type": kind, "selected_option": option}
    name = {"datepicker": "date", "timepicker": "time"}.get(kind)
    if name is not None:
        return {
            "type": kind,
            f"selected_{name}": element.get(f"initial_{name}") if value is None else value or None,
        }
    return {"type": kind, "value": element.get("initial_value") if value is None else value or None}


def _need(holds: bool, words: str, pointer: str) -> None:
    if not holds:
        raise InvalidBlocks(words, pointer)


def _text(value: object, limit: int, at: str) -> str:
    _need(isinstance(value, str), "must be a string", at)
    text = str(value)
    _need(len(text) >= 1, "must be more than 0 characters", at)
    _need(len(text) <= limit, f"must be less than {limit + 1} characters", at)
    return text


def _plain(value: object, limit: int, at: str) -> None:
    _need(isinstance(value, dict) and value.get("type") == "plain_text", "must be plain_text", at)
    assert isinstance(value, dict)
    _text(value.get("text"), limit, f"{at}/text")


def _option(option: object, at: str) -> None:
    _need(isinstance(option, dict), "must be an option", at)
    assert isinstance(option, dict)
    _plain(option.get("text"), 75, f"{at}/text")
    _text(option.get("value"), 150, f"{at}/value")


def _element(element: object, at: str, allowed: frozenset[str]) -> None:
    _need(isinstance(element, dict) and element.get("type") in allowed, "unsupported element", at)
    assert isinstance(element, dict)
    _text(element.get("action_id"), 255, f"{at}/action_id")
    kind = element["type"]
    if kind == "button":
        _plain(element.get("text"), 75, f"{at}/text")
        _need(len(element.get("value", "")) <= 2000, "must be less than 2001 characters", f"{at}/value")
        _need(len(element.get("url", "")) <= 3000, "must be less than 3001 characters", f"{at}/url")
        _need(element.get("style") in (None, "primary", "danger"), "invalid style", f"{at}/style")
    elif kind in ("static_select", "checkboxes"):
        options = element.get("options")
        most = 100 if kind == "static_select" else 10
        _need(
            isinstance(options, list) and 1 <= len(options) <= most, f"1 to {most} options", f"{at}/options"
        )
        assert isinstance(options, list)
        for index, option in enumerate(options):
            _option(option, f"{at}/options/{index}")
        initial = element.get("initial_options", [element.get("initial_option", options[0])])
        _need(all(one in options for one in initial), "initial option is none of the options", at)
        if "placeholder" in element:
            _plain(element["placeholder"], 150, f"{at}/placeholder")
    elif kind == "plain_text_input":
        _need(len(element.get("initial_value", "")) <= 3000, "must be less than 3001 characters", at)
        _need(element.get("max_length", 1) in range(1, 3001), "max_length is 1 to 3000", at)
    elif kind == "datepicker":
        _need(bool(_DATE.fullmatch(element.get("initial_date", "2026-01-01"))), "no date", at)
    elif kind == "timepicker":
        _need(bool(_TIME.fullmatch(element.get("initial_time", "00:00"))), "no time", at)


_PRESSED = frozenset({"button", "static_select", "datepicker", "timepicker", "checkboxes", "overflow"})
_FILLED = frozenset({"plain_text_input", "static_select", "checkboxes", "datepicker", "timepicker"})


def _actions(block: dict[str, Any], at: str, modal: bool) -> None:
    found = block.get("elements")
    _need(isinstance(found, list) and 1 <= len(found) <= 25, "1 to 25 elements", f"{at}/elements")
    assert isinstance(found, list)
    for index, element in enumerate(found):
        _element(element, f"{at}/elements/{index}", _PRESSED)
    ids = [element["action_id"] for element in found]
    _need(len(set(ids)) == len(ids), "action_id already exists", f"{at}/elements")


def _input(block: dict[str, Any], at: str, modal: bool) -> None:
    _plain(block.get("label"), 2000, f"{at}/label")
    if "hint" in block:
        _plain(block["hint"], 2000, f"{at}/hint")
    # A number has an input of its own in modals only.
    _element(block.get("element"), f"{at}/element", _FILLED | ({"number_input"} if modal else set()))


def _section(block: dict[str, Any], at: str, modal: bool) -> None:
    text = block.get("text")
    _need(isinstance(text, dict) and text.get("type") in ("mrkdwn", "plain_text"), "no text", f"{at}/text")
    assert isinstance(text, dict)
    _text(text.get("text"), 3000, f"{at}/text/text")


def _header(block: dict[str, Any], at: str, modal: bool) -> None:
    _plain(block.get("text"), 150, f"{at}/text")


def _rich_text(block: dict[str, Any], at: str, modal: bool) -> None:
    sections = block.get("elements")
    _need(isinstance(sections, list) and bool(sections), "must have elements", f"{at}/elements")
    assert isinstance(sections, list)
    for index, section in enumerate(sections):
        place = f"{at}/elements/{index}"
        _need(isinstance(section, dict) and section.get("type") == "rich_text_section", "unsupported", place)
        _need(bool(section.get("elements")), "must have elements", place)
        for number, part in enumerate(section["elements"]):
            name = {"text": "text", "link": "url"}.get(part.get("type"))
            _need(name is not None, "unsupported", f"{place}/elements/{number}")
            _text(part.get(name), BLOCKS_CHARACTERS, f"{place}/elements/{number}/{name}")


_BLOCKS: Mapping[str, Callable[[dict[str, Any], str, bool], None]] = {
    "actions": _actions,
    "header": _header,
    "input": _input,
    "rich_text": _rich_text,
    "section": _section,
}


def _texts(value: object) -> Iterator[str]:
    """Every text in it: those that are shown, under `text`, and links."""
    if isinstance(value, dict):
        for name, part in value.items():
            if isinstance(part, str) and name in ("text", "url"):
                yield part
            else:
                yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
