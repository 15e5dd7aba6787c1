"""The commands by which people make something happen: they change the store, and whoever works on it takes it up."""

from __future__ import annotations

import time
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic_core import from_json

from wakeloop.channel import Incoming
from wakeloop.cli.base import Config, Json, chosen, fail, opened_runtime, print_json, say
from wakeloop.errors import NotFound
from wakeloop.events import Signal
from wakeloop.status import OPEN_RUN, RunStatus
from wakeloop.store import queries
from wakeloop.terminal import STATUS_STYLES, error_console, short
from wakeloop.triggers import KEY_CHARACTERS, is_key
from wakeloop.views import RunView, run_view
from wakeloop.wiring import Runtime

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 5.0
"""After so long in the queue, people are told that perhaps nobody works on it."""


def start(
    ctx: typer.Context,
    agent: Annotated[str, typer.Argument(help="The agent's name.")],
    input: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="What `ctx.event.input` is.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="The session to run in.")] = "default",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the run's end; exit code 1 unless it completes.")
    ] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Start a run of an agent by hand."""
    choices = chosen(ctx, config, json)
    value = _json(input, "--input")
    if not is_key(key):
        raise typer.BadParameter(
            f"a session's key has from 1 to {KEY_CHARACTERS} characters, this one {len(key)}",
            param_hint="--key",
        )
    with opened_runtime(choices) as runtime:
        try:
            id = runtime.intake.start(agent, value, key=key)
        except NotFound as error:
            fail("\n".join([str(error), *(str(problem) for problem in runtime.problems)]))
        if not choices.json:
            say("started run ", (id, "bold"), f" of {agent}/{key}")
        elif not wait:
            print_json({"run": id, "agent": agent, "key": key})
        if wait:
            run = _wait_for(runtime, UUID(id))
            if choices.json:
                print_json(run)
            else:
                say(
                    "it is ",
                    (run.status, STATUS_STYLES.get(run.status, "")),
                    f": {short(run.error or run.result, 500)}",
                )
            raise typer.Exit(0 if run.status == RunStatus.COMPLETED else 1)


def _wait_for(runtime: Runtime, id: UUID) -> RunView:
    """The run when it is over or parked. Tells once if nobody seems to take it up."""
    since = time.monotonic()
    told = False
    while True:
        with runtime.database.read() as connection:
            row = queries.find_run(connection, id)
        assert row is not None
        if row.status not in OPEN_RUN:
            return run_view(row, None)
        if row.status == RunStatus.QUEUED and not told and time.monotonic() - since > PATIENCE_SECONDS:
            told = True
            error_console().print("nobody has taken it up yet: is `wakeloop dev` or a worker running?")
        time.sleep(POLL_SECONDS)


def signal(
    ctx: typer.Context,
    type: Annotated[str, typer.Argument(help="The signal's type, such as `invoice.paid`.")],
    data: Annotated[str | None, typer.Option("--data", metavar="JSON", help="What it says.")] = None,
    id: Annotated[
        str | None, typer.Option("--id", help="Its id; the same from one source counts once.")
    ] = None,
    source: Annotated[str, typer.Option("--source", help="Where it comes from.")] = "wakeloop",
    subject: Annotated[str | None, typer.Option("--subject", help="What it is about.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Publish a signal to the agents that listen for it."""
    choices = chosen(ctx, config, json)
    value = _json(data, "--data")
    if not type:
        raise typer.BadParameter("a signal has a type, such as invoice.paid", param_hint="TYPE")
    with opened_runtime(choices) as runtime:
        made = Signal(
            type=type,
            data=value,
            id=id or str(runtime.world.ids.new_id()),
            source=source,
            subject=subject,
            time=runtime.database.now(),
        )
        sessions = runtime.intake.signal(made)
        reasons = runtime.world.registry.without_key(made)
    if choices.json:
        print_json({"id": made.id, "sessions": sessions})
        return
    if sessions:
        say("signal ", (made.id, "bold"), f" is for {', '.join(sessions)}")
    elif not reasons:
        say(("no agent listens", "yellow"), f" for {type}; nothing was recorded")
    for reason in reasons:
        say(("not taken ", "yellow"), f"by {reason}")


def reply(
    ctx: typer.Context,
    contact: Annotated[str, typer.Argument(help="The contact's id.")],
    text: Annotated[list[str], typer.Argument(help="What they say.")],
    channel: Annotated[
        str | None, typer.Option("--channel", help="How it comes; as they were last written to by default.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take in a message as if a contact had sent it, with the routing of a real one."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        people = runtime.world.people
        if channel is None:
            addresses = dict(people.route(contact))
            with runtime.database.read() as connection:
                last = queries.last_channel(connection, contact)
            channel = last if last in addresses else next(iter(addresses))
        [(channel, address)] = people.route(contact, channel)
        id = f"cli-{runtime.world.ids.new_id()}"
        outcome = runtime.intake.incoming(
            channel, Incoming(provider_id=id, address=address, text=" ".join(text)), auth="command line"
        )
    if choices.json:
        print_json({"contact": contact, "channel": channel, "outcome": outcome})
    else:
        say((contact, "bold"), f" by {channel}: {outcome}")


def retry(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id, or its beginning or end.")],
    repeat: Annotated[bool, typer.Option("--repeat", help="Do the step of unknown outcome again.")] = False,
    result: Annotated[
        str | None, typer.Option("--result", metavar="JSON", help="That step's result.")
    ] = None,
    failed: Annotated[str | None, typer.Option("--fail", metavar="REASON", help="That step failed.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Let a failed or stuck run go on from its last recorded step."""
    choices = chosen(ctx, config, json)
    value = None if result is None else {"value": _json(result, "--result")}
    with opened_runtime(choices) as runtime:
        id = runtime.operations.find(run)
        runtime.operations.retry(id, repeat=repeat, result=value, fail=failed)
    _done(choices.json, {"run": str(id)}, "run ", (str(id), "bold"), " goes on from its last recorded step")


def restart(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id, or its beginning or end.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Run a run's event again from the beginning; a run that is not over is cancelled."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        id = runtime.operations.find(run)
        new = runtime.operations.restart(id)
    _done(
        choices.json,
        {"run": str(new), "instead_of": str(id)},
        "run ",
        (str(new), "bold"),
        f" begins instead of {id}",
    )


def cancel(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id, or its beginning or end.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """End a run: an open one is cancelled where it waits and may clean up."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        id = runtime.operations.find(run)
        runtime.operations.cancel(id)
    _done(choices.json, {"run": str(id)}, "run ", (str(id), "bold"), " is being cancelled")


def _done(as_json: bool, data: dict[str, Any], *words: str | tuple[str, str]) -> None:
    if as_json:
        print_json(data)
    else:
        say(*words)


def _json(text: str | None, option: str) -> Any:
    if text is None:
        return None
    try:
        return from_json(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{short(text, 40)} is no JSON ({error}); text needs quotes of its own: {option} '\"text\"'",
            param_hint=option,
        ) from None
