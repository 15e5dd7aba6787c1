"""The command line: every command is here by name, and written in a module beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from wakeloop import __version__
from wakeloop.cli import (
    act,
    channels,
    contacts,
    doctor,
    inbox,
    keeping,
    look,
    mcp,
    people,
    project,
    serve,
    tokens,
)
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


_RUN, _LOOK, _ACT = "Run", "Look", "Act"

app.command(rich_help_panel=_RUN)(project.init)
app.command(rich_help_panel=_RUN)(serve.dev)
app.command(rich_help_panel=_RUN)(serve.web)
app.command(rich_help_panel=_RUN)(mcp.mcp)
app.add_typer(serve.db, name="db", rich_help_panel=_RUN)
app.command(rich_help_panel=_RUN)(doctor.doctor)

app.command(rich_help_panel=_LOOK)(look.agents)
app.command(name="next", rich_help_panel=_LOOK)(look.next_)
app.command(rich_help_panel=_LOOK)(look.sessions)
app.add_typer(look.runs, name="runs", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(inbox.inbox)
app.add_typer(tokens.requests, name="requests", rich_help_panel=_LOOK)
app.add_typer(tokens.grants, name="grants", rich_help_panel=_LOOK)
app.add_typer(contacts.contacts, name="contacts", rich_help_panel=_LOOK)
app.add_typer(channels.channels, name="channels", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(people.link)
app.command(rich_help_panel=_LOOK)(keeping.export)

app.command(rich_help_panel=_ACT)(act.start)
app.command(rich_help_panel=_ACT)(act.signal)
app.command(rich_help_panel=_ACT)(act.reply)
app.command(rich_help_panel=_ACT)(act.retry)
app.command(rich_help_panel=_ACT)(act.restart)
app.command(rich_help_panel=_ACT)(act.cancel)
app.command(rich_help_panel=_ACT)(keeping.forget)
app.add_typer(tokens.tokens, name="tokens", rich_help_panel=_ACT)


def main() -> None:
    """Run the command line."""
    app()
