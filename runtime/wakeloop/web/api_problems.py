"""How the API says no: every refusal is a problem document (RFC 9457), and none of them shows the inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from wakeloop.answers import Unreadable
from wakeloop.errors import NotFound, NotPossible, NotSerializable, ValueTooLarge
from wakeloop.logs import get_logger
from wakeloop.store.database import is_outage

log = get_logger("wakeloop.api")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5


class ProblemPart(BaseModel):
    """One thing that is wrong with what was sent."""

    loc: list[str | int] = Field(
        description="Where it is: `body`, `query` or `path`, and the way from there."
    )
    msg: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """Why something was refused (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`about:blank`: the title says all there is to the kind of problem.")
    title: str
    status: int
    detail: str = Field(description="What happened, and what to do.")
    errors: list[ProblemPart] | None = None


class Refused(Exception):
    """A request that is answered with a problem. errors: what is wrong where; facts: further members of the problem."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[tuple[Sequence[str | int], str]] = (),
        headers: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = [{"loc": list(loc), "msg": msg} for loc, msg in errors]
        self.headers = dict(headers or {})
        self.facts = facts

    @classmethod
    def field(cls, name: str, reason: str) -> Refused:
        """The refusal of one field of the body."""
        return cls(422, f"{name}: {reason}", errors=[(["body", name], reason)])

    def response(self) -> JSONResponse:
        """The problem document."""
        errors = {"errors": self.errors} if self.errors else {}
        return problem(self.status, self.detail, headers=self.headers, **errors, **self.facts)


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **facts: Any
) -> JSONResponse:
    """A problem document; `facts` are members beside those of the RFC."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body = content | {name: to_jsonable_python(fact) for name, fact in facts.items()}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


_SAID = {
    400: "What was sent is no JSON that can be taken, or has a character that cannot be stored.",
    401: "There is no token, or none that works.",
    403: "The token is not good for this.",
    404: "There is no such thing.",
    409: "It is not in a state that allows this.",
    413: "The body is too large.",
    415: "The body is of a kind that is not taken here.",
    422: "What was sent does not fit; `errors` says what is wrong where.",
    429: "Too many wrong tokens came from this address; send it again after `Retry-After` seconds.",
    500: "A mistake of ours; the log has it.",
    503: "The store is away; send it again after `Retry-After` seconds.",
}
_ALWAYS = (400, 401, 403, 413, 415, 422, 429, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of an operation's refusals: those of all operations, and these."""
    return {
        status: {
            "description": _SAID[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*_ALWAYS, *statuses})
    }


def add_handlers(app: FastAPI) -> None:
    """Make an app answer with problem documents, whatever goes wrong."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(NotFound, _not_found)
    app.add_exception_handler(NotPossible, _not_possible)
    app.add_exception_handler(Unreadable, _unreadable)
    app.add_exception_handler(NotSerializable, _unreadable)
    app.add_exception_handler(ValueTooLarge, _too_large)
    app.add_exception_handler(SQLAlchemyError, _store)
    app.add_exception_handler(Exception, _unexpected)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return error.response()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"loc": list(one["loc"]), "msg": str(one["msg"]).removeprefix("Value error, ")}
        for one in error.errors()[:50]
    ]
    detail = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors[:5])
    return problem(422, detail or "what was sent does not fit", errors=errors)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), headers=error.headers)


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    return problem(404, str(error))


async def _not_possible(request: Request, error: Exception) -> JSONResponse:
    return problem(409, str(error))


async def _unreadable(request: Request, error: Exception) -> JSONResponse:
    return problem(422, str(error), errors=[{"loc": ["body"], "msg": str(error)}])


async def _too_large(request: Request, error: Exception) -> JSONResponse:
    return problem(413, str(error))


async def _store(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SQLAlchemyError)
    if not (is_outage(error) or isinstance(error, PoolTimeout)):
        raise error
    cause = str(getattr(error, "orig", None) or error).partition("\n")[0]
    log.error("the database is away", path=request.url.path, error=cause)
    return problem(503, "the store is away; send it again", headers={"retry-after": str(RETRY_AFTER_SECONDS)})


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """The server's log has the error itself: it goes on past this handler."""
    return problem(500, "this is a mistake of ours; the log of the server has it")
