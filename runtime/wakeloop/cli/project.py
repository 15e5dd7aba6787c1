"""`wakeloop init`: a new project that runs at once."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from wakeloop.cli.base import Json, chosen, fail, print_json, say

_RENAMED = {"gitignore": ".gitignore", "env.example": ".env.example"}
"""Files whose real names would do something where the template is kept."""


def init(
    ctx: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to; made if it is not there.")
    ] = Path(),
    json: Json = False,
) -> None:
    """Write a new project: an agent, settings, and a sketch of production."""
    template = dict(_template())
    present = [name for name in template if (directory / name).exists()]
    if present:
        fail(
            f"{directory.absolute()} has {', '.join(present)} already; nothing was written: choose another folder"
        )
    for name, text in template.items():
        file = directory / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            fail(f"{file.absolute()} cannot be written: {error.strerror or error}; choose another folder")
    if chosen(ctx, json=json).json:
        print_json({"directory": str(directory.absolute()), "files": list(template)})
        return
    for name in template:
        say(("✓ ", "green"), name)
    go = "" if directory.absolute() == Path.cwd() else f"cd {directory} && "
    say(
        "\nnext: ",
        (f"{go}wakeloop dev", "bold"),
        ", then in another terminal ",
        ("wakeloop start hello", "bold"),
    )


def _template() -> list[tuple[str, str]]:
    """The template's files by their path in a project."""
    found: list[tuple[str, str]] = []

    def walk(folder: Traversable, above: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda one: one.name):
            if entry.is_dir():
                if entry.name != "__pycache__":
                    walk(entry, f"{above}{entry.name}/")
            else:
                name = _RENAMED.get(entry.name, entry.name)
                found.append((f"{above}{name}", entry.read_text(encoding="utf-8")))

    walk(files("wakeloop") / "template", "")
    return found
