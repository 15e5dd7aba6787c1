"""`AsyncClient`: questions and approvals from any program, by calls that are awaited until a person has decided."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload
from uuid import UUID

import anyio
import anyio.to_thread
import httpx2
from pydantic import BaseModel

from wakeloop.answers import Answer
from wakeloop.client.calling import Caller
from wakeloop.client.gating import KeyOf, gate_of, is_async, key_for
from wakeloop.client.http import call_options, connection_options, lost, reply_of
from wakeloop.client.plans import Id, Names, Plans, Span, seconds
from wakeloop.client.tools import AnyHumanTool, HumanTool, tool_shape
from wakeloop.client.wire import Lost, Pause, Plan, Reply, Request, Run, Send, Session, api_url
from wakeloop.errors import ConfigurationError
from wakeloop.gates import Approval, ApprovalDecorator, finish
from wakeloop.people import Card

T = TypeVar("T")


class AsyncClient:
    """The twin of `Client`: the same calls, to be awaited. See there for what they mean.

    It runs on asyncio (or trio), and may be used by one event loop after another, not by two at once. As Client does for
    Ctrl-C, it cancels the request of a wait that is cancelled, as by `asyncio.timeout`, unless the caller gave it an id.
    transport: an `httpx2.AsyncBaseTransport`. It is an async context manager; `close` is awaited.
    """

    def __init__(
        self, base_url: str, token: str | None = None, *, timeout: float | timedelta = 10.0,
        patience: float | timedelta | None = None, transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self.url = api_url(base_url)
        limit = seconds(timeout, "timeout") or 10.0
        self._plans = Plans(Caller(url=self.url, seconds=limit, patience=seconds(patience, "patience")))
        self._options = connection_options(token, transport)
        self._http = httpx2.AsyncClient(**self._options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._known: list[Card] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    async def close(self) -> None:
        """Close the connections; requests stay as they are."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------ asking people

    @overload
    async def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None = None, timeout: Span | None = None,
        remind: Span | None = None, escalate: Any = (), via: str | None = None, subject: str | None = None,
        urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Answer[str]: ...  # fmt: skip
    @overload
    async def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None = None, answer: type[T], timeout: Span | None = None,
        remind: Span | None = None, escalate: Any = (), via: str | None = None, subject: str | None = None,
        urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Answer[T]: ...  # fmt: skip
    @overload
    async def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None = None, answer: Any, timeout: Span | None = None,
        remind: Span | None = None, escalate: Any = (), via: str | None = None, subject: str | None = None,
        urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Answer[Any]: ...  # fmt: skip
    async def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None = None, answer: Any = str,
        timeout: Span | None = None, remind: Span | None = None, escalate: Any = (), via: str | None = None,
        subject: str | None = None, urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Answer[Any]:  # fmt: skip
        """See `Client.ask`."""
        return await self._run(
            self._plans.ask(
                to, text, options=options, answer=answer, timeout=timeout, remind=remind, escalate=escalate, via=via,
                subject=subject, urgent=urgent, id=id, state=state,
            )
        )  # fmt: skip

    async def approve(
        self, by: Names, action: str, args: Mapping[str, Any] | BaseModel, *, text: str | None = None,
        timeout: Span | None = None, quorum: int = 1, edit: bool = False, reject_options: Sequence[str] = (),
        escalate: Any = (), remind: Span | None = None, via: str | None = None, subject: str | None = None,
        urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Approval:  # fmt: skip
        """See `Client.approve`."""
        return await self._run(
            self._plans.approve(
                by, action, args, text=text, timeout=timeout, quorum=quorum, edit=edit, reject_options=reject_options,
                escalate=escalate, remind=remind, via=via, subject=subject, urgent=urgent, id=id, state=state,
            )
        )  # fmt: skip

    def require_approval(
        self, by: str | Sequence[str], *, reject_options: Sequence[str] = (), edit: bool = False,
        timeout: Span | None = None, escalate: Any = (), quorum: int = 1, when: Callable[..., object] | None = None,
        remind: Span | None = None, via: str | None = None, urgent: bool = False, name: str | None = None,
        id: KeyOf | None = None,
    ) -> ApprovalDecorator:  # fmt: skip
        """See `Client.require_approval`. The function is awaited from then on; one that is not async runs in a thread.

        If the call is cancelled while people are asked, they are not asked any more; a function that runs in a thread is
        waited for all the same, for it cannot be stopped in its middle."""
        if callable(by):
            raise ConfigurationError('write @client.require_approval("cfo"), with the contact who approves')

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            gate = gate_of(
                function, id, by=by, reject_options=reject_options, edit=edit, timeout=timeout, escalate=escalate,
                quorum=quorum, when=when, remind=remind, via=via, urgent=urgent, name=name,
            )  # fmt: skip
            awaits = is_async(gate.function)

            @functools.wraps(gate.function)
            async def gated(*args: Any, **kwargs: Any) -> Any:
                call = await self._run(self._plans.gated(gate, id, args, kwargs, key_for))
                return await (call() if awaits else anyio.to_thread.run_sync(call))

            return finish(gated, gate)

        return cast("ApprovalDecorator", decorate)

    @overload
    def human_as_tool(
        self, contact: str, *, via: str | None = None, name: str | None = None, description: str | None = None,
        options: Sequence[Any] | None = None, timeout: Span | None = None,
    ) -> HumanTool[Awaitable[str]]: ...  # fmt: skip
    @overload
    def human_as_tool(
        self, contact: str, *, via: str | None = None, name: str | None = None, description: str | None = None,
        answer: type[T], options: Sequence[Any] | None = None, timeout: Span | None = None,
    ) -> HumanTool[Awaitable[T]]: ...  # fmt: skip
    @overload
    def human_as_tool(
        self, contact: None = None, *, via: str | None = None, name: str | None = None, description: str | None = None,
        options: Sequence[Any] | None = None, timeout: Span | None = None,
    ) -> AnyHumanTool[Awaitable[str]]: ...  # fmt: skip
    @overload
    def human_as_tool(
        self, contact: None = None, *, via: str | None = None, name: str | None = None, description: str | None = None,
        answer: type[T], options: Sequence[Any] | None = None, timeout: Span | None = None,
    ) -> AnyHumanTool[Awaitable[T]]: ...  # fmt: skip
    def human_as_tool(
        self, contact: str | None = None, *, via: str | None = None, name: str | None = None,
        description: str | None = None, answer: Any = str, options: Sequence[Any] | None = None,
        timeout: Span | None = None,
    ) -> Any:  # fmt: skip
        """See `Client.human_as_tool`. The function is awaited.

        Nothing can be asked of the server in passing while an event loop runs: await `contacts()` before, and the
        function is documented by what they are."""
        shape = tool_shape(
            contact, via=via, name=name, description=description, answer=answer, options=options,
            cards=self._known_contacts(),
        )  # fmt: skip
        rest: dict[str, Any] = {"via": via, "answer": answer, "options": options, "timeout": timeout}
        if contact is None:

            async def ask_any(message: str, contact: str) -> Any:
                return (await self.ask(contact, message, **rest)).value

            return shape.dress(ask_any, __name__)

        async def ask_one(message: str) -> Any:
            return (await self.ask(contact, message, **rest)).value

        return shape.dress(ask_one, __name__)

    def _known_contacts(self) -> list[Card] | None:
        """Who can be asked, as far as that is known without waiting."""
        if self._known is None and _running_loop() is None:
            self._known = asyncio.run(self._run_and_close(self._plans.known_contacts()))
        return self._known

    async def _run_and_close(self, plan: Plan[T]) -> T:
        """Carry a plan out in a loop of its own, and leave no connection to it."""
        try:
            return await self._run(plan)
        finally:
            await self._http.aclose()
            self._http = httpx2.AsyncClient(**self._options)

    # ------------------------------------------------------------------ requests

    async def create(
        self, to: Names, text: str, *, kind: str = "question", options: Sequence[str] = (),
        answer_schema: Mapping[str, Any] | None = None, action: str | None = None,
        args: Mapping[str, Any] | None = None, args_schema: Mapping[str, Any] | None = None, edit: bool = False,
        quorum: int = 1, requester: str | None = None, timeout: Span | None = None, remind: Span | None = None,
        escalate: Any = (), via: str | None = None, subject: str | None = None, urgent: bool = False,
        id: Id | None = None, state: Any = None, callback_url: str | None = None,
    ) -> Request:  # fmt: skip
        """Ask and do not wait: make a question, or an approval (`kind="approval"` with `action` and `args`).

        answer_schema: JSON Schema of the answer. requester: a contact who may not decide, being the one on whose behalf
        it is asked. callback_url: an address that is told of the end. The rest is as for `ask` and `approve`."""
        return await self._run(
            self._plans.create(
                to, text, kind=kind, options=options, answer_schema=answer_schema, action=action, args=args,
                args_schema=args_schema, edit=edit, quorum=quorum, requester=requester, timeout=timeout, remind=remind,
                escalate=escalate, via=via, subject=subject, urgent=urgent, id=id, state=state, callback_url=callback_url,
            )
        )  # fmt: skip

    async def get(self, id: Id) -> Request:
        """See `Client.get`."""
        return await self._run(self._plans.get(id))

    async def wait(self, id: Id, timeout: Span | None = None) -> Request:
        """See `Client.wait`."""
        return await self._run(self._plans.wait(id, timeout))

    async def cancel(self, id: Id, reason: str = "") -> Request:
        """End a request undecided; those who were asked are told. One that has ended stays as it is."""
        return await self._run(self._plans.cancel(id, reason))

    async def requests(
        self,
        *,
        status: str | None = None,
        contact: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Request]:
        """See `Client.requests`."""
        return await self._run(
            self._plans.requests(status=status, contact=contact, limit=limit, before=before)
        )

    async def contacts(self) -> list[Card]:
        """See `Client.contacts`."""
        self._known = await self._run(self._plans.contacts())
        return self._known

    # ------------------------------------------------------------------ agents

    async def start(
        self, agent: str, input: Any = None, *, key: str | None = None, id: Id | None = None
    ) -> str:
        """See `Client.start`."""
        return await self._run(self._plans.start(agent, input, key=key, id=id))

    async def signal(
        self, type: str, data: Any = None, *, id: UUID | str | None = None, subject: str | None = None,
        source: str = "wakeloop/client",
    ) -> str:  # fmt: skip
        """Publish a signal to the agents that listen for its type; its id. The same id from one source counts once."""
        return await self._run(self._plans.signal(type, data, id=id, subject=subject, source=source))

    async def run(self, id: str, *, wait: Span | None = None) -> Run:
        """See `Client.run`."""
        return await self._run(self._plans.run(id, wait=wait))

    async def session(self, agent: str, key: str = "default") -> Session:
        """An agent's session: its state, last messages and coming wakeups."""
        return await self._run(self._plans.session(agent, key))

    # ------------------------------------------------------------------ doing it

    async def _run(self, plan: Plan[T]) -> T:
        """Carry a plan out. What interrupts it is thrown into it, so that it can clean up."""
        try:
            command = next(plan)
            while True:
                try:
                    result = await self._do(command)
                except BaseException as error:
                    command = plan.throw(error)
                else:
                    command = plan.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _do(self, command: Send | Pause) -> Reply | Lost | None:
        if isinstance(command, Pause):
            await anyio.sleep(command.seconds)
            return None
        if not command.is_last:
            return await self._exchange(command)
        # A cancelled scope of anyio cancels whatever is awaited in it; the last word must get out nevertheless.
        reply = None
        with anyio.CancelScope(shield=True):
            reply = await self._exchange(command)
        return reply

    async def _exchange(self, send: Send) -> Reply | Lost:
        try:
            return reply_of(await self._here().request(**call_options(send, self.url)))
        except httpx2.RequestError as error:
            return lost(error)

    def _here(self) -> httpx2.AsyncClient:
        """The HTTP client for this event loop: connections of another one are of no use in it."""
        loop = _running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                self._http = httpx2.AsyncClient(**self._options)
            self._loop = loop
        return self._http


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
