"""The web app: webhooks of the channels' providers, pages, the API, and the probes of whatever runs the process."""

from __future__ import annotations

import re
from http import HTTPStatus

from fastapi import FastAPI, Response
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.routing import Mount

from wakeloop.errors import ConfigurationError
from wakeloop.logs import get_logger
from wakeloop.web.address import networks
from wakeloop.web.api import PREFIX, make_api
from wakeloop.web.metrics import metrics_router
from wakeloop.web.site import add_pages
from wakeloop.web.traced import OURS_ALONE, Traced
from wakeloop.web.webhooks import Webhooks
from wakeloop.wiring import Runtime

log = get_logger("wakeloop.web")


def make_app(runtime: Runtime) -> FastAPI:
    """The ASGI app of a runtime.

    `GET|POST /webhooks/{channel}` takes what a channel's provider sends, and answers 2xx only after it is recorded;
    while the database is away it answers 503, for the provider to send it again (`wakeloop.web.webhooks`). Once the answer
    is sent, the channel may react to the request, one that repeats another included. `GET /healthz` says that the process
    runs, `GET /readyz` that it can record something. `/api/v1` is the API (`wakeloop.web.api`); people's pages and the
    operator's: see `wakeloop.web.site`.

    `state.on_stop` has what is to be called, in the loop, when the process is to stop.
    """
    app = FastAPI(title="wakeloop", openapi_url=None, telemetry=OURS_ALONE)
    api = make_api(runtime)
    mounted = Mount(PREFIX, api)
    # Starlette's pattern ends at a line end in the path (%0A); such a path is the API's to refuse, too.
    mounted.path_regex = re.compile(mounted.path_regex.pattern, re.DOTALL)
    app.router.routes.append(mounted)
    app.state.api = api
    app.state.on_stop = [api.state.stop]

    @app.get("/healthz")
    async def healthz() -> Response:
        return _line(HTTPStatus.OK, "ok")

    @app.get("/readyz")
    async def readyz() -> Response:
        try:
            await run_in_threadpool(runtime.database.check_schema)
        except (ConfigurationError, PoolTimeout) as error:
            log.warning("not ready", error=str(error))
            return _line(HTTPStatus.SERVICE_UNAVAILABLE, "the database cannot be used; the log says why")
        return _line(HTTPStatus.OK, "ok")

    app.include_router(metrics_router(runtime, api.state.wrong_tokens))
    add_pages(app, runtime)
    runtime.begin_traces()
    app.add_middleware(Webhooks, runtime=runtime)
    app.add_middleware(Traced, api=PREFIX, trusted=networks(runtime.settings.trusted_proxies))
    return app


def _line(status: int, text: str) -> Response:
    """A plain answer of one line."""
    return Response(f"{text}\n", status_code=status, media_type="text/plain")
