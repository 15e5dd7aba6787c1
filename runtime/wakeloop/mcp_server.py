"""People as tools of MCP clients, such as coding assistants: a server over stdio for the official SDK (`wakeloop[mcp]`)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent, Tool, ToolAnnotations
from pydantic import BaseModel, Field

from wakeloop.client import AsyncClient
from wakeloop.client.tools import person
from wakeloop.errors import (
    ApprovalExpired,
    ConfigurationError,
    Denied,
    NoAnswer,
    RequestCancelled,
    WakeloopError,
)
from wakeloop.logs import get_logger
from wakeloop.people import Card

T = TypeVar("T")
log = get_logger("wakeloop.mcp")

PROGRESS_SECONDS = 5.0
"""How often a client is told that a person is being waited for; clients give up after silence."""
CONTACTS_SECONDS = 3.0

INSTRUCTIONS = """\
These tools reach real people by SMS, email or chat, and wait for their word, which can take minutes or hours. Ask only
what only a person can tell, one thing at a time, with all that they need to know: they see nothing of this conversation.
Before an action that they would want to decide on, call request_approval, and do it only if that says it is approved."""

ASK = """\
Ask a person a question and wait for the answer. It reaches them by SMS, email or chat, and can take minutes or hours."""

APPROVE = """\
Ask a person for permission to do one action with exactly these arguments, and wait for the decision, which can take
minutes or hours. Do the action only if `approved` is true, once, with exactly these arguments. A denial's comment says
why; an expired request is no permission either."""

LIST = "List the people who can be asked, with their ids, names and descriptions."

Message = Annotated[
    str, Field(description="What to ask, with all they need to know. They see nothing but this.")
]
Whom = Annotated[str | None, Field(description="The contact's id; list_contacts tells who there is.")]
Options = Annotated[list[str] | None, Field(description="Answers to choose from, if not any will do.")]
Limit = Annotated[
    float | None,
    Field(gt=0, description="Seconds after which nobody's word counts any more; none by default."),
]
Action = Annotated[
    str, Field(description="What is to be done, in a few words, such as `deploy to production`.")
]
Arguments = Annotated[
    dict[str, Any],
    Field(description="Everything that decides what will happen, by name. The person sees it all."),
]
Reason = Annotated[str | None, Field(description="Why it is wanted, for the person.")]
Reasons = Annotated[list[str] | None, Field(description="Reasons for a no that they may choose from.")]


class HumanAnswer(BaseModel):
    """What came of a question. answer: in their words; by: who answered."""

    status: Literal["answered", "expired", "cancelled"]
    answer: str | None = None
    by: str | None = None
    channel: str | None = None
    request: str | None = None


class Decision(BaseModel):
    """What came of a request for approval. comment, option: what they said with it, and the reason they chose."""

    approved: bool
    status: Literal["approved", "denied", "expired", "cancelled"]
    by: str | None = None
    comment: str = ""
    option: str | None = None
    request: str


class ContactList(BaseModel):
    """Who can be asked."""

    contacts: list[dict[str, Any]]


class HumanServer(MCPServer[Any]):
    """The server, whose tools are described with the people that there are when they are listed.

    client: reaches wakeloop. contact: who is asked if a call names nobody."""

    def __init__(self, client: AsyncClient, *, contact: str | None = None, version: str = "") -> None:
        super().__init__("wakeloop", instructions=INSTRUCTIONS, version=version, log_level="WARNING")
        self._client = client
        self._contact = contact
        self._cards: list[Card] = []
        slow = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=True)
        self.add_tool(self.contact_human, description=ASK, annotations=slow)
        self.add_tool(self.request_approval, description=APPROVE, annotations=slow)
        quick = ToolAnnotations(read_only_hint=True)
        self.add_tool(self.list_contacts, description=LIST, annotations=quick)

    async def list_tools(self) -> list[Tool]:
        """The tools, with those who can be asked in their descriptions, as far as the server tells at once."""
        with anyio.move_on_after(CONTACTS_SECONDS):
            try:
                self._cards = await self._client.contacts()
            except WakeloopError as error:
                log.warning("the contacts cannot be listed", error=str(error))
        people = "".join(f"\n- {person(card)}" for card in self._cards)
        if not people:
            return await super().list_tools()
        default = f"\nWithout a contact, {self._contact} is asked." if self._contact else ""
        return [
            tool
            if tool.name == "list_contacts"
            else tool.model_copy(update={"description": f"{tool.description}\n\nPeople:{people}{default}"})
            for tool in await super().list_tools()
        ]

    # ------------------------------------------------------------------ the tools

    async def contact_human(
        self,
        ctx: Context[Any, Any],
        message: Message,
        contact: Whom = None,
        options: Options = None,
        timeout_seconds: Limit = None,
    ) -> Annotated[CallToolResult, HumanAnswer]:
        """Ask, and tell the client all the while that a person is being waited for."""
        to = await self._whom(contact)
        try:
            waiting = self._client.ask(to, message, options=options, timeout=timeout_seconds)
            answer = await self._waited(ctx, to, waiting)
        except NoAnswer as error:
            none = HumanAnswer(status="expired", request=error.request)
            return _result(f"Nobody answered in time: {to} did not reply.", none)
        except RequestCancelled as error:
            gone = HumanAnswer(status="cancelled", request=error.request)
            return _result(f"The question was withdrawn: {error.reason or 'no reason was given'}.", gone)
        said = str(
            answer.value
        )  # of options the one that was chosen, whose number alone would tell a model nothing
        return _result(
            said, HumanAnswer(status="answered", answer=said, by=answer.by, channel=answer.channel)
        )

    async def request_approval(
        self,
        ctx: Context[Any, Any],
        action: Action,
        arguments: Arguments,
        contact: Whom = None,
        reason: Reason = None,
        reject_options: Reasons = None,
        timeout_seconds: Limit = None,
    ) -> Annotated[CallToolResult, Decision]:
        """Ask for permission; a no and an expiry are results, not errors."""
        by = await self._whom(contact)
        text = f"May I {action}?" if not reason else f"May I {action}? {reason}"
        try:
            waiting = self._client.approve(
                by, action, arguments, text=text, reject_options=reject_options or (), timeout=timeout_seconds
            )
            approval = await self._waited(ctx, by, waiting)
        except Denied as error:
            why = ": ".join(filter(None, [error.option, error.comment]))
            no = Decision(
                approved=False, status="denied", by=error.by, comment=error.comment, option=error.option,
                request=error.request,
            )  # fmt: skip
            return _result(f"Denied by {error.by}{f' ({why})' if why else ''}. Do not do it.", no)
        except ApprovalExpired as error:
            late = Decision(approved=False, status="expired", request=error.request)
            return _result(f"Nobody decided in time, which is no permission: do not {action}.", late)
        except RequestCancelled as error:
            gone = Decision(approved=False, status="cancelled", request=error.request)
            return _result(f"The request was withdrawn, which is no permission: do not {action}.", gone)
        said = f" ({approval.comment})" if approval.comment else ""
        return _result(
            f"Approved by {', '.join(approval.approvers) or approval.by}{said}. Do it once, with exactly these arguments.",
            Decision(
                approved=True, status="approved", by=approval.by, comment=approval.comment, option=approval.option,
                request=approval.request,
            ),
        )  # fmt: skip

    async def list_contacts(self) -> Annotated[CallToolResult, ContactList]:
        """Who can be asked."""
        cards = await self._known()
        lines = "\n".join(f"- {person(card)}" for card in cards)
        return _result(
            lines or "There is nobody to ask yet.", ContactList(contacts=[_card(card) for card in cards])
        )

    # ------------------------------------------------------------------ inside

    async def _known(self) -> Sequence[Card]:
        try:
            self._cards = await self._client.contacts()
        except WakeloopError as error:
            raise ToolError(str(error)) from error
        return self._cards

    async def _whom(self, contact: str | None) -> str:
        """Who is asked: whom the call names, else the one of the settings, else the only one there is."""
        chosen = contact or self._contact
        if chosen is not None:
            return chosen
        cards = await self._known()
        if len(cards) != 1:
            people = "; ".join(map(person, cards)) or "nobody is in the settings yet"
            raise ToolError(f"name the contact who is to be asked: {people}")
        return cards[0].id

    async def _waited(self, ctx: Context[Any, Any], whom: str, waiting: Awaitable[T]) -> T:
        """What a person says, while the client is told every few seconds that they are waited for.

        If the client cancels the call, the wait is cancelled with it, and so is the request. Raises what says that nobody
        gave an answer, and ToolError for everything else that is known to go wrong."""
        failure: Exception | None = None
        result: list[T] = []
        async with anyio.create_task_group() as group:
            group.start_soon(_tell, ctx, whom)
            try:
                result.append(await waiting)
            except (WakeloopError, ConfigurationError, TypeError) as error:
                failure = error
            group.cancel_scope.cancel()
        if failure is None:
            return result[0]
        if isinstance(failure, Denied | ApprovalExpired | NoAnswer | RequestCancelled):
            raise failure
        raise ToolError(str(failure)) from failure


async def _tell(ctx: Context[Any, Any], whom: str) -> None:
    """Report progress for as long as it takes."""
    since = time.monotonic()
    while True:
        passed = time.monotonic() - since
        await ctx.report_progress(passed, message=f"waiting for {whom} ({_spell(passed)})")
        await anyio.sleep(PROGRESS_SECONDS)


def _spell(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _result(text: str, facts: BaseModel) -> CallToolResult:
    """A result in words for the model, and as data for programs."""
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=facts.model_dump(mode="json")
    )


def _card(card: Card) -> dict[str, Any]:
    return {
        "id": card.id, "name": card.name, "description": card.description, "languages": list(card.languages),
        "tz": card.tz,
    }  # fmt: skip


def serve(client: AsyncClient, *, contact: str | None = None, version: str = "") -> None:
    """Serve over standard input and output until the client closes them."""
    HumanServer(client, contact=contact, version=version).run("stdio")
