"""Puts the pages into the web app: people's, the operator's, their style sheet and script."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from wakeloop.web.live import Live
from wakeloop.web.operator import operator_router
from wakeloop.web.pages import people_router
from wakeloop.web.rendering import STATIC, Pages
from wakeloop.web.security import SecurityHeaders
from wakeloop.wiring import Runtime


class _Assets(StaticFiles):
    """Files that a browser may keep, and asks about before it uses them again."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "public, no-cache"
        return response


def add_pages(app: FastAPI, runtime: Runtime) -> None:
    """Serve the pages, and put the security headers on every answer of the app."""
    pages = Pages(runtime.settings)
    live = Live(runtime)
    app.state.live = live
    app.state.on_stop.append(live.close)
    app.include_router(people_router(runtime, pages, live))
    app.include_router(operator_router(runtime, pages))
    app.mount("/static", _Assets(directory=STATIC))
    app.add_middleware(SecurityHeaders)
