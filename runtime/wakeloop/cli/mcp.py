"""`mcp`: people as tools of coding assistants and other MCP clients."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from wakeloop import __version__
from wakeloop.client import AsyncClient
from wakeloop.errors import ConfigurationError
from wakeloop.terminal import error_console, log_to


def mcp(
    url: Annotated[
        str, typer.Option("--url", help="The address of the wakeloop server.")
    ] = "http://127.0.0.1:8080",
    token_env: Annotated[
        str,
        typer.Option(
            "--token-env",
            metavar="NAME",
            help="The environment variable that holds the token; a server on this machine may need none.",
        ),
    ] = "WAKELOOP_TOKEN",
    contact: Annotated[
        str | None, typer.Option("--contact", help="Who is asked when a call names nobody.")
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log more; addresses and texts may be among it.")
    ] = False,
) -> None:
    """Serve MCP on standard input and output: tools to ask people, and for their approval."""
    log_to(error_console(), debug=debug)
    try:
        from wakeloop import mcp_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise ConfigurationError('MCP needs its SDK: pip install "wakeloop[mcp]"') from None
    client = AsyncClient(url, os.environ.get(token_env) or None)
    mcp_server.serve(client, contact=contact, version=__version__)
