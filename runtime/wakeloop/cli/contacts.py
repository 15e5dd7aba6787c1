"""`wakeloop contacts`: who the people are, whether their addresses are theirs, and whether messages reach them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.text import Text

from wakeloop.channel import DeliveryStatus
from wakeloop.cli.base import (
    Choices,
    Config,
    Json,
    chosen,
    console,
    fail,
    opened_runtime,
    print_json,
    say,
    table,
)
from wakeloop.cli.sending import REACHED, final_statuses, latest, tell_outcome, wait
from wakeloop.contacting import AddressState, Written, address_states, write_code, write_test
from wakeloop.people import Contact
from wakeloop.store import verifications
from wakeloop.terminal import moment
from wakeloop.wiring import Runtime

Addresses = Annotated[bool, typer.Option("--addresses", help="Show the addresses whole.")]
Who = Annotated[str, typer.Argument(metavar="CONTACT", help="The contact's id.")]
Via = Annotated[
    str | None, typer.Option("--via", metavar="CHANNEL", help="The channel; their first one by default.")
]

contacts = typer.Typer(invoke_without_command=True, help="The people: list, verify and test them.")


@contacts.callback()
def list_contacts(
    ctx: typer.Context, addresses: Addresses = False, config: Config = None, json: Json = False
) -> None:
    """The people, what time it is where they are, and how their addresses stand."""
    choices = chosen(ctx, config, json)
    if ctx.invoked_subcommand is not None:
        ctx.obj = choices
        return
    _list(choices, addresses)


@contacts.command("list")
def list_(
    ctx: typer.Context, addresses: Addresses = False, config: Config = None, json: Json = False
) -> None:
    """The same: the people and their addresses."""
    _list(chosen(ctx, config, json), addresses)


def _list(choices: Choices, whole: bool) -> None:
    with opened_runtime(choices) as runtime:
        people = [runtime.world.people.get(id) for id in runtime.world.people.ids]
        states = address_states(runtime.database, runtime.world)
        now = runtime.database.now()
    if choices.json:
        print_json([_data(one, states[one.id], now, whole) for one in people])
        return
    if not people:
        say(("there is no contact yet", "yellow"), "; write [contacts.NAME] into wakeloop.toml")
        return
    shown = table("contact", "name", "there it is", "groups", "channels")
    for one in people:
        here = now.astimezone(ZoneInfo(one.tz))
        quiet = one.quiet_until(now)
        clock = Text(f"{here:%a %H:%M} {one.tz}")
        if quiet is not None:
            clock.append(f"  quiet until {quiet.astimezone(ZoneInfo(one.tz)):%H:%M}", style="yellow")
        shown.add_row(
            Text(one.id, style="bold"), one.name, clock, ", ".join(one.groups), _channels(states[one.id], now, whole)
        )  # fmt: skip
    console().print(shown)


def _data(one: Contact, states: list[AddressState], now: datetime, whole: bool) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "description": one.description,
        "tz": one.tz,
        "local_time": now.astimezone(ZoneInfo(one.tz)).isoformat(),
        "quiet_hours": None if one.quiet_hours is None else str(one.quiet_hours),
        "quiet_until": one.quiet_until(now),
        "languages": one.languages,
        "groups": one.groups,
        "channels": [
            {
                "channel": state.channel,
                "address": state.address if whole else masked(state.address),
                "verified_at": state.verified_at,
                "opted_out_at": state.opted_out_at,
            }
            for state in states
        ],
    }


def _channels(states: list[AddressState], now: datetime, whole: bool) -> Text:
    lines = []
    for state in states:
        line = Text(f"{state.channel} {state.address if whole else masked(state.address)}  ")
        if state.opted_out_at is not None:
            line.append(f"opted out {moment(state.opted_out_at, now)}", style="red")
        elif state.verified_at is not None:
            line.append(f"verified {moment(state.verified_at, now)}", style="green")
        else:
            line.append("not verified", style="dim")
        lines.append(line)
    return Text("\n").join(lines) if lines else Text("no address", style="yellow")


def masked(address: str) -> str:
    """An address with all but its end hidden."""
    shown = 4 if len(address) >= 10 else 2 if len(address) >= 5 else 0
    return f"…{address[len(address) - shown :]}"


@contacts.command()
def verify(
    ctx: typer.Context,
    contact: Who,
    via: Via = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, max=verifications.VALID_SECONDS, help="Seconds to wait.")
    ] = 600,
    config: Config = None,
    json: Json = False,
) -> None:
    """Send a code to a contact's address, and wait until it is sent back from there; exit code 1 unless it is."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        written = write_code(runtime.database, runtime.world, contact, via)
        if not choices.json:
            say("a code goes to ", (contact, "bold"), f" by {written.channel}; waiting for it to come back")
        at = wait(runtime, written, timeout, lambda delivery: _verified_at(runtime, written, delivery))
    if at is None:
        fail(f"no code came back from {contact} by {written.channel} within {timeout:g} s; try again")
    if choices.json:
        print_json({"contact": contact, "channel": written.channel, "verified_at": at})
    else:
        say(("✓ ", "green"), f"{contact}'s address on {written.channel} is verified")


def _verified_at(runtime: Runtime, written: Written, delivery: Any) -> datetime | None:
    """When the code came back; None if it has not yet. Ends the command if it cannot any more."""
    with runtime.database.read() as connection:
        row = verifications.find(connection, written.channel, written.address)
    assert row is not None
    if row.verified_at is not None and row.verified_at >= written.at:
        verified_at: datetime = row.verified_at
        return verified_at
    if row.code is None:
        fail(f"{verifications.WRONG_TRIES} wrong codes came from {written.contact}; send a new one")
    if row.sent_at > written.at:
        fail(f"another code was sent to {written.contact} meanwhile; only that one counts")
    if delivery.status == DeliveryStatus.FAILED:
        fail(f"the code could not be sent to {written.contact} by {written.channel}: {delivery.error}")
    return None


@contacts.command("test")
def send_test(
    ctx: typer.Context,
    contact: Who,
    via: Via = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds to wait for the provider's report.")
    ] = 60,
    config: Config = None,
    json: Json = False,
) -> None:
    """Send a test message, and tell what became of it; exit code 1 unless it was sent."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        written = write_test(runtime.database, runtime.world, contact, via)
        final = final_statuses(runtime, written)
        if not choices.json:
            say("a test goes to ", (contact, "bold"), f" by {written.channel}")
        wait(runtime, written, timeout, lambda delivery: delivery.status in final or None)
        delivery = latest(runtime, written)
    if choices.json:
        facts = {"status": delivery.status, "error": delivery.error, "held": delivery.held}
        print_json({"contact": contact, "channel": written.channel, **facts})
        if delivery.status not in REACHED:
            raise typer.Exit(1)
    else:
        tell_outcome(written, delivery, DeliveryStatus.SENT in final, timeout)
