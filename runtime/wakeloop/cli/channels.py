"""`wakeloop channels`: what is set up, whether it works, a test through each, and what providers must be told."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from wakeloop.channel import Capabilities, Channel, Checking, DeliveryStatus
from wakeloop.cli.base import (
    Choices,
    Config,
    Json,
    chosen,
    console,
    fail,
    opened_runtime,
    print_json,
    quiet,
    say,
    status_text,
    table,
)
from wakeloop.cli.sending import REACHED, final_statuses, latest, tell_outcome, wait
from wakeloop.contacting import write_test
from wakeloop.errors import ChannelError, ConfigurationError
from wakeloop.logs import get_logger
from wakeloop.settings import Settings, load_settings
from wakeloop.wiring import guides, load_channel, wanted_channels

log = get_logger("wakeloop.cli")

CHECK_SECONDS = 10.0
WORKER_SECONDS = 2.0
"""So long a worker has to take up a test before this process sends it."""

ABILITIES = ("buttons", "forms", "threads", "media", "amends", "receipts")

channels = typer.Typer(
    invoke_without_command=True, help="The channels: list, check and test them, and set providers up."
)

NoCheck = Annotated[bool, typer.Option("--no-check", help="Ask no provider whether it works.")]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A channel as it is listed. ok: whether it works; None if it cannot be told without writing to somebody."""

    channel: str
    directions: tuple[str, ...]
    can: tuple[str, ...]
    contacts: int
    ok: bool | None
    health: str


@channels.callback()
def list_channels(
    ctx: typer.Context, no_check: NoCheck = False, config: Config = None, json: Json = False
) -> None:
    """The channels that are set up, what each can do, and whether it works; exit code 1 if one does not."""
    choices = chosen(ctx, config, json)
    if ctx.invoked_subcommand is not None:
        ctx.obj = choices
        return
    _list(choices, is_checking=not no_check)


@channels.command("list")
def list_(ctx: typer.Context, no_check: NoCheck = False, config: Config = None, json: Json = False) -> None:
    """The same: the channels and their health."""
    _list(chosen(ctx, config, json), is_checking=not no_check)


def _list(choices: Choices, *, is_checking: bool) -> None:
    quiet()
    settings = load_settings(path=choices.config)
    adapters, broken = _adapters(settings)
    health = asyncio.run(ask_providers(adapters, is_checking=is_checking))
    found = [_listed(settings, name, adapters.get(name), *(broken | health)[name]) for name in sorted(broken | health)]  # fmt: skip
    if choices.json:
        print_json([asdict(one) for one in found])
    else:
        shown = table("channel", "direction", "contacts", "can", "health")
        for one in found:
            style = {True: "green", False: "red", None: "dim"}[one.ok]
            shown.add_row(
                Text(one.channel, style="bold"), " and ".join(one.directions), str(one.contacts), ", ".join(one.can),
                Text(one.health, style=style),
            )  # fmt: skip
        console().print(shown)
    if any(one.ok is False for one in found):
        raise typer.Exit(1)


def _adapters(settings: Settings) -> tuple[dict[str, Channel], dict[str, tuple[bool | None, str]]]:
    """The channels that can be made from the settings, and what is wrong with the others."""
    addresses = {name for contact in settings.contacts.values() for name in contact.addresses}
    adapters: dict[str, Channel] = {}
    broken: dict[str, tuple[bool | None, str]] = {}
    for name in wanted_channels(settings, addresses):
        try:
            adapters[name] = load_channel(settings, name)
        except ConfigurationError as error:
            broken[name] = False, str(error)
    return adapters, broken


async def ask_providers(
    adapters: dict[str, Channel], *, is_checking: bool
) -> dict[str, tuple[bool | None, str]]:
    """Whether each of these works, all asked at once."""
    names = list(adapters)
    try:
        told = await asyncio.gather(*(_check(adapters[name], is_checking=is_checking) for name in names))
    finally:
        await asyncio.gather(*(adapter.close() for adapter in adapters.values()), return_exceptions=True)
    return dict(zip(names, told, strict=True))


async def _check(adapter: Channel, *, is_checking: bool) -> tuple[bool | None, str]:
    if not is_checking or not isinstance(adapter, Checking):
        return None, "set up" if is_checking else "not checked"
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return True, f"works as {await adapter.check()}"
    except TimeoutError:
        return False, f"the provider did not answer within {CHECK_SECONDS:g} s"
    except ChannelError as error:
        return False, f"{error.code}: {error}" if error.code else str(error)
    except Exception as error:
        log.debug("a check failed", channel=adapter.name, error=repr(error))
        return False, f"the check failed: {error!r}"


def _listed(settings: Settings, name: str, adapter: Channel | None, ok: bool | None, health: str) -> Listed:
    can = adapter.capabilities if adapter is not None else Capabilities()
    directions = () if adapter is None else ("in", "out") if can.inbound else ("out",)
    return Listed(
        channel=name, directions=directions, can=tuple(one for one in ABILITIES if getattr(can, one)),
        contacts=sum(name in contact.addresses for contact in settings.contacts.values()), ok=ok, health=health,
    )  # fmt: skip


# ---------------------------------------------------------------------- a test


@channels.command("test")
def send_test(
    ctx: typer.Context,
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel, and no other.")],
    contact: Annotated[str, typer.Argument(metavar="CONTACT", help="The contact's id.")],
    seconds: Annotated[
        float, typer.Option("--wait", min=1, help="Seconds to wait for the provider's report.")
    ] = 60,
    config: Config = None,
    json: Json = False,
) -> None:
    """Send a test message through one channel, and tell each thing that becomes of it; exit code 1 unless it was sent."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        written = write_test(runtime.database, runtime.world, contact, channel)
        final = final_statuses(runtime, written)
        began = time.monotonic()
        statuses: list[str] = []

        def look(delivery: Any) -> bool | None:
            if delivery.status not in statuses[-1:]:
                statuses.append(str(delivery.status))
                if not choices.json:
                    say((f"{time.monotonic() - began:4.1f} s  ", "dim"), str(status_text(delivery.status)))
            is_left = (
                delivery.status == DeliveryStatus.PENDING and delivery.held is None and delivery.tries == 0
            )
            if is_left and time.monotonic() - began > WORKER_SECONDS:
                runtime.run_deliveries([str(delivery.id)])
            return delivery.status in final or None

        wait(runtime, written, seconds, look)
        delivery = latest(runtime, written)
    if choices.json:
        facts = {
            "status": delivery.status,
            "statuses": statuses,
            "error": delivery.error,
            "held": delivery.held,
        }
        print_json(
            {"channel": channel, "contact": contact, "reports": DeliveryStatus.SENT not in final, **facts}
        )
        if delivery.status not in REACHED:
            raise typer.Exit(1)
    else:
        tell_outcome(written, delivery, DeliveryStatus.SENT in final, seconds)


# ---------------------------------------------------------------------- what providers must be told


@channels.command()
def webhooks(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="Where the web process can be reached; public_url by default."
        ),
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """What to enter in each provider's console so that it calls wakeloop."""
    choices = chosen(ctx, config, json)
    quiet()
    settings = load_settings(path=choices.config, public_url=url)
    if settings.public_url is None:
        fail('no provider can call: set public_url = "https://…" in wakeloop.toml, or give --url https://…')
    adapters, broken = _adapters(settings)
    found = guides(settings, adapters)
    if choices.json:
        print_json(
            [
                {"channel": name, "enter": [{"where": where, "what": what} for where, what in pairs]}
                for name, pairs in found.items()
            ]
        )
    elif not found:
        say(("no channel that is set up is called by a provider", "yellow"))
    else:
        shown = table("channel", "where", "what")
        for name, pairs in found.items():
            for index, (where, what) in enumerate(pairs):
                shown.add_row(Text("" if index else name, style="bold"), where, what)
        console().print(shown)
    if broken:
        fail("\n".join(why for _, why in broken.values()))
