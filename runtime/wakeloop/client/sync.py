"""`Client`: questions and approvals from any program, by calls that block until a person has decided."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload
from uuid import UUID

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
from wakeloop.gates import Approval, finish
from wakeloop.people import Card

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Client:
    """A wakeloop server's people and agents, for any program. `AsyncClient` is its twin, whose calls are awaited.

    base_url: the server's address, such as `http://localhost:8080`. token: as `wakeloop tokens create` gave it; nothing
    is read from the environment. timeout: seconds that one call to the server may take, besides what it waits for people.
    patience: seconds (or timedelta) that the server may be away before a call raises Unreachable; by default as long as
    it takes. transport: an `httpx2.BaseTransport` to send with, as for proxies or tests.

    **Calls survive a restart of the server and a broken network.** What is not answered is sent again, ever more rarely
    (up to every 30 s); every call changes nothing or carries an id, so that twice is the same as once.

    **Ids.** Whoever makes something may name it: a UUID, or any text, of which a UUID is made. The same id with the same
    content is the same request, so that a program that is started again goes on waiting for the answer to what it has
    asked already; with other content it raises NotPossible.

    **Giving up.** If a wait is interrupted (Ctrl-C, a cancelled task), a request without an id of the caller's is
    cancelled, for nobody could come back for the answer; one with such an id stays open.

    **Errors**, besides those of each call: NotFound (no such contact, agent, request), NotAllowed (the token), NotPossible
    (as for an id that was used for something else), ApiError (the server refuses it otherwise) at once; Unreachable.
    A client may be shared by threads. It is a context manager, which closes its connections.
    """

    def __init__(
        self, base_url: str, token: str | None = None, *, timeout: float | timedelta = 10.0,
        patience: float | timedelta | None = None, transport: httpx2.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self.url = api_url(base_url)
        limit = seconds(timeout, "timeout") or 10.0
        self._plans = Plans(Caller(url=self.url, seconds=limit, patience=seconds(patience, "patience")))
        self._http = httpx2.Client(**connection_options(token, transport))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    def close(self) -> None:
        """Close the connections; requests stay as they are."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ asking people

    @overload
    def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None = None, timeout: Span | None = None,
        remind: Span | None = None, escalate: Any = (), via: str | None = None, subject: str | None = None,
        urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Answer[str]: ...  # fmt: skip
    @overload
    def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None = None, answer: type[T], timeout: Span | None = None,
        remind: Span | None = None, escalate: Any = (), via: str | None = None, subject: str | None = None,
        urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Answer[T]: ...  # fmt: skip
    @overload
    def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None = None, answer: Any, timeout: Span | None = None,
        remind: Span | None = None, escalate: Any = (), via: str | None = None, subject: str | None = None,
        urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Answer[Any]: ...  # fmt: skip
    def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None = None, answer: Any = str,
        timeout: Span | None = None, remind: Span | None = None, escalate: Any = (), via: str | None = None,
        subject: str | None = None, urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Answer[Any]:  # fmt: skip
        """Ask a contact a question and wait for the answer; of several contacts, or a group, the first one counts.

        options: what may be answered, by number or by its words. answer: the type of `Answer.value`: str, int, bool,
        date, an Enum, a Literal or a pydantic model; a reply that does not fit is asked again with the reason. timeout:
        seconds (or timedelta) until nobody's answer counts any more. remind: how often to repeat it until then. escalate:
        whom to ask as well, or through what else, and when, as `[(timedelta(hours=1), "bob")]`. via: one channel only.
        subject: for channels that have one. urgent: in the person's quiet hours too. id: see the class. state: a JSON
        value that is kept with the request.

        Raises NoAnswer at the timeout, Undeliverable if nobody can be reached, RequestCancelled."""
        return self._run(
            self._plans.ask(
                to, text, options=options, answer=answer, timeout=timeout, remind=remind, escalate=escalate, via=via,
                subject=subject, urgent=urgent, id=id, state=state,
            )
        )  # fmt: skip

    def approve(
        self, by: Names, action: str, args: Mapping[str, Any] | BaseModel, *, text: str | None = None,
        timeout: Span | None = None, quorum: int = 1, edit: bool = False, reject_options: Sequence[str] = (),
        escalate: Any = (), remind: Span | None = None, via: str | None = None, subject: str | None = None,
        urgent: bool = False, id: Id | None = None, state: Any = None,
    ) -> Approval:  # fmt: skip
        """Wait until people approve an action with exactly these arguments, of which they see all.

        `require_approval` does this for a function, and makes sure that it cannot run without; use it where you can.

        by: contacts or groups; any of them may decide, if the settings allow it for this action. args: JSON values by
        name. text: what to say above them. quorum: how many must approve; one who denies decides for all. edit: whether
        they may change the arguments: those in the approval are the ones to use. reject_options: reasons for a no to
        choose from. The rest is as for `ask`.

        Raises Denied (with `comment`, `option`, `by`), ApprovalExpired at the timeout, Undeliverable, RequestCancelled."""
        return self._run(
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
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:  # fmt: skip
        """Let a function run only with the approval of exactly its arguments: a call blocks until people have decided.

        The options are those of `wakeloop.require_approval`. The arguments are checked before anybody is asked, and the
        function gets them from the approval, never from the caller. Name, signature, types and docstring stay, so that
        any framework can take it as a tool; what the function raises is its own affair and nobody is asked again.

        id: a plain function of those arguments that it names, which gives the id of the call's request (a UUID or a
        text): a program that is started again then waits for the same decision. Such an approval is good for every call
        with this id, so let the function use the same id to do its work once. Without one, every call is asked about.

        A call raises Denied, ApprovalExpired, InvalidArguments (nobody was asked), Undeliverable, RequestCancelled.
        Raises ConfigurationError for what could never be approved, and for an async function, which needs AsyncClient.
        """
        if callable(by):
            raise ConfigurationError('write @client.require_approval("cfo"), with the contact who approves')

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            gate = gate_of(
                function, id, by=by, reject_options=reject_options, edit=edit, timeout=timeout, escalate=escalate,
                quorum=quorum, when=when, remind=remind, via=via, urgent=urgent, name=name,
            )  # fmt: skip
            if is_async(gate.function):
                raise ConfigurationError(
                    f"{gate.arguments.function} is async, and Client blocks: use wakeloop.AsyncClient for it"
                )

            @functools.wraps(gate.function)
            def gated(*args: Any, **kwargs: Any) -> Any:
                call = self._run(self._plans.gated(gate, id, args, kwargs, key_for))
                return call()

            return finish(gated, gate)

        return decorate

    @overload
    def human_as_tool(
        self, contact: str, *, via: str | None = None, name: str | None = None, description: str | None = None,
        options: Sequence[Any] | None = None, timeout: Span | None = None,
    ) -> HumanTool[str]: ...  # fmt: skip
    @overload
    def human_as_tool(
        self, contact: str, *, via: str | None = None, name: str | None = None, description: str | None = None,
        answer: type[T], options: Sequence[Any] | None = None, timeout: Span | None = None,
    ) -> HumanTool[T]: ...  # fmt: skip
    @overload
    def human_as_tool(
        self, contact: None = None, *, via: str | None = None, name: str | None = None, description: str | None = None,
        options: Sequence[Any] | None = None, timeout: Span | None = None,
    ) -> AnyHumanTool[str]: ...  # fmt: skip
    @overload
    def human_as_tool(
        self, contact: None = None, *, via: str | None = None, name: str | None = None, description: str | None = None,
        answer: type[T], options: Sequence[Any] | None = None, timeout: Span | None = None,
    ) -> AnyHumanTool[T]: ...  # fmt: skip
    def human_as_tool(
        self, contact: str | None = None, *, via: str | None = None, name: str | None = None,
        description: str | None = None, answer: Any = str, options: Sequence[Any] | None = None,
        timeout: Span | None = None,
    ) -> Any:  # fmt: skip
        """A person as a function `(message: str) -> str`, which any framework for agents can take as a tool.

        contact: whom it asks; without one, the function has a parameter `contact` too. via: by this channel only. answer,
        options, timeout: as for `ask`; the function gives the answer's value, so its return type is `answer`. name,
        description: instead of those that come from the contact.

        Its name is `contact_human_marketing_by_sms` for contact and channel, in at most 64 of the characters that
        models' APIs take, and never that of another contact's. Its docstring says who that is, by the name and
        description in the settings (never an address); they are asked of the server once, by a short try.

        The function raises NoAnswer, Undeliverable, RequestCancelled."""
        shape = tool_shape(
            contact, via=via, name=name, description=description, answer=answer, options=options,
            cards=self._run(self._plans.known_contacts()),
        )  # fmt: skip
        rest: dict[str, Any] = {"via": via, "answer": answer, "options": options, "timeout": timeout}
        if contact is None:

            def ask_any(message: str, contact: str) -> Any:
                return self.ask(contact, message, **rest).value

            return shape.dress(ask_any, __name__)

        def ask_one(message: str) -> Any:
            return self.ask(contact, message, **rest).value

        return shape.dress(ask_one, __name__)

    # ------------------------------------------------------------------ requests

    def create(
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
        return self._run(
            self._plans.create(
                to, text, kind=kind, options=options, answer_schema=answer_schema, action=action, args=args,
                args_schema=args_schema, edit=edit, quorum=quorum, requester=requester, timeout=timeout, remind=remind,
                escalate=escalate, via=via, subject=subject, urgent=urgent, id=id, state=state, callback_url=callback_url,
            )
        )  # fmt: skip

    def get(self, id: Id) -> Request:
        """A request as it is now."""
        return self._run(self._plans.get(id))

    def wait(self, id: Id, timeout: Span | None = None) -> Request:
        """A request when it has ended, or as it is after `timeout` (seconds or timedelta)."""
        return self._run(self._plans.wait(id, timeout))

    def cancel(self, id: Id, reason: str = "") -> Request:
        """End a request undecided; those who were asked are told. One that has ended stays as it is."""
        return self._run(self._plans.cancel(id, reason))

    def requests(
        self,
        *,
        status: str | None = None,
        contact: str | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> list[Request]:
        """Requests, newest first, `limit` (at most 200) of them. contact: those that this one was asked. before: the id of
        a request; only such as were made before it."""
        return self._run(self._plans.requests(status=status, contact=contact, limit=limit, before=before))

    def contacts(self) -> list[Card]:
        """Who can be asked: names and descriptions, never an address."""
        return self._run(self._plans.contacts())

    # ------------------------------------------------------------------ agents

    def start(self, agent: str, input: Any = None, *, key: str | None = None, id: Id | None = None) -> str:
        """Start a run of an agent; the run's id. key: the session it runs in. id: the run's, by which it starts once."""
        return self._run(self._plans.start(agent, input, key=key, id=id))

    def signal(
        self, type: str, data: Any = None, *, id: UUID | str | None = None, subject: str | None = None,
        source: str = "wakeloop/client",
    ) -> str:  # fmt: skip
        """Publish a signal to the agents that listen for its type; its id. The same id from one source counts once."""
        return self._run(self._plans.signal(type, data, id=id, subject=subject, source=source))

    def run(self, id: str, *, wait: Span | None = None) -> Run:
        """A run as it is now; with `wait`, when it has ended or is parked, or as it is after so long."""
        return self._run(self._plans.run(id, wait=wait))

    def session(self, agent: str, key: str = "default") -> Session:
        """An agent's session: its state, last messages and coming wakeups."""
        return self._run(self._plans.session(agent, key))

    # ------------------------------------------------------------------ doing it

    def _run(self, plan: Plan[T]) -> T:
        """Carry a plan out. What interrupts it is thrown into it, so that it can clean up."""
        try:
            command = next(plan)
            while True:
                try:
                    result = self._do(command)
                except BaseException as error:
                    command = plan.throw(error)
                else:
                    command = plan.send(result)
        except StopIteration as end:
            value: T = end.value
            return value

    def _do(self, command: Send | Pause) -> Reply | Lost | None:
        if isinstance(command, Pause):
            time.sleep(command.seconds)
            return None
        try:
            return reply_of(self._http.request(**call_options(command, self.url)))
        except httpx2.RequestError as error:
            return lost(error)
