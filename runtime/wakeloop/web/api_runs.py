"""The API's operations on agents, their runs, their sessions, and the files that came with messages."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from wakeloop.attachments import kept_id
from wakeloop.coming import next_by_agent
from wakeloop.engine.journal import load_waits
from wakeloop.errors import NotFound
from wakeloop.events import Message
from wakeloop.status import OPEN_RUN, RunStatus
from wakeloop.store import files, listing, queries, turns
from wakeloop.terminal import trigger_words
from wakeloop.tokens import Scope
from wakeloop.views import message_view, run_view, wakeup_view
from wakeloop.web.api_access import Caller, needs, runtime_of
from wakeloop.web.api_models import (
    AgentOut,
    Agents,
    JournalEntry,
    Key,
    MessageOut,
    NewRetry,
    NewRun,
    RunDetail,
    RunOut,
    RunPage,
    SessionDetail,
    SessionOut,
    Sessions,
    Started,
    WaitOut,
    WakeupOut,
)
from wakeloop.web.api_problems import problems
from wakeloop.web.api_requests import Limit, Wait
from wakeloop.web.api_waiting import Waiting
from wakeloop.wiring import Runtime

MESSAGES_SHOWN = 50
JOURNAL_SHOWN = 200
FILE_TYPE = "application/octet-stream"

router = APIRouter()

Reads = Annotated[Caller, Depends(needs(Scope.RUNS_READ))]
Starts = Annotated[Caller, Depends(needs(Scope.AGENTS_START))]
AgentName = Annotated[str, Path(description="The agent's name.", max_length=200)]
OfAgent = Annotated[str | None, Query(description="Only this agent's.", max_length=200)]


# ---------------------------------------------------------------------- agents


@router.get("/agents", responses=problems())
def list_agents(
    caller: Annotated[Caller, Depends(needs(Scope.RUNS_READ, Scope.AGENTS_START))], request: Request
) -> Agents:
    """The agents that this process knows. Scope `runs:read` or `agents:start`."""
    runtime = runtime_of(request)
    following = next_by_agent(runtime.database, runtime.world.registry)
    return Agents(
        agents=[
            AgentOut(
                name=agent.name, summary=(agent.handler.__doc__ or "").strip().partition("\n")[0],
                triggers=[trigger_words(trigger) for trigger in agent.triggers], next=following.get(agent.name),
                queue=agent.queue, while_busy=agent.while_busy,
            )
            for agent in runtime.world.registry.agents
        ]
    )  # fmt: skip


@router.post(
    "/agents/{agent}/runs",
    status_code=201,
    responses={
        200: {"model": Started, "description": "It was there already, just so."},
        **problems(404, 409),
    },
)
def start_agent(
    agent: AgentName, new: NewRun, caller: Starts, request: Request, response: Response
) -> Started:
    """Start a run of an agent. Scope `agents:start`.

    With an `id` of your own it can be sent again: the same start gives the same run (200), another a 409."""
    run, is_new = runtime_of(request).intake.start_once(agent, new.input, key=new.key, id=new.id)
    response.status_code = 201 if is_new else 200
    response.headers["location"] = f"/api/v1/runs/{run}"
    return Started(run=run, agent=agent, key=new.key)


# ---------------------------------------------------------------------- runs


@router.get("/runs", responses=problems())
def list_runs(
    caller: Reads,
    request: Request,
    agent: OfAgent = None,
    status: Annotated[RunStatus | None, Query(description="Only those that stand like this.")] = None,
    limit: Limit = 50,
    before: Annotated[UUID | None, Query(description="Only those before this one.")] = None,
) -> RunPage:
    """The runs, newest first. Scope `runs:read`."""
    with runtime_of(request).database.read() as connection:
        rows = listing.runs_page(connection, agent=agent, status=status, before=before, limit=limit + 1)
    page = [_run(row) for row in rows[:limit]]
    return RunPage(runs=page, next=page[-1].id if len(rows) > limit else None)


@router.get("/runs/{id}", responses=problems(404))
async def get_run(id: UUID, caller: Reads, request: Request, wait: Wait = 0) -> RunDetail:
    """One run: its result or error, and what it did. With `wait` the answer comes when it has completed, failed, got
    stuck or been cancelled, or as it is after so many seconds. Scope `runs:read`."""
    runtime = runtime_of(request)
    run = await run_in_threadpool(_detail, runtime, id)
    if run.status in OPEN_RUN and wait > 0:
        waiting: Waiting = request.app.state.runs
        await waiting.wait(id, wait, request)
        run = await run_in_threadpool(_detail, runtime, id)
    return run


@router.post("/runs/{id}/cancel", status_code=202, responses=problems(404, 409))
def cancel_run(id: UUID, caller: Starts, request: Request) -> Started:
    """End a run: an open one is told where it waits and may clean up; cancelled again, it is ended there. Scope
    `agents:start`."""
    runtime = runtime_of(request)
    runtime.operations.cancel(id)
    return _named(runtime, id)


@router.post("/runs/{id}/restart", status_code=201, responses=problems(404, 409))
def restart_run(id: UUID, caller: Starts, request: Request) -> Started:
    """Queue a new run of the same event; one that is not over is cancelled. Scope `agents:start`."""
    runtime = runtime_of(request)
    return _named(runtime, runtime.operations.restart(id))


@router.post("/runs/{id}/retry", status_code=202, responses=problems(404, 409))
def retry_run(id: UUID, caller: Starts, request: Request, body: NewRetry | None = None) -> Started:
    """Let a failed or stuck run go on from its last recorded step. Scope `agents:start`."""
    runtime = runtime_of(request)
    told = body or NewRetry()
    runtime.operations.retry(id, repeat=told.repeat, result=told.result, fail=told.fail)
    return _named(runtime, id)


def _named(runtime: Runtime, id: UUID) -> Started:
    row = _row(runtime, id)
    return Started(run=id, agent=row.agent, key=row.key)


def _row(runtime: Runtime, id: UUID) -> Any:
    with runtime.database.read() as connection:
        row = queries.find_run(connection, id)
    if row is None:
        raise NotFound(f"there is no run {id}")
    return row


def _run(row: Any) -> RunOut:
    return RunOut.model_validate(_facts(row))


def _facts(row: Any) -> dict[str, Any]:
    view = run_view(row, None)
    waits = load_waits(row.waits) if row.waits else ()
    names = (
        "id", "agent", "key", "status", "result", "error", "skipped", "skip_count", "created_at", "started_at",
        "ended_at", "wake_at",
    )  # fmt: skip
    return {
        **{name: getattr(view, name) for name in names},
        "event": view.event.model_dump(mode="json"),
        "waits": [
            WaitOut(
                kind=str(one.kind), name=one.name, due=one.due, match=dict(one.match) if one.match else None
            )
            for one in waits
        ],
    }


def _detail(runtime: Runtime, id: UUID) -> RunDetail:
    with runtime.database.read() as connection:
        row = queries.find_run(connection, id)
        if row is None:
            raise NotFound(f"there is no run {id}")
        journal = turns.load_journals(connection, [id]).get(id, [])
        asked = queries.list_requests(connection, run=id)
    return RunDetail(
        **_facts(row),
        traceback=run_view(row, None).traceback,
        journal=[
            JournalEntry(seq=one.seq, op=one.op, kind=str(one.kind), name=one.name, ok=one.ok, at=one.at)
            for one in journal[-JOURNAL_SHOWN:]
        ],
        journal_length=len(journal),
        requests=[one.id for one in asked],
    )


# ---------------------------------------------------------------------- sessions


@router.get("/sessions", responses=problems())
def list_sessions(caller: Reads, request: Request, agent: OfAgent = None, limit: Limit = 50) -> Sessions:
    """The sessions, by agent and key, with their state. Scope `runs:read`."""
    with runtime_of(request).database.read() as connection:
        rows = listing.sessions_page(connection, agent=agent, limit=limit)
    return Sessions(sessions=[SessionOut.model_validate(_session(row, row.open_runs)) for row in rows])


@router.get("/sessions/{agent}/{key:path}", responses=problems(404))
def get_session(
    agent: AgentName, key: Annotated[Key, Path()], caller: Reads, request: Request
) -> SessionDetail:
    """One session: its state, coming wakeups, last messages and open runs. Scope `runs:read`."""
    with runtime_of(request).database.read() as connection:
        row = queries.find_session(connection, agent, key)
        if row is None:
            raise NotFound(f"there is no session {agent}/{key}")
        runs = queries.open_runs(connection, row.id)
        messages = [
            message_view(one) for one in listing.last_messages(connection, row.id, limit=MESSAGES_SHOWN)
        ]
        wakeups = [wakeup_view(one) for one in listing.wakeups(connection, row.id)]
    return SessionDetail(
        **_session(row, len(runs)),
        wakeups=[
            WakeupOut(id=one.id, schedule=trigger_words(one.schedule), next=one.next, own=one.own) for one in wakeups
        ],
        messages=[_message(one) for one in messages],
        runs=[_run(one) for one in runs],
    )  # fmt: skip


def _message(message: Message) -> MessageOut:
    attached = [
        {"name": one.name, "content_type": one.content_type, "file": kept_id(one)} for one in message.attachments
    ]  # fmt: skip
    return MessageOut.model_validate(message.model_dump() | {"attachments": attached})


@router.get(
    "/files/{id}",
    response_class=Response,
    responses={
        200: {
            "description": "The bytes of the file, to be saved.",
            "content": {FILE_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems(404),
    },
)
def get_file(id: UUID, caller: Reads, request: Request) -> Response:
    """A file that came with a message: its id is in the attachment's `url`, behind `wakeloop:files/`. Scope `runs:read`."""
    with runtime_of(request).database.read() as connection:
        found = files.facts(connection, id)
        if found is None:
            raise NotFound(f"there is no file {id}")
        data = files.data(connection, id)
    # Whatever its sender called it, no browser is to show it as a page of this server's.
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(found.name, safe='')}",
        "x-content-type-options": "nosniff",
    }
    return Response(data, media_type=FILE_TYPE, headers=headers)


def _session(row: Any, open_runs: int) -> dict[str, Any]:
    return {
        "agent": row.agent, "key": row.key, "open_runs": open_runs, "due_at": row.due_at,
        "created_at": row.created_at, "state": None if row.state is None else from_json(row.state),
    }  # fmt: skip
