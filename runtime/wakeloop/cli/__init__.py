"""The command line: every command is here by name, and written in a module beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from wakeloop import __version__
from wakeloop.cli import act, serve
from wakeloop.cli.base import Choices, Commands, Config, Json

app = typer.Typer(
    name="wakeloop",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"wakeloop {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    config: Config = None,
    json: Json = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A durable runtime for agents that wake on a schedule or a message, ask people, and sleep for weeks."""
    ctx.obj = Choices(config=config, json=json)


app.command(rich_help_panel="Run")(serve.dev)
app.command(rich_help_panel="Run")(serve.web)
app.add_typer(serve.db, name="db", rich_help_panel="Run")
app.command(rich_help_panel="Act")(act.start)
app.command(rich_help_panel="Act")(act.reply)


def main() -> None:
    """Run the command line."""
    app()
