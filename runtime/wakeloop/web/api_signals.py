"""The API's operation for signals: CloudEvents in, to every session that listens."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from wakeloop.events import Signal
from wakeloop.tokens import Scope
from wakeloop.web.api_access import Caller, needs, runtime_of
from wakeloop.web.api_models import SignalOut, Signals
from wakeloop.web.api_problems import problems
from wakeloop.web.cloud_events import BATCH, BATCH_LIMIT, STRUCTURED, read_events
from wakeloop.wiring import Runtime

router = APIRouter()

_EVENT = {
    "specversion": "1.0", "id": "A234-1234-1234", "source": "https://shop.example.com", "type": "invoice.paid",
    "subject": "7", "time": "2026-11-02T14:00:00Z", "datacontenttype": "application/json", "data": {"amount": 40},
}  # fmt: skip
_TEXT = {"type": "string", "minLength": 1, "maxLength": 1000}
_EVENT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _TEXT,
        "source": _TEXT,
        "type": _TEXT,
        "subject": {**_TEXT, "type": ["string", "null"]},
        "time": {"type": ["string", "null"], "format": "date-time"},
        "datacontenttype": {**_TEXT, "type": ["string", "null"]},
        "dataschema": {**_TEXT, "type": ["string", "null"]},
        "data": {},
        "data_base64": {"type": ["string", "null"], "contentEncoding": "base64"},
    },
}
_HEADERS = [
    {"name": f"ce-{name}", "in": "header", "schema": {"type": "string"}, "description": said}
    for name, said in (
        ("specversion", "Binary mode only: `1.0`."),
        ("id", "Binary mode only, required there: with its source, an event counts once."),
        ("source", "Binary mode only, required there: who sends it, a URI reference."),
        ("type", "Binary mode only, required there: what agents listen for."),
        ("subject", "Binary mode only: what it is about."),
        ("time", "Binary mode only: when it happened (RFC 3339)."),
    )
]
_DOCUMENTED: dict[str, Any] = {
    "parameters": _HEADERS,
    "requestBody": {
        "required": True,
        "content": {
            STRUCTURED: {"schema": _EVENT_SCHEMA, "example": _EVENT},
            BATCH: {
                "schema": {"type": "array", "items": _EVENT_SCHEMA, "maxItems": BATCH_LIMIT},
                "example": [_EVENT],
            },
            "application/json": {
                "schema": {"description": "The data, in binary mode."},
                "example": {"amount": 40},
            },
        },
    },
}


@router.post("/signals", status_code=202, responses=problems(), openapi_extra=_DOCUMENTED)
async def send_signals(
    caller: Annotated[Caller, Depends(needs(Scope.SIGNALS_SEND))], request: Request
) -> Signals:
    """Publish CloudEvents 1.0 to the agents that listen for their type: structured, batched or in binary mode. An event
    counts once by its source and id; of a batch either all are well formed, or none is taken. Scope `signals:send`."""
    runtime = runtime_of(request)
    events = read_events(request.headers, await request.body(), runtime.database.now)
    return await run_in_threadpool(_take, runtime, events)


def _take(runtime: Runtime, events: list[Signal]) -> Signals:
    return Signals(signals=[SignalOut(id=one.id, sessions=runtime.intake.signal(one)) for one in events])
