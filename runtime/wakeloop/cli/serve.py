"""`dev`, `web` and `db`: the commands that run wakeloop, and that look after its schema."""

from __future__ import annotations

from typing import Annotated

import typer

from wakeloop.cli.base import Config, Json, chosen, print_json, say
from wakeloop.errors import SchemaMismatch
from wakeloop.logs import get_logger
from wakeloop.settings import load_settings
from wakeloop.store.database import Database
from wakeloop.store.migration import head
from wakeloop.terminal import error_console, log_to

log = get_logger("wakeloop.web")

Host = Annotated[str | None, typer.Option("--host", help="The address to listen on.")]
Port = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="The port; 0 is any that is free.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Log more; addresses and texts may be among it.")]

db = typer.Typer(no_args_is_help=True, help="Look after the database's schema.")


def dev(
    ctx: typer.Context,
    host: Host = None,
    port: Port = None,
    tunnel_url: Annotated[
        str | None,
        typer.Option(
            "--tunnel-url",
            metavar="URL",
            help="Where providers reach this process, such as the address of a tunnel.",
        ),
    ] = None,
    debug: Debug = False,
    config: Config = None,
) -> None:
    """Run everything in one process, and load the agents anew when they change."""
    from wakeloop import dev as process

    console = error_console()
    log_to(console, debug=debug)
    settings = load_settings(path=chosen(ctx, config).config, host=host, port=port, public_url=tunnel_url)
    log_to(console, debug=debug, json=settings.log_format == "json")
    process.run(settings, console)


def web(
    ctx: typer.Context, host: Host = None, port: Port = None, debug: Debug = False, config: Config = None
) -> None:
    """Run the web process alone: webhooks, beside Celery workers in production."""
    from wakeloop.celery import celery_app
    from wakeloop.celery_app import CeleryDispatcher
    from wakeloop.web.app import make_app
    from wakeloop.web.server import WebServer, listen, url_of
    from wakeloop.wiring import Runtime

    console = error_console()
    log_to(console, debug=debug)
    settings = load_settings(path=chosen(ctx, config).config, host=host, port=port)
    is_json = settings.log_format == "json"
    log_to(console, debug=debug, json=is_json)
    runtime = Runtime(settings)
    with listen(settings.host, settings.port) as listening:
        runtime.database.check_schema()
        if is_json:
            log.info("listening", url=url_of(listening), store=runtime.database.name)
        else:
            console.print(f"wakeloop web on {url_of(listening)}, store {runtime.database.name}")
        if not settings.broker_url.startswith("embedded:"):
            runtime.hand_over(CeleryDispatcher(celery_app(settings, lambda: runtime)))
        WebServer(make_app(runtime), listening).run()
    runtime.stop(grace=0)


@db.command()
def upgrade(ctx: typer.Context, config: Config = None, json: Json = False) -> None:
    """Bring the schema to this version's."""
    choices = chosen(ctx, config, json)
    database = Database(load_settings(path=choices.config).database_url)
    try:
        database.upgrade()
    finally:
        database.close()
    if choices.json:
        print_json({"store": database.name, "revision": head()})
    else:
        say(("✓ ", "green"), f"{database.name} is at {head()}")


@db.command()
def check(ctx: typer.Context, config: Config = None, json: Json = False) -> None:
    """Tell whether the schema is this version's; exit code 1 if it is not."""
    choices = chosen(ctx, config, json)
    database = Database(load_settings(path=choices.config).database_url)
    try:
        database.check_schema()
    except SchemaMismatch as error:
        if not choices.json:
            raise
        print_json({"store": database.name, "ok": False, "problem": str(error)})
        raise typer.Exit(1) from None
    finally:
        database.close()
    if choices.json:
        print_json({"store": database.name, "ok": True, "revision": head()})
    else:
        say(("✓ ", "green"), f"{database.name} is at {head()}, as it should be")
