"""The HTTP API under /api/v1: an app of its own, with its own errors and its own OpenAPI document."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from wakeloop import __version__
from wakeloop.store import listing
from wakeloop.web import api_requests, api_runs, api_signals
from wakeloop.web.access import TRIES_SECONDS
from wakeloop.web.api_body import BodyGuard
from wakeloop.web.api_problems import Problem, add_handlers
from wakeloop.web.api_waiting import Waiting
from wakeloop.web.limits import FailureLimit
from wakeloop.web.traced import OURS_ALONE
from wakeloop.wiring import Runtime

PREFIX = "/api/v1"
_DESCRIPTION = """\
Ask people, start agents, send signals, and see what became of it.

Every operation needs a token (`Authorization: Bearer wl_…`) with the scope that it names; `wakeloop tokens create` makes
one. A server that listens on this machine only takes calls from this machine without. Refusals are problem documents
(RFC 9457)."""


def make_api(runtime: Runtime) -> FastAPI:
    """The API of a runtime, to be mounted at PREFIX.

    Its `state.stop()` is to be called in the loop when the process is to stop: who waits for something is answered."""
    app = FastAPI(
        title="wakeloop",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        servers=[{"url": PREFIX}],
        root_path_in_servers=False,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        telemetry=OURS_ALONE,
    )
    app.state.runtime = runtime
    app.state.wrong_tokens = FailureLimit(runtime.settings.wrong_tokens, TRIES_SECONDS)

    def ended_requests(ids: Collection[UUID]) -> Collection[UUID]:
        with runtime.database.read() as connection:
            return listing.ended_requests(connection, ids)

    def ended_runs(ids: Collection[UUID]) -> Collection[UUID]:
        with runtime.database.read() as connection:
            return listing.ended_runs(connection, ids)

    app.state.requests, app.state.runs = Waiting(ended_requests), Waiting(ended_runs)

    def stop() -> None:
        app.state.requests.stop()
        app.state.runs.stop()

    app.state.stop = stop
    for part, tag in ((api_requests, "people"), (api_runs, "agents"), (api_signals, "signals")):
        app.include_router(part.router, tags=[tag])
    add_handlers(app)
    app.add_middleware(BodyGuard)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: FastAPI's, with the schema of problems that our responses refer to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            description=app.description,
            routes=app.routes,
            servers=app.servers,
        )
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document["components"]["schemas"]
        schemas |= problem.pop("$defs") | {"Problem": problem}
        for operation in (one for path in document["paths"].values() for one in path.values()):
            # FastAPI lists scopes as if all were needed; here any of them will do.
            operation["security"] = [
                {name: [scope]}
                for one in operation["security"]
                for name, scopes in one.items()
                for scope in scopes
            ]
        app.openapi_schema = document
    return app.openapi_schema
