"""The commands by which people look: agents, what comes next, sessions and runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic_core import from_json
from rich.text import Text

from wakeloop.agent import Agent
from wakeloop.cli.base import (
    Choices,
    Config,
    Json,
    chosen,
    console,
    opened,
    opened_runtime,
    print_json,
    say,
    status_text,
    table,
)
from wakeloop.cli.words import event_words, record_words, request_of, short_id, wait_words
from wakeloop.coming import coming, next_by_agent
from wakeloop.engine.failures import Failure
from wakeloop.engine.journal import Kind, Record, load_waits
from wakeloop.errors import NotFound
from wakeloop.operations import find_run
from wakeloop.status import RunStatus
from wakeloop.store import queries, turns
from wakeloop.store import requests as request_store
from wakeloop.store.database import Database
from wakeloop.terminal import STATUS_STYLES, distance, duration, moment, short, trigger_words
from wakeloop.views import request_view, run_view

runs = typer.Typer(invoke_without_command=True, help="The runs, newest first; `runs show ID` shows one.")


def agents(ctx: typer.Context, config: Config = None, json: Json = False) -> None:
    """The agents, what wakes them, and the files that could not be loaded."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        registry, problems = runtime.world.registry, runtime.problems
        following = next_by_agent(runtime.database, registry)
        now = runtime.database.now()
    if choices.json:
        print_json(
            {
                "agents": [_agent_data(one) | {"next": following.get(one.name)} for one in registry.agents],
                "problems": [
                    {"file": str(one.file), "line": one.line, "message": one.message} for one in problems
                ],
            }
        )
        return
    shown = table("agent", "next", "woken by", "what it does")
    for one in registry.agents:
        at = following.get(one.name)
        shown.add_row(
            Text(one.name, style="bold"),
            f"{moment(at, now)} ({distance(at, now)})" if at else "",
            "\n".join(trigger_words(trigger) for trigger in one.triggers)
            or Text("started by hand", style="dim"),
            _summary(one),
        )
    if registry.agents:
        console().print(shown)
    else:
        say(
            ("there is no agent yet", "yellow"),
            f" in {runtime.settings.agents_dir}; `wakeloop init` writes a first one",
        )
    for problem in problems:
        say(("✗ ", "red"), str(problem))


def _agent_data(agent: Agent) -> dict[str, Any]:
    return {
        "name": agent.name,
        "summary": _summary(agent),
        "triggers": [trigger_words(trigger) for trigger in agent.triggers],
        "state": agent.state.__name__ if agent.state else None,
        "queue": agent.queue,
        "while_busy": agent.while_busy,
    }


def _summary(agent: Agent) -> str:
    return (agent.handler.__doc__ or "").strip().partition("\n")[0]


def next_(
    ctx: typer.Context,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 10,
    config: Config = None,
    json: Json = False,
) -> None:
    """The coming ticks of all schedules, also those that sessions set for themselves."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        ticks = list(itertools.islice(coming(runtime.database, runtime.world.registry), count))
        now = runtime.database.now()
    if choices.json:
        print_json(
            [
                {"at": one.at, "agent": one.agent, "key": one.key, "schedule": trigger_words(one.schedule),
                 "own": one.own, "known": one.known}
                for one in ticks
            ]
        )  # fmt: skip
        return
    if not ticks:
        say("no agent has a schedule")
        return
    shown = table("at", "", "session", "schedule")
    for one in ticks:
        schedule = Text(trigger_words(one.schedule))
        if one.own:
            schedule.append("  set by itself", style="dim")
        if not one.known:
            schedule.append("  there is no such agent here", style="yellow")
        shown.add_row(
            moment(one.at, now),
            Text(distance(one.at, now), style="dim" if one.at > now else "yellow"),
            Text.assemble((one.agent, "bold"), f"/{one.key}"),
            schedule,
        )
    console().print(shown)


def sessions(
    ctx: typer.Context,
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent's.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """The sessions, with their state and what they do next."""
    choices = chosen(ctx, config, json)
    with opened(choices) as (_, database):
        with database.read() as connection:
            rows = queries.list_sessions(connection, agent=agent)
        now = database.now()
    if choices.json:
        print_json(
            [
                {"agent": row.agent, "key": row.key, "open_runs": row.open_runs, "due_at": row.due_at,
                 "created_at": row.created_at, "state": None if row.state is None else from_json(row.state)}
                for row in rows
            ]
        )  # fmt: skip
        return
    if not rows:
        say("there is no session yet")
        return
    shown = table("session", "open runs", "due", "state")
    for row in rows:
        shown.add_row(
            Text.assemble((row.agent, "bold"), f"/{row.key}"),
            str(row.open_runs or ""),
            f"{moment(row.due_at, now)} ({distance(row.due_at, now)})" if row.due_at else "",
            "" if row.state is None else short(row.state, 120),
        )
    console().print(shown)


@runs.callback()
def list_runs(
    ctx: typer.Context,
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent's.")] = None,
    status: Annotated[
        list[RunStatus] | None, typer.Option("--status", help="Only with this status; may be given again.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    config: Config = None,
    json: Json = False,
) -> None:
    """The runs, newest first."""
    choices = chosen(ctx, config, json)
    if ctx.invoked_subcommand is not None:
        ctx.obj = choices
        return
    with opened(choices) as (_, database):
        with database.read() as connection:
            rows = queries.list_runs(connection, agent=agent, statuses=status, limit=limit)
            waits = [wait for row in rows if row.waits for wait in load_waits(row.waits)]
            ids = [id for id in map(request_of, waits) if id is not None]
            found = ((id, queries.find_request(connection, UUID(id))) for id in ids)
            requests = {id: request for id, request in found if request is not None}
        now = database.now()
    if choices.json:
        print_json([run_data(row) for row in rows])
        return
    if not rows:
        say("there is no such run" if agent or status else "there is no run yet")
        return
    shown = table("run", "session", "status", "woken by", "began", "took", "")
    for row in rows:
        run = run_view(row, None)
        begun = run.started_at or run.created_at
        shown.add_row(
            short_id(run.id),
            Text.assemble((run.agent, "bold"), f"/{run.key}"),
            status_text("skipped" if run.skipped else run.status),
            event_words(run.event),
            moment(begun, now),
            duration(run.ended_at - begun) if run.ended_at and run.started_at else "",
            _outcome(row, now, requests),
        )
    console().print(shown)


def run_data(row: Any) -> dict[str, Any]:
    """A run for programs."""
    run = run_view(row, None)
    waits = load_waits(row.waits) if row.waits else ()
    return {
        **{name: getattr(run, name) for name in ("id", "agent", "key", "status", "event", "result", "error")},
        **{name: getattr(run, name) for name in ("skipped", "skip_count", "created_at", "started_at")},
        **{name: getattr(run, name) for name in ("ended_at", "wake_at")},
        "waits": [{"kind": one.kind, "name": one.name, "due": one.due, "match": one.match} for one in waits],
    }


def _outcome(row: Any, now: Any, requests: Mapping[str, Any]) -> Text:
    run = run_view(row, None)
    if run.skipped:
        more = f", {run.skip_count} times" if (run.skip_count or 1) > 1 else ""
        return Text(f"{run.skipped}{more}", style="dim")
    if run.error:
        return Text(short(run.error), style="red")
    if row.waits:
        return Text(f"waits for {wait_words(load_waits(row.waits), now, requests)}")
    return Text("" if run.result is None else f"→ {short(run.result)}")


@runs.command()
def show(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The run's id, or its beginning or end.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """One run: its journal as a timeline, what it waits for, and why it failed."""
    choices = chosen(ctx, config, json)
    with opened(choices) as (_, database):
        _show(choices, database, id)


def _show(choices: Choices, database: Database, fragment: str) -> None:
    found = find_run(database, fragment)
    with database.read() as connection:
        row = queries.find_run(connection, found)
        if row is None:
            raise NotFound(f"there is no run {fragment}; `wakeloop runs` lists them")
        journal = turns.load_journals(connection, [found])[found]
        rows = queries.list_requests(connection, run=found)
        asked = request_store.recipients_of_all(connection, [one.id for one in rows])
        requests = {str(one.id): request_view(one, asked[one.id]) for one in rows}
    now = database.now()
    run = run_view(row, None)
    if choices.json:
        data = run_data(row) | {"traceback": run.traceback}
        data["journal"] = [_record_data(record) for record in journal]
        data["requests"] = list(requests.values())
        print_json(data)
        return
    say(
        ("run ", "dim"), (run.id, "bold"), ("  of ", "dim"), (f"{run.agent}/{run.key}", "bold"), "  ",
        (run.status, STATUS_STYLES.get(run.status, "")), ("  woken by ", "dim"), event_words(run.event),
    )  # fmt: skip
    console().print(_timeline(row, journal, requests))
    if row.waits:
        say(("waits for ", "blue"), wait_words(load_waits(row.waits), now, requests))
    for request in requests.values():
        if request.status == "open":
            say(
                (f"open {request.kind} ", "yellow"),
                f"{request.code} to {', '.join(request.asked)}: {request.title}",
            )
    if run.error:
        say((run.error, "bold red"))
        for trace in filter(None, [_trace_of_last_step(journal), run.traceback]):
            say((trace.rstrip(), "dim"))
        say(
            "next: ",
            ("wakeloop retry ", "bold"),
            (short_id(run.id), "bold"),
            " goes on from its last recorded step",
        )


def _trace_of_last_step(journal: list[Record]) -> str | None:
    """Where the last failed step failed, which the run's own traceback does not show."""
    failed = [record for record in journal if record.kind is Kind.STEP and not record.ok]
    if not failed or not failed[-1].value:
        return None
    return Failure.model_validate_json(failed[-1].value).trace or None


def _record_data(record: Record) -> dict[str, Any]:
    return {
        "seq": record.seq,
        "op": record.op,
        "kind": record.kind,
        "name": record.name,
        "ok": record.ok,
        "value": None if record.value is None else from_json(record.value),
        "at": record.at,
    }


def _timeline(row: Any, journal: list[Record], requests: dict[str, Any]) -> Any:
    """What happened when, and how long after the line before."""
    shown = table("at", "after", "what", "")
    lines: list[tuple[Any, str, str, str]] = [(row.created_at, "queued", "", "dim")]
    if row.started_at:
        lines.append((row.started_at, "started", "", "dim"))
    for record in journal:
        what, came = record_words(record, requests)
        lines.append((record.at, what, came, "" if record.ok else "red"))
    if row.ended_at:
        run = run_view(row, None)
        came = short(run.error or ("" if run.result is None else f"→ {short(run.result)}"))
        lines.append((row.ended_at, row.status, came, STATUS_STYLES.get(row.status, "")))
    before = None
    for at, what, came, style in lines:
        after = at - before if before is not None else timedelta()
        gap = f"+{duration(after)}" if after >= timedelta(milliseconds=1) else ""
        shown.add_row(_precise(at), Text(gap, style="dim"), Text(what, style=style), Text(came, style=style))
        before = at
    return shown


def _precise(at: Any) -> str:
    here = at.astimezone()
    return f"{here:%Y-%m-%d %H:%M:%S}.{here.microsecond // 1000:03}"
