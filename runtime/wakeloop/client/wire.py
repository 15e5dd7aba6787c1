"""What goes over the wire: the calls to a server's HTTP API, what comes back, and which error a refusal is."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue
from pydantic_core import from_json, to_json

from wakeloop.asking import Settled
from wakeloop.errors import ApiError, ConfigurationError, NotAllowed, NotFound, NotPossible, WakeloopError
from wakeloop.status import OPEN_RUN, RequestStatus, RunStatus

T = TypeVar("T")

API_PATH = "/api/v1"
JSON_TYPE = "application/json"
EVENT_TYPE = "application/cloudevents+json"

# ---------------------------------------------------------------------- what the plans ask of whoever does the I/O


@dataclass(frozen=True, kw_only=True)
class Send:
    """Send a call and give its `Reply`, or `Lost`. path: after API_PATH, with its query. seconds: how long the reply may
    take. scope: what a token needs for it. is_last: the caller is gone already; it must not be given up with them."""

    method: str
    path: str
    scope: str
    seconds: float
    body: bytes | None = None
    content_type: str = JSON_TYPE
    is_last: bool = False


@dataclass(frozen=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered. headers: with lower-case names."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def retry_after(self, now: datetime) -> float | None:
        """The seconds after which it wants to be called again (RFC 9110, 10.2.3), if it says so."""
        text = self.headers.get("retry-after", "").strip()
        if text.isdecimal():
            return float(text)
        try:
            return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
        except (ValueError, TypeError):  # none, or a date without a zone
            return None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """No answer came. is_final: none ever will, as for a certificate that is not to be trusted."""

    reason: str
    is_final: bool = False


Plan = Generator[Send | Pause, Reply | Lost | None, T]
"""Something to do in several calls: it yields what to do next, gets what came of it, and returns its result. An exception
in the doing, be it that the caller gave up, is thrown into it, so that it can clean up."""


# ---------------------------------------------------------------------- what a server tells


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Request(_Record):
    """A question or approval, as a server tells of it.

    to: whom it was made for; asked: the contacts who were asked so far. args, digest: of an approval, the arguments as
    they are now. votes: who has approved those. outcome: how it ended; None while it is open. agent, key, run: whose it
    is, if a run's; else maker made it, and state is what it was made with.
    """

    id: str
    kind: str
    status: RequestStatus
    code: str | None = None
    to: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    text: str = ""
    subject: str | None = None
    options: tuple[str, ...] = ()
    action: str | None = None
    args: dict[str, JsonValue] | None = None
    digest: str | None = None
    quorum: int = 1
    votes: tuple[str, ...] = ()
    is_editable: bool = False
    outcome: Settled | None = None
    agent: str | None = None
    key: str | None = None
    run: str | None = None
    maker: str | None = None
    state: JsonValue = None
    created_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    settled_at: AwareDatetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether somebody may still decide it."""
        return self.status is RequestStatus.OPEN


class Run(_Record):
    """A run, as a server tells of it. result: what the handler returned, as JSON. error: why it failed, in a line."""

    id: str
    agent: str
    key: str
    status: RunStatus
    result: JsonValue = None
    error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it goes on by itself: it is neither over nor parked."""
        return self.status in OPEN_RUN


class Session(_Record):
    """A session, as a server tells of it. state: as JSON. messages: the last ones. wakeups: what will wake it."""

    agent: str
    key: str
    state: JsonValue = None
    messages: tuple[dict[str, JsonValue], ...] = ()
    wakeups: tuple[dict[str, JsonValue], ...] = ()


# ---------------------------------------------------------------------- reading and writing


def api_url(url: str) -> str:
    """The API's address on a server, such as `http://localhost:8080`. Raises ConfigurationError for what is none."""
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(
            f'{url!r} is no address of a wakeloop server: write it like "http://localhost:8080"'
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigurationError(
            "the address of a wakeloop server has no query, fragment or password: tokens are given as token="
        )
    base = url.rstrip("/")
    return base if base.endswith(API_PATH) else base + API_PATH


def headers_for(token: str | None) -> dict[str, str]:
    """What every call carries. Raises ConfigurationError for a token that no header can hold; never shows it."""
    if token is None:
        return {"accept": JSON_TYPE}
    if (
        not isinstance(token, str)
        or not token.isascii()
        or not token.isprintable()
        or " " in token
        or not token
    ):
        raise ConfigurationError(
            "the token holds characters that none has, such as a line end: was it read from a file?"
        )
    return {"accept": JSON_TYPE, "authorization": f"Bearer {token}"}


def body_of(value: Any) -> bytes:
    """A body of JSON."""
    return to_json(value)


def read(send: Send, reply: Reply) -> Any:
    """What a reply says, as JSON values. Raises the error that a refusal is."""
    told = _json(reply)
    if 200 <= reply.status < 300 and not (told is None and reply.body.strip()):
        return told
    raise _refusal(send, reply, told)


def _json(reply: Reply) -> Any:
    try:
        return from_json(reply.body) if reply.body.strip() else None
    except ValueError:
        return None


def _refusal(send: Send, reply: Reply, told: Any) -> WakeloopError:
    problem = told if isinstance(told, dict) else {}
    facts: dict[str, Any] = {"status": reply.status, "problem": problem}
    said = problem.get("detail") or problem.get("title")
    if said is None:
        return ApiError(
            f"{send.method} {send.path.partition('?')[0]} was answered with {reply.status} by something that is no wakeloop "
            "API: check the address",
            **facts,
        )
    text = str(said)
    match reply.status:
        case 401 | 403:
            hint = "" if send.scope in text else f" (a token for this has the scope {send.scope})"
            return NotAllowed(f"{text}{hint}", scope=send.scope, **facts)
        case 422 if _is_about(problem, "to"):
            # As in a run: who is not there is not found, and who is there but may not decide cannot be asked.
            return (NotPossible if " may give one" in text else NotFound)(text, **facts)
        case 404:
            return NotFound(text, **facts)
        case 409:
            return NotPossible(text, **facts)
        case _:
            return ApiError(f"the server refused this ({reply.status}): {text}{_errors(problem)}", **facts)


def _is_about(problem: Mapping[str, Any], field: str) -> bool:
    """Whether one field of the body is what the server found wrong, and nothing else."""
    found = problem.get("errors")
    return isinstance(found, list) and [one.get("loc") for one in found if isinstance(one, dict)] == [
        ["body", field]
    ]


def _errors(problem: Mapping[str, Any]) -> str:
    """Where the server found what is wrong, if it lists that."""
    found = problem.get("errors")
    lines: list[str] = []
    for one in found if isinstance(found, list) else []:
        if isinstance(one, dict):
            place = one.get("loc") or one.get("pointer") or one.get("field") or ""
            name = ".".join(map(str, place)) if isinstance(place, list) else str(place)
            what = str(one.get("msg") or one.get("detail") or one.get("message") or "")
            lines.append(f"{name}: {what}" if name else what)
    return f" ({'; '.join(lines)})" if lines else ""
