"""`wakeloop link`: the address of a person's own page."""

from __future__ import annotations

from typing import Annotated

import typer

from wakeloop.cli.base import Config, Json, chosen, fail, opened_runtime, print_json, say
from wakeloop.links import LINK_DAYS


def link(
    ctx: typer.Context,
    contact: Annotated[str, typer.Argument(help="The contact's id.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Print the signed link to a contact's page. Whoever has it can decide for them."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        person = runtime.world.people.get(contact)
        url = runtime.links.page(person.id)
    if url is None:
        fail("nobody could open it: set public_url, or a port and a loopback host, in wakeloop.toml")
    if choices.json:
        print_json({"contact": person.id, "url": url, "days": LINK_DAYS})
    else:
        say(url)
