"""Routes of pages: whatever goes wrong on the way to one is told on a page, in plain words and without details."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.requests import ClientDisconnect

from wakeloop.logs import get_logger
from wakeloop.store.database import is_outage
from wakeloop.web.rendering import Pages
from wakeloop.web.security import Refusal

log = get_logger("wakeloop.web")

RETRY_AFTER_SECONDS = 5


def page_route(pages: Pages) -> type[APIRoute]:
    """The class of routes whose refusals become pages."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    return await handle(request)
                except Refusal as refusal:
                    log.info("page refused", route=self.path, status=refusal.status, reason=refusal.title)
                    return pages.refusal(refusal.status, refusal.title, refusal.words)
                except ClientDisconnect:
                    return pages.refusal(400, "That ended early", "Please send it again.")
                except SQLAlchemyError as error:
                    if not (is_outage(error) or isinstance(error, PoolTimeout)):
                        raise
                    cause = str(getattr(error, "orig", None) or error).partition("\n")[0]
                    log.error("page not shown: the database is away", route=self.path, error=cause)
                    answer = pages.refusal(
                        503, "Please try again in a moment",
                        "Something that this page needs cannot be reached. Nothing that you have sent just now has been "
                        "recorded.",
                    )  # fmt: skip
                    answer.headers["retry-after"] = str(RETRY_AFTER_SECONDS)
                    return answer

            return guarded

    return PageRoute
