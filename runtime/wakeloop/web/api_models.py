"""What the API takes and gives, as pydantic models: the bodies that OpenAPI documents."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, field_validator

from wakeloop.asking import Settled
from wakeloop.granting import Limit
from wakeloop.status import RequestStatus, RunStatus
from wakeloop.triggers import KEY_CHARACTERS

YEARS_SECONDS = 10 * 366 * 86400.0
WAIT_LIMIT_SECONDS = 60
PAGE_LIMIT = 200

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^\S+$")]
Words = Annotated[str, StringConstraints(min_length=1, max_length=10_000, pattern=r"\S")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=KEY_CHARACTERS)]


class Taken(BaseModel):
    """A body: a field that is not known is refused by its name."""

    model_config = ConfigDict(extra="forbid")


class Given(BaseModel):
    """An answer, made from a view."""

    model_config = ConfigDict(from_attributes=True)


# ---------------------------------------------------------------------- requests


class Escalation(Taken):
    """After so many seconds, `to` is asked as well (by default those who were asked first), through `via`."""

    after: float = Field(ge=0, le=YEARS_SECONDS)
    to: Name | None = None
    via: Name | None = None


class NewRequest(Taken):
    """A question or an approval to put before people."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "question", "to": "alice", "text": "Which day?", "options": ["Monday", "Friday"]},
                {
                    "id": "0191f6b2-2d0c-7cc2-8f5a-1f2e3d4c5b6a", "kind": "approval", "to": ["cfo"],
                    "action": "pay", "args": {"to": "ACME", "amount": 40}, "timeout": 3600,
                    "state": {"invoice": 7}, "callback_url": "https://shop.example.com/hooks/wakeloop",
                },
            ]
        }
    )  # fmt: skip

    id: UUID | None = Field(
        default=None, description="Of your choice: made again with the same content, it counts once."
    )
    kind: Literal["question", "approval"]
    to: Name | Annotated[list[Name], Field(min_length=1, max_length=50)] = Field(
        description="A contact or group, or several; the first answer counts."
    )
    text: Words | None = Field(default=None, description='Of an approval: "May I `action`?" by default.')
    subject: Line | None = None
    via: Name | None = Field(default=None, description="One channel only.")
    urgent: bool = Field(default=False, description="In quiet hours too.")
    options: Annotated[list[Line], Field(max_length=50)] = Field(
        default=[], description="What may be answered, or reasons for a no to choose from."
    )
    answer_schema: dict[str, Any] | None = Field(
        default=None, description="What an answer must be: a JSON Schema (2020-12). Any words by default."
    )
    action: Line | None = Field(default=None, description="Of an approval: the name of the function.")
    args: dict[str, Any] | None = Field(default=None, description="Of an approval: the arguments, by name.")
    args_schema: dict[str, Any] | None = Field(
        default=None,
        description="What edited arguments must be: a JSON Schema; by default, like those that are there.",
    )
    edit: bool = Field(default=False, description="Whether people may change the arguments.")
    quorum: int = Field(default=1, ge=1, le=50, description="How many must approve the same arguments.")
    requester: Name | None = Field(default=None, description="A contact who may not decide.")
    timeout: float | None = Field(default=None, gt=0, le=YEARS_SECONDS, description="In seconds.")
    remind: float | None = Field(
        default=None, ge=1, le=YEARS_SECONDS, description="Seconds between reminders."
    )
    escalate: Annotated[list[Escalation], Field(max_length=20)] = []
    state: Any = Field(default=None, description="Any JSON value; it is given back as it was.")
    callback_url: str | None = Field(
        default=None,
        max_length=2000,
        description="An http(s) address that is told of the end, signed in the Standard Webhooks form.",
        json_schema_extra={"format": "uri"},
    )

    @field_validator("callback_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        return value if value is None else check_url(value)


def check_url(value: str) -> str:
    """An address that can be called. Raises ValueError with what is wrong."""
    try:
        parts = urlsplit(value)
        has_port = parts.port is None or parts.port > 0
    except ValueError as error:
        raise ValueError(f"is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
        raise ValueError("must be an address that starts with https:// (or http://)")
    if "@" in parts.netloc:
        raise ValueError(
            "must have no user and password in it: what is sent is signed, so check the signature"
        )
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("must be of ASCII characters without spaces: encode the others")
    return value


class Outcome(Settled):
    """How a request ended."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class RequestOut(Given):
    """A request as it stands. code: what people name it by in a text message."""

    id: UUID
    kind: Literal["question", "approval"]
    status: RequestStatus
    code: str
    to: list[str] = Field(description="Whom it was made for.")
    asked: list[str] = Field(description="The contacts who were asked so far.")
    text: str
    subject: str | None
    options: list[str]
    action: str | None
    args: dict[str, Any] | None = Field(description="The arguments as they are now.")
    digest: str | None = Field(description="The name of exactly this call.")
    quorum: int
    votes: list[str] = Field(description="Who has approved these arguments.")
    is_editable: bool
    outcome: Outcome | None
    agent: str | None
    key: str | None
    run: UUID | None
    maker: str | None = Field(description="The name of the token that made it.")
    state: Any
    created_at: AwareDatetime
    expires_at: AwareDatetime | None
    settled_at: AwareDatetime | None

    @field_validator("to", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class RequestPage(Given):
    """Requests, newest first. next: give it as `before` to have the ones made earlier; null if there are none."""

    requests: list[RequestOut]
    next: UUID | None


class AuditEntry(Given):
    """An attempt to decide a request, or something that happened to it."""

    at: AwareDatetime
    act: str
    result: str
    contact: str | None
    channel: str | None
    auth: str | None
    digest: str | None
    comment: str | None


class Audit(Given):
    """What happened to a request, oldest first."""

    audit: list[AuditEntry]


class NewAnswer(Taken):
    """An answer: `text` is read as a person's words would be, `value` is the JSON value itself. One of the two."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"contact": "alice", "text": "Monday"}]})

    contact: Name = Field(description="Whose answer it is: the token's holder vouches for that.")
    text: Words | None = None
    value: Any = None


class NewGrant(Taken):
    """Approve calls like this one in advance. limits: by argument, `equal` (by default), `at_most` or `any`."""

    seconds: float = Field(gt=0, le=366 * 86400)
    limits: dict[str, Limit] | None = None


class NewApproval(Taken):
    """An approval of the call as it is, or with `args` if they may be changed. digest: of the call that they saw; if
    another stands there by now, the approval does not count."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"contact": "alice", "comment": "go ahead"}]})

    contact: Name
    comment: str = Field(default="", max_length=10_000)
    args: dict[str, Any] | None = None
    digest: str | None = Field(default=None, max_length=200)
    grant: NewGrant | None = None


class NewDenial(Taken):
    """A no, with one of the request's options as its reason."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"contact": "alice", "comment": "not now"}]})

    contact: Name
    comment: str = Field(default="", max_length=10_000)
    option: Line | None = None


class NewComment(Taken):
    """A remark that decides nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"contact": "alice", "text": "who is ACME?"}]})

    contact: Name
    text: Words


class Cancellation(Taken):
    """Why it is not needed any more."""

    reason: str = Field(default="", max_length=1000)


class AttemptOut(Given):
    """What became of an attempt that counted. status and request_status: how the request stands now."""

    accepted: Literal[True] = True
    status: RequestStatus
    request_status: RequestStatus
    words: str


class GrantOut(Given):
    """An approval in advance. limits: what a call must be like, in words."""

    id: UUID
    action: str
    origin: str
    contact: str
    limits: str
    request: UUID
    created_at: AwareDatetime
    expires_at: AwareDatetime
    revoked_at: AwareDatetime | None
    revoked_by: str | None
    is_active: bool


class Grants(Given):
    """Approvals in advance, newest first."""

    grants: list[GrantOut]


class ContactOut(Given):
    """What programs may know of a person: never an address."""

    id: str
    name: str
    description: str
    languages: list[str]
    tz: str


class Contacts(Given):
    """The people, in the order of the settings."""

    contacts: list[ContactOut]


# ---------------------------------------------------------------------- agents, runs and sessions


class AgentOut(Given):
    """An agent. triggers: what wakes it, in words. next: when a schedule wakes it next."""

    name: str
    summary: str
    triggers: list[str]
    next: AwareDatetime | None
    queue: str | None
    while_busy: str


class Agents(Given):
    """The agents that this process knows."""

    agents: list[AgentOut]


class NewRun(Taken):
    """A start of an agent by hand."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": {"repo": "acme/api"}}]})

    id: UUID | None = Field(default=None, description="Of your choice: started again, it counts once.")
    input: Any = Field(default=None, description="What `ctx.event.input` is.")
    key: Key = Field(default="default", description="The session to run in.")


class Started(Given):
    """A run that was queued."""

    run: UUID
    agent: str
    key: str


class WaitOut(Given):
    """What a run waits for."""

    kind: str
    name: str
    due: AwareDatetime | None
    match: dict[str, Any] | None


class RunOut(Given):
    """A run. result: what the handler returned. error: why it failed or is stuck. skipped: why an occurrence of a
    schedule was not run."""

    id: UUID
    agent: str
    key: str
    status: RunStatus
    event: Any
    result: Any
    error: str | None
    skipped: str | None
    skip_count: int | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    wake_at: AwareDatetime | None
    waits: list[WaitOut]


class RunPage(Given):
    """Runs, newest first. next: give it as `before` to have earlier ones; null if there are none."""

    runs: list[RunOut]
    next: UUID | None


class JournalEntry(Given):
    """A line of a run's journal, without its value."""

    seq: int
    op: int
    kind: str
    name: str
    ok: bool
    at: AwareDatetime


class RunDetail(RunOut):
    """A run with what it did. journal: the last of its lines, oldest first; journal_length: how many there are."""

    traceback: str | None
    journal: list[JournalEntry]
    journal_length: int
    requests: list[UUID]


class NewRetry(Taken):
    """Only for a step whose outcome is unknown: `repeat` it, or its `result` (`{"value": …}`), or that it `fail`ed."""

    repeat: bool = False
    result: Any = None
    fail: str | None = Field(default=None, min_length=1, max_length=1000)


class SessionOut(Given):
    """A session of an agent. due_at: when a worker looks at it next."""

    agent: str
    key: str
    open_runs: int
    due_at: AwareDatetime | None
    created_at: AwareDatetime
    state: Any


class Sessions(Given):
    """Sessions, by agent and key."""

    sessions: list[SessionOut]


class WakeupOut(Given):
    """A coming wakeup; own: set by the session itself."""

    id: str
    schedule: str
    next: AwareDatetime | None
    own: bool


class AttachmentOut(Given):
    """A file that went or came with a message."""

    name: str | None
    content_type: str
    file: UUID | None = Field(
        description="Its id under `/files`, if it is kept here; else it stays with the provider."
    )


class MessageOut(Given):
    """Something said by a person (`from`) or to one (`to`)."""

    model_config = ConfigDict(from_attributes=True, populate_by_name=True)

    id: UUID
    text: str
    from_: str | None = Field(alias="from")
    to: str | None
    channel: str
    at: AwareDatetime
    subject: str | None
    attachments: list[AttachmentOut]


class SessionDetail(SessionOut):
    """A session with its coming wakeups, last messages and open runs."""

    wakeups: list[WakeupOut]
    messages: list[MessageOut]
    runs: list[RunOut]


# ---------------------------------------------------------------------- signals


class SignalOut(Given):
    """A signal that was taken. sessions: those that it wakes, as agent/key; none if nobody listens for its type."""

    id: str
    sessions: list[str]


class Signals(Given):
    """What was taken, in the order in which it came."""

    signals: list[SignalOut]
