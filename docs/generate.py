"""Writes docs/reference from the code: the commands from the Typer app, the settings from their model.

    python docs/generate.py

A test fails if what it would write differs from what is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

from wakeloop.cli import app
from wakeloop.people import Contact
from wakeloop.settings import PREFIX, TABLES, Settings

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py from the code; do not edit. -->"
SHARED = {"config", "json", "help"}


def pages() -> dict[Path, str]:
    """What each generated file should hold."""
    return {FOLDER / "cli.md": cli_page(), FOLDER / "settings.md": settings_page()}


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
        "`[channels.<name>]` holds the settings of a channel: see [SMS](../channels/sms.md); the console has none. Secrets",
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
