"""Writes from the code what docs/reference holds (the commands from the Typer app, the settings from their model), and the
table of docs/channels/README.md, from what the adapters say they can.

    python docs/generate.py

A test fails if what it would write differs from what is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from wakeloop.adapters import adapters
from wakeloop.channel import Capabilities
from wakeloop.cli import app
from wakeloop.people import Contact
from wakeloop.settings import Settings
from wakeloop.settings_sources import PREFIX, TABLES

FOLDER = Path(__file__).parent / "reference"
CHANNELS = Path(__file__).parent / "channels"
NOTE = "<!-- Written by docs/generate.py from the code; do not edit. -->"
SHARED = {"config", "json", "help"}


def pages() -> dict[Path, str]:
    """What each generated file should hold."""
    return {
        FOLDER / "cli.md": cli_page(),
        FOLDER / "settings.md": settings_page(),
        CHANNELS / "README.md": channels_page(),
    }


# ---------------------------------------------------------------------- commands


def cli_page() -> str:
    """The commands, in the order and the groups of `wakeloop --help`."""
    root: Any = typer.main.get_command(app)
    commands = list(_leaves(root, ("wakeloop",)))
    lines = [
        NOTE,
        "",
        "# Command line",
        "",
        _sentence(root.help or ""),
        "",
        "`--config PATH` names the settings file (`wakeloop.toml` by default) and may stand before or after the",
        "command; so may `--json`, which prints JSON on standard output, on every command that has something to print.",
        "A command that fails says why in one line on standard error and exits with 1; wrong usage exits with 2.",
        "",
        "| command | does |",
        "| --- | --- |",
    ]
    lines += [
        f"| [`{' '.join(path)}`](#{'-'.join(path)}) | {_sentence(one.help or '')} |" for path, one in commands
    ]
    for path, one in commands:
        lines += ["", f"## {' '.join(path)}", "", _sentence(one.help or ""), "", *_usage(path, one)]
    return "\n".join(lines) + "\n"


def _leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be typed, with its words."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    if len(path) > 1 and command.invoke_without_command:
        yield path, command
    for name, child in children.items():
        if not child.hidden:
            yield from _leaves(child, (*path, name))


def _usage(path: tuple[str, ...], command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name not in SHARED]
    words = [*path]
    for one in arguments:
        name = (one.metavar or one.name or "").strip("[]").removesuffix("...").upper()
        word = f"{name}..." if one.nargs == -1 else name
        words.append(word if one.required else f"[{word}]")
    yield from ("```text", " ".join([*words, *(["[OPTIONS]"] if options else [])]), "```")
    if arguments or options:
        yield from ("", "| | |", "| --- | --- |")
    for one in arguments:
        yield f"| `{(one.metavar or one.name).strip('[]').removesuffix('...').upper()}` | {_cell(one.help)} |"
    for one in options:
        yield f"| {_option(one)} | {_cell(one.help)}{_default(one)} |"


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True))
    if option.is_flag:
        return names
    kind = option.type_descriptor.annotation
    kind = get_args(kind)[0] if get_origin(kind) is list else kind
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{names} {', '.join(f'`{one.value}`' for one in kind)}"
    return f"{names} `{option.metavar or ('NUMBER' if kind in (int, float) else 'TEXT')}`"


def _default(option: Any) -> str:
    if option.is_flag or option.default in (None, "", ()) or callable(option.default):
        return ""
    return f" Default: `{option.default}`."


# ---------------------------------------------------------------------- settings


def settings_page() -> str:
    """The settings, in the order of their model."""
    lines = [
        NOTE,
        "",
        "# Settings",
        "",
        "First counts the environment, then `.env` beside the settings file, then the settings file `wakeloop.toml` (or",
        f"what `--config` or `{PREFIX}CONFIG` names), then the default. In the environment a setting is `{PREFIX}` and its",
        "name in capitals. Tables are merged key by key. A relative path is relative to the folder of the settings file.",
        "A mistake stops wakeloop at start: it is told with file and line, the key, and what to write.",
        "",
        "| setting | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        if name not in TABLES:
            lines.append(f"| `{name}` | {_value(field.default)} | {_cell(field.description)} |")
    lines += ["", "## Contacts", ""]
    lines += [
        "`[contacts.<id>]` describes a person; agents call them by that id. Every key that is not in this table is a",
        "channel, with the person's address on it; the order is the order of preference.",
        "",
        "| key | default |",
        "| --- | --- |",
    ]
    for name, field in Contact.model_fields.items():
        if name not in ("id", "addresses"):
            default = "the id" if name == "name" else _value(field.get_default(call_default_factory=True))
            lines.append(f"| `{name}` | {default} |")
    lines += [
        "",
        "What each of them does: [people](../people.md). A group cannot have the name of a contact.",
        "",
        "## Approvers",
        "",
        "`[approvers]` has for the name of a function the contacts and groups that may approve its calls:",
        '`pay = ["cfo", "finance"]`.',
        "",
        "## Channels",
        "",
        "`[channels.<name>]` holds the settings of a channel: see [its page](../channels/README.md). Secrets",
        f"come from the environment or `.env` only, as `{PREFIX}<CHANNEL>_<KEY>`: `{PREFIX}SMS_AUTH_TOKEN`.",
        "",
        "## An example",
        "",
        "```toml",
        *_example(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _example() -> Iterator[str]:
    for name in ("database_url", "broker_url", "public_url", "trusted_proxies"):
        field = Settings.model_fields[name]
        yield f"{name} = {json.dumps((field.examples or [field.default])[0])}"
    yield from (
        "",
        "[contacts.alice]",
        'sms = "+15555550100"',
        'tz = "America/New_York"',
        'groups = ["finance"]',
        "",
        "[approvers]",
        'pay = ["finance"]',
        "",
        "[channels.sms]",
        'account_sid = "AC00000000000000000000000000000000"',
        'from_number = "+15555550199"',
    )


# ---------------------------------------------------------------------- channels

TITLES = {"sms": "SMS", "web": "people's own pages", "whatsapp": "WhatsApp", "teams": "Microsoft Teams"}
COLUMNS: dict[str, Callable[[Capabilities], str]] = {
    "people write back": lambda can: _tick(can.inbound),
    "buttons": lambda can: _tick(can.buttons),
    "forms": lambda can: _tick(can.forms),
    "threads": lambda can: _tick(can.threads),
    "files": lambda can: _tick(can.media),
    "amended": lambda can: _tick(can.amends),
    "delivery": lambda can: _tick(can.receipts),
    "after a crash": lambda can: "a key" if can.idempotent else "its list" if can.reconcile else "–",
    "longest text": lambda can: f"{can.max_length:,}" if can.max_length else "–",
}


def channels_page() -> str:
    """The page of all channels, with a table of those that this distribution declares."""
    text = (CHANNELS / "README.md").read_text()
    begin, end = (re.search(rf"<!-- channels: {word}[^\n]*-->", text) for word in ("written", "end"))
    assert begin is not None and end is not None
    points = sorted(
        (point for point in adapters().values() if point.dist and point.dist.name == "wakeloop"),
        key=lambda point: point.name,
    )
    lines = [f"| channel | {' | '.join(COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for point in points:
        can: Capabilities = point.load().capabilities
        title = TITLES.get(point.name, point.name)
        if (CHANNELS / f"{point.name}.md").exists():
            title = f"[{title}]({point.name}.md)"
        extra = f", `wakeloop[{point.extras[0]}]`" if point.extras else ""
        lines.append(
            f"| {title} (`{point.name}`{extra}) | {' | '.join(tell(can) for tell in COLUMNS.values())} |"
        )
    table = "\n".join(lines)
    return f"{text[: begin.end()]}\n\n{table}\n\n{text[end.start() :]}"


def _tick(able: bool) -> str:
    return "yes" if able else "–"


def _value(value: Any) -> str:
    if value is None or value == () or value == "":
        return "none"
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}`"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _sentence(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, text in pages().items():
        file.write_text(text)
        print(f"wrote {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")
