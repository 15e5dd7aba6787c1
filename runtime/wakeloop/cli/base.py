"""What the commands share: options, opening the store, and telling what went wrong in one line."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic_core import to_json
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from typer.core import TyperGroup

from wakeloop.errors import ConfigurationError, WakeloopError
from wakeloop.settings import Settings, load_settings
from wakeloop.store.database import Database, is_outage
from wakeloop.terminal import STATUS_STYLES, error_console
from wakeloop.wiring import Runtime

PIPED_WIDTH = 200

Config = Annotated[
    Path | None, typer.Option("--config", metavar="PATH", help="The settings file, wakeloop.toml by default.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for programs.")]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was chosen for any command."""

    config: Path | None = None
    json: bool = False


class Commands(TyperGroup):
    """The commands; what one of them expects to go wrong is told in a line, with exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (ConfigurationError, WakeloopError) as error:
            fail(str(error))
        except DBAPIError as error:
            if not is_outage(error):
                raise
            fail(f"the database cannot be used: {_first_line(error)}; try again when it is back")


def fail(message: str) -> NoReturn:
    """End the command: what happened and what to do next, on standard error, a line for each thing."""
    for line in message.splitlines():
        error_console().print(Text.assemble(("wakeloop: ", "bold red"), line))
    raise typer.Exit(1)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig or error).strip().partition("\n")[0]


def chosen(ctx: typer.Context, config: Path | None = None, json: bool = False) -> Choices:
    """The choices of a command: its own options, else those that stand before it."""
    above = ctx.find_object(Choices) or Choices()
    return Choices(config=config or above.config, json=json or above.json)


@contextlib.contextmanager
def opened(choices: Choices) -> Iterator[tuple[Settings, Database]]:
    """The store, with a schema: a new SQLite file gets one. Raises ConfigurationError if it cannot be used."""
    settings = load_settings(path=choices.config)
    refuse_nowhere(settings)
    database = Database(settings.database_url)
    try:
        make_ready(database)
        yield settings, database
    finally:
        database.close()


@contextlib.contextmanager
def opened_runtime(choices: Choices) -> Iterator[Runtime]:
    """The same with agents, people and channels, for commands that change something."""
    quiet()
    runtime = Runtime(load_settings(path=choices.config))
    try:
        make_ready(runtime.database)
        yield runtime
    finally:
        runtime.stop(grace=0)


def refuse_nowhere(settings: Settings) -> None:
    """Make no new store where there is no project. Raises ConfigurationError."""
    file = make_url(settings.database_url).database
    is_file = settings.database_url.startswith("sqlite") and file is not None
    if is_file and not Path(str(file)).exists() and not Path(settings.agents_dir).is_dir():
        raise ConfigurationError(
            f"there is no wakeloop project here: neither the store {file} nor the folder {settings.agents_dir} is there; "
            "go to one, or make one with `wakeloop init`"
        )


def make_ready(database: Database) -> None:
    """Give a new SQLite file its schema; any other store must have the right one. Raises ConfigurationError."""
    if not database.is_postgres:
        with database.read() as connection:
            is_new = database.revision(connection) is None
        if is_new:
            database.upgrade()
    database.check_schema()


def quiet() -> None:
    """Keep log lines off the terminal: a command tells what matters itself."""
    logging.getLogger().addHandler(logging.NullHandler())


def console() -> Console:
    """Standard output; wide enough for whole lines if that is not a terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def say(*parts: str | tuple[str, str]) -> None:
    """Print a line for people: plain parts, and parts with a style."""
    console().print(Text.assemble(*parts), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print data for programs."""
    sys.stdout.write(to_json(value, indent=2, serialize_unknown=True).decode() + "\n")


def table(*columns: str) -> Table:
    """A table without lines."""
    made = Table(box=SIMPLE_HEAD, header_style="dim", pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(
            column, overflow="fold" if column == columns[-1] else "ellipsis", no_wrap=column != columns[-1]
        )
    return made


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(status, style=STATUS_STYLES.get(status, ""))
