"""The context: everything that a handler may do with the world outside itself."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, TypeAdapter, ValidationError

from wakeloop import calendar
from wakeloop.agent import Agent
from wakeloop.answers import Answer
from wakeloop.asking import EscalationStep, RequestSpec, Settled, schema_like
from wakeloop.calls import digest
from wakeloop.engine.commands import (
    CancelRequest,
    CancelWakeup,
    Command,
    EmitSignal,
    OpenRequest,
    SendMessage,
    SetWakeup,
    SpawnRun,
    Wakeup,
    seconds,
)
from wakeloop.engine.conversation import Conversation
from wakeloop.engine.journal import Kind
from wakeloop.engine.values import JSON_CODEC, VALUE_LIMIT_BYTES, codec_for, result_codec
from wakeloop.errors import (
    ApprovalExpired,
    Denied,
    InvalidArguments,
    NoAnswer,
    NotFound,
    NotPossible,
    RequestCancelled,
    Undeliverable,
    ValueTooLarge,
)
from wakeloop.events import Attachment, Event, Message, Signal, Tick
from wakeloop.forms import Form, form_of
from wakeloop.gates import Approval, Gate, escalations
from wakeloop.people import Card
from wakeloop.status import RequestStatus
from wakeloop.triggers import Schedule

if TYPE_CHECKING:
    from wakeloop.engine.execution import Execution

S = TypeVar("S", bound=BaseModel | None)
T = TypeVar("T")
E = TypeVar("E", Message, Signal)

_WAKEUPS = codec_for(tuple[Wakeup, ...])


class Context(Generic[S]):
    """What a handler gets. Everything here is replay-safe: the same in every replay of the run.

    event: why it woke. run_id: this run's id. session: its session's name, such as `standup/default`.
    key: the session's key within the agent. conversation: what was said between the session, people and models.
    """

    def __init__(self, execution: Execution) -> None:
        self._run = execution
        self.event: Event = execution.facts.event
        self.run_id: str = execution.facts.id
        self.session: str = execution.facts.session
        self.key: str = execution.facts.key
        self.schedule = OwnSchedule(execution)
        self.conversation = Conversation(execution)
        zone = self.event.tz if isinstance(self.event, Tick) else "UTC"
        self._zone = UTC if zone == "UTC" else ZoneInfo(zone)

    @property
    def state(self) -> S:
        """The session's state. Another run of the session may change it across an `await`, never between two; it is
        saved with everything else that the handler did up to where it waits."""
        return cast(S, self._run.state)

    @state.setter
    def state(self, value: S) -> None:
        self._run.state = value

    def now(self) -> datetime:
        """The time at which the handler last received something, aware, in the trigger's zone, else in UTC."""
        return self._run.now.astimezone(self._zone)

    @functools.cached_property
    def random(self) -> Random:
        """A `random.Random` of the run's own."""
        return Random(self.run_id)

    @functools.cached_property
    def _uuids(self) -> Random:
        return Random(f"uuid of {self.run_id}")

    def uuid(self) -> UUID:
        """A random id (version 4), the same in every replay."""
        return UUID(int=self._uuids.getrandbits(128), version=4)

    def patched(self, id: str) -> bool:
        """Mark a change in code that runs may be asleep in: `if ctx.patched("fewer-reminders"): new() else: old()`.

        True for runs that come by for the first time since the change, False for those that had passed it before;
        the same for a run's whole life."""
        return self._run.patched(id)

    # ------------------------------------------------------------------ time

    async def sleep(self, delta: float | timedelta) -> None:
        """Sleep for a timedelta or a number of seconds, durably: no process and no broker message is held."""
        await self._run.sleep(self._run.now + timedelta(seconds=seconds(delta, "a sleep")), "sleep")

    @overload
    async def sleep_until(self, when: datetime) -> None: ...
    @overload
    async def sleep_until(self, when: datetime, *, or_message: bool) -> Message | None: ...
    async def sleep_until(self, when: datetime, *, or_message: bool = False) -> Message | None:
        """Sleep until an instant (an aware datetime); one in the past is over at once.

        With `or_message`, a message for this session wakes it early and is returned; None means that it slept on.
        Raises ValueError for a datetime without a zone."""
        if when.tzinfo is None:
            raise ValueError(
                f"sleep_until({when.isoformat()}) has no time zone; start from ctx.now(), which has one"
            )
        if not or_message:
            await self._run.sleep(when.astimezone(UTC), "sleep_until")
            return None
        try:
            async with asyncio.timeout((when - self._run.now).total_seconds()):
                return await self.receive()
        except TimeoutError:
            return None

    # ------------------------------------------------------------------ people

    def contacts(self) -> tuple[Card, ...]:
        """The people who can be named here, with what an agent or a model may know of them: never an address."""
        run = self._run
        return cast(
            "tuple[Card, ...]",
            run.perform(
                Kind.CONTACTS, "", lambda: (run.surroundings.contacts(), []), codec_for(tuple[Card, ...])
            ),
        )

    async def send(
        self, to: str, text: str, *, via: str | None = None, subject: str | None = None, urgent: bool = False,
        attachments: Sequence[Attachment] = (),
    ) -> Message:  # fmt: skip
        """Send a contact a one-way message, on their first channel that works, or only `via` one.

        subject: for channels that have one; another than before begins a new thread. urgent: in the person's quiet hours
        too. attachments: files that go with it: `Attachment(url="https://…")` that the provider can fetch, or
        `Attachment.from_bytes(…)`; where the channel cannot send files, the text says where they are.

        It is recorded with everything else up to the next wait, and sent after that. Raises NotFound if there is no such
        contact, or it has no address on `via`, ValueError for a file that cannot be fetched from its address, and
        ValueTooLarge for more bytes than the journal takes."""
        run = self._run
        files = _files_to_send(attachments, to)

        def effect() -> tuple[Message, list[Command]]:
            message = Message(
                id=str(run.surroundings.new_id()), text=_sendable(text), to=to,
                channel=run.surroundings.check_contact(to, via), at=run.now, subject=subject, attachments=files,
            )  # fmt: skip
            return message, [SendMessage(message=message, via=via, urgent=urgent)]

        return cast(Message, run.perform(Kind.SEND, to, effect, codec_for(Message)))

    @overload
    async def ask(
        self, to: str | Sequence[str], text: str, *, options: Sequence[Any] | None = None,
        timeout: float | timedelta | None = None, remind: float | timedelta | None = None,
        escalate: Sequence[Any] = (), via: str | None = None, subject: str | None = None, urgent: bool = False,
    ) -> Answer[str]: ...  # fmt: skip
    @overload
    async def ask(
        self, to: str | Sequence[str], text: str, *, options: Sequence[Any] | None = None, answer: type[T],
        timeout: float | timedelta | None = None, remind: float | timedelta | None = None,
        escalate: Sequence[Any] = (), via: str | None = None, subject: str | None = None, urgent: bool = False,
    ) -> Answer[T]: ...  # fmt: skip
    @overload
    async def ask(
        self, to: str | Sequence[str], text: str, *, options: Sequence[Any] | None = None, answer: Any,
        timeout: float | timedelta | None = None, remind: float | timedelta | None = None,
        escalate: Sequence[Any] = (), via: str | None = None, subject: str | None = None, urgent: bool = False,
    ) -> Answer[Any]: ...  # fmt: skip
    async def ask(
        self, to: str | Sequence[str], text: str, *, options: Sequence[Any] | None = None, answer: Any = str,
        timeout: float | timedelta | None = None, remind: float | timedelta | None = None,
        escalate: Sequence[Any] = (), via: str | None = None, subject: str | None = None, urgent: bool = False,
    ) -> Answer[Any]:  # fmt: skip
        """Ask a contact a question and wait for the reply; of several contacts, or a group, the first answer counts.

        options: what may be answered, by number or by its words. answer: the type of `Answer.value`: str, int, bool,
        date, an Enum, a Literal or a pydantic model; a reply that does not fit is asked again with the reason.
        timeout: seconds (or timedelta) until nobody's answer counts any more. remind: how often to repeat it until
        then. escalate: whom to ask as well, or through what else, and when: `(timedelta(hours=1), "bob")`,
        `(timedelta(hours=2), "alice", "email")`, or `Escalation` objects; times count from when it was first asked.
        via: one channel only. subject: for channels that have one. urgent: in the person's quiet hours too.

        Raises NoAnswer at the timeout, Undeliverable if nobody asked can be reached, NotFound for an unknown contact.
        If the wait is cancelled, the question is closed; those who were asked and did not answer are told once.
        """
        limit, every = _limits(timeout, remind)
        names = _names(to)
        deadline = None if limit is None else self._run.now + timedelta(seconds=limit)
        said = text
        while True:

            def spec(names: tuple[str, ...] = names, said: str = said) -> RequestSpec:
                form = form_of(answer, tuple(_words(option) for option in options or ()))
                return RequestSpec(
                    kind="question", to=names, text=_sendable(said), subject=subject, via=via, urgent=urgent,
                    options=tuple(choice.label for choice in form.choices),
                    form=None if form.is_plain else form.dump(), remind=every, escalate=_steps(escalate),
                    timeout=None if deadline is None else (deadline - self._run.now).total_seconds(),
                )  # fmt: skip

            request, settled = await self._request(Kind.ASK, ", ".join(names), spec)
            if settled.status == RequestStatus.EXPIRED:
                raise NoAnswer(
                    f"{' and '.join(names)} did not answer request {request} within {timeout}",
                    request=request, to=", ".join(names),
                )  # fmt: skip
            self._refuse_unanswered(request, settled, names)
            try:
                value = TypeAdapter(answer).validate_json(JSON_CODEC.dump(settled.value, "an answer"))
            except ValidationError as error:
                reasons = "; ".join(
                    problem["msg"].removeprefix("Value error, ") for problem in error.errors()[:3]
                )
                said = f"That could not be taken ({reasons}). {text}"
                names = (settled.by,) if settled.by is not None else names
                continue
            return Answer(
                text=settled.text, value=value, by=settled.by or names[0], channel=settled.channel or "",
                at=settled.at,
            )  # fmt: skip

    async def approve(
        self, by: str | Sequence[str], action: str, args: Mapping[str, Any] | BaseModel, *, text: str | None = None,
        timeout: float | timedelta | None = None, quorum: int = 1, edit: bool = False,
        reject_options: Sequence[str] = (), escalate: Sequence[Any] = (), remind: float | timedelta | None = None,
        via: str | None = None, subject: str | None = None, urgent: bool = False, four_eyes: bool = False,
    ) -> Approval:  # fmt: skip
        """Wait until people approve an action with exactly these arguments.

        `@require_approval` does this for a function, and makes sure that it cannot run without; use it where you can.

        by: contacts or groups; any of them may decide, but only those that the settings allow for this action. args:
        JSON values by name, all of which they see. text: what to say above them. quorum: how many must approve; one who
        denies decides for all. edit: whether they may change the arguments. reject_options: reasons for a no to choose
        from. four_eyes: the contact whose message began this run may not decide. The rest is as for `ask`.

        Raises Denied (with `comment` and `option`), ApprovalExpired at the timeout, Undeliverable if nobody can be
        reached, NotFound for an unknown contact, NotPossible if too few of those asked may approve it.
        """
        plain = _plain(args)
        if not isinstance(plain, Mapping) or not all(isinstance(name, str) for name in plain):
            raise TypeError(f"approve({action!r}): args are values by name, not {args!r}")
        arguments = JSON_CODEC.load(JSON_CODEC.dump(dict(plain), f"the arguments of {action}"))
        limit, every = _limits(timeout, remind)
        names = _names(by)

        def spec() -> RequestSpec:
            return RequestSpec(
                kind="approval", to=names, text=_sendable(text or f"May I {action}?"), subject=subject, via=via,
                urgent=urgent, options=tuple(reject_options), action=action, args=arguments,
                args_form=Form(schema=schema_like(arguments)).dump() if edit else None, quorum=quorum,
                requester=self._requester() if four_eyes else None, timeout=limit, remind=every,
                escalate=_steps(escalate),
            )  # fmt: skip

        return await self._approval(action, names, spec)

    async def run_gated(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function that runs only with a person's approval: see `wakeloop.require_approval`."""
        run, action = self._run, gate.action
        arguments = gate.arguments.bind(args, kwargs)
        if gate.when is not None and not run.perform(
            Kind.GATE, action, lambda: (gate.needs_approval(arguments), [])
        ):
            positional, named = gate.arguments.call_with(arguments)
            return await run.run_step(gate.step, positional, named)
        note = ""
        while True:

            def spec(note: str = note) -> RequestSpec:
                return RequestSpec(
                    kind="approval", to=gate.by, text=_sendable(f"{note}May I {action}?"), via=gate.via,
                    urgent=gate.urgent, options=gate.reject_options, action=action, args=arguments,
                    args_form=Form(schema=gate.arguments.schema).dump() if gate.edit else None,
                    quorum=gate.quorum, requester=self._requester() if gate.four_eyes else None,
                    timeout=gate.timeout, remind=gate.remind, escalate=_steps(gate.escalate),
                )  # fmt: skip

            approval = await self._approval(action, gate.by, spec)
            if not approval.edited and digest(action, arguments) != digest(action, approval.args):
                run.diverge(
                    f"an approval of {action} with {digest(action, approval.args)}",
                    f"{action} with other arguments ({digest(action, arguments)})",
                )
            try:
                approved = gate.arguments.validate(approval.args)
            except InvalidArguments as problem:
                note = f"The arguments that you chose cannot be used ({problem}). "
                continue
            positional, named = gate.arguments.call_with(approved)
            return await run.run_step(gate.step, positional, named)

    async def _approval(
        self, action: str, names: tuple[str, ...], spec: Callable[[], RequestSpec]
    ) -> Approval:
        request, settled = await self._request(Kind.APPROVE, action, spec)
        if settled.status == RequestStatus.EXPIRED:
            raise ApprovalExpired(
                f"nobody decided about {action} in time (request {request})",
                request=request, action=action,
            )  # fmt: skip
        if settled.status == RequestStatus.DENIED:
            why = ": ".join(filter(None, [settled.option, settled.comment]))
            raise Denied(
                f"{settled.by} denied {action}{f' ({why})' if why else ''}",
                comment=settled.comment, option=settled.option, by=settled.by or "", request=request, action=action,
            )  # fmt: skip
        self._refuse_unanswered(request, settled, names)
        arguments = settled.args or {}
        if digest(action, arguments) != settled.digest:
            raise NotPossible(
                f"the approval {request} of {action} does not name the arguments that came with it: they were changed "
                "in the store",
                request=request,
            )  # fmt: skip
        return Approval(
            args=arguments, by=settled.by or "", approvers=settled.approvers, comment=settled.comment,
            channel=settled.channel or "", at=settled.at, request=request, edited=settled.edited,
        )  # fmt: skip

    async def _request(self, kind: Kind, name: str, spec: Callable[[], RequestSpec]) -> tuple[str, Settled]:
        """Open a request and wait for its end. If the wait is given up, so is the request."""
        run = self._run

        def effect() -> tuple[str, list[Command]]:
            made = spec()
            run.surroundings.check_request(made)
            id = str(run.surroundings.new_id())
            return id, [OpenRequest(id=id, spec=made, at=run.now)]

        request = cast(str, run.perform(kind, name, effect))
        is_over = False
        try:
            settled = await run.wait(Kind.REPLY, name, {"request": request}, codec_for(Settled))
            is_over = True
        finally:
            if not is_over and not run.loop.is_closed():
                command = CancelRequest(id=request, at=run.now)
                run.perform(Kind.SETTLE, "cancelled", lambda: (None, [command]))
        return request, cast(Settled, settled)

    def _refuse_unanswered(self, request: str, settled: Settled, names: tuple[str, ...]) -> None:
        """Raise for a request that ended without anybody's word."""
        to = ", ".join(names)
        if settled.undeliverable:
            raise Undeliverable(
                f"request {request} to {to} reached nobody: {settled.reason}",
                request=request, to=to, reason=settled.reason or "",
            )  # fmt: skip
        if settled.status in (RequestStatus.CANCELLED, RequestStatus.SUPERSEDED):
            raise RequestCancelled(
                f"request {request} to {to} was cancelled: {settled.reason or 'no reason given'}",
                request=request, to=to, reason=settled.reason or "",
            )  # fmt: skip

    def _requester(self) -> str | None:
        return self.event.from_ if isinstance(self.event, Message) else None

    @overload
    async def receive(
        self, *, timeout: float | timedelta | None = None, from_: str | None = None
    ) -> Message: ...
    @overload
    async def receive(
        self, *, timeout: float | timedelta | None = None, from_: str | None = None, type: type[E]
    ) -> E: ...
    @overload
    async def receive(
        self, *, timeout: float | timedelta | None = None, from_: str | None = None, type: str
    ) -> Signal: ...
    async def receive(
        self, *, timeout: float | timedelta | None = None, from_: str | None = None, type: Any = Message
    ) -> Any:
        """Wait for the next message (`type=Message`), signal (`type=Signal`) or signal of one type (`type="invoice.paid"`)
        for this session. from_: only messages of that contact; by default of the one whose message started this run,
        else of anyone. timeout: seconds or timedelta. Raises TimeoutError, NotFound for an unknown contact."""
        match: dict[str, Any]
        if type is Message:
            sender = from_ or (self.event.from_ if isinstance(self.event, Message) else None)
            if from_ is not None:
                self._run.surroundings.check_contact(from_, None)
            match = {"type": "message", "from": sender}
            codec = codec_for(Message)
        elif type is Signal or isinstance(type, str):
            match = {"type": "signal", "signal": type if isinstance(type, str) else "*"}
            codec = codec_for(Signal)
        else:
            raise TypeError(f"receive(type=...) takes Message, Signal or a signal's type, not {type!r}")
        limit = None if timeout is None else seconds(timeout, "a timeout")
        async with asyncio.timeout(limit):
            return await self._run.wait(
                Kind.RECEIVE, match.get("signal") or match.get("from") or "", match, codec
            )

    async def read(self, attachment: Attachment) -> bytes:
        """The bytes of what came with a message: a step, whose result is recorded.

        It reads what wakeloop keeps, what stays with the provider of the channel through which it came (tried again if
        that is away), and `data:` URLs; no other address. Raises NotFound if it is gone, NotPossible for an attachment
        that came with no message of this session, ValueTooLarge for more than the journal takes (about 768 KiB), with
        what to do then, and ChannelError as the provider has it."""
        run = self._run
        return cast(bytes, await run.run_step(run.surroundings.reading(), (attachment,), {}))

    # ------------------------------------------------------------------ other agents

    async def spawn(self, agent: Agent | str, input: Any = None, *, key: str | None = None) -> Child[Any]:
        """Start a run of another agent, and go on at once; `await child` waits for its end.

        input: a JSON value or a pydantic model, `ctx.event.input` there. key: the session it runs in; a new one by
        default. Raises NotFound if no agent of that name is known, NotSerializable for an input that is no JSON."""
        name = agent.name if isinstance(agent, Agent) else agent
        text = JSON_CODEC.dump(_plain(input), f"the input of agent {name}")
        if key is not None and not (isinstance(key, str) and key):
            raise TypeError(f"spawn({name}, key={key!r}): a session's key is a text that is not empty")
        run = self._run

        def effect() -> tuple[str, list[Command]]:
            run.surroundings.check_agent(name)
            id = str(run.surroundings.new_id())
            return id, [SpawnRun(id=id, agent=name, key=key or id, input=text)]

        child = run.perform(Kind.SPAWN, name, effect)
        return Child(run, child, name, agent if isinstance(agent, Agent) else None)

    async def emit(self, type: str, data: Any = None, *, subject: str | None = None) -> Signal:
        """Publish a signal to the agents that listen for its type. `data` is a JSON value or a pydantic model."""
        run = self._run

        def effect() -> tuple[Signal, list[Command]]:
            signal = Signal(
                type=type, data=_plain(data), id=str(run.surroundings.new_id()), source=f"wakeloop/{self.session}",
                subject=subject, time=run.now,
            )  # fmt: skip
            return signal, [EmitSignal(signal=signal)]

        return cast(Signal, run.perform(Kind.EMIT, type, effect, codec_for(Signal)))


class Child(Generic[T]):
    """A spawned run. `await child` gives its result, or raises ChildFailed; it may be awaited once or often."""

    def __init__(self, run: Execution, id: str, agent: str, definition: Agent | None) -> None:
        self._run = run
        self._codec = result_codec(definition.handler) if definition is not None else JSON_CODEC
        self._end: asyncio.Future[T] | None = None
        self.id = id
        self.agent = agent

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        if self._end is None:
            self._end = asyncio.ensure_future(
                self._run.wait(Kind.CHILD, self.agent, {"run": self.id}, self._codec), loop=self._run.loop
            )
        return await asyncio.shield(self._end)

    def __repr__(self) -> str:
        return f"<child {self.agent} {self.id}>"


class OwnSchedule:
    """The session's own wakeups: an agent that schedules itself."""

    def __init__(self, run: Execution) -> None:
        self._run = run

    def list(self) -> tuple[Wakeup, ...]:
        """The coming wakeups of this session, those of its code and its own, soonest first."""
        run = self._run
        return cast(
            "tuple[Wakeup, ...]", run.perform(Kind.SCHEDULE, "list", lambda: (self._coming(), []), _WAKEUPS)
        )

    def set(self, trigger: Schedule) -> str:
        """Wake this session by `cron(...)`, `every(...)` or `at(...)` from now on; the id cancels it."""
        if not isinstance(trigger, Schedule):
            raise TypeError(f"schedule.set() takes cron(...), every(...) or at(...), not {trigger!r}")
        run = self._run

        def effect() -> tuple[str, list[Command]]:
            id = str(run.surroundings.new_id())
            return id, [SetWakeup(id=id, schedule=trigger, anchor=run.now)]

        return cast(str, run.perform(Kind.SCHEDULE, "set", effect))

    def cancel(self, id: str) -> None:
        """Cancel a wakeup that this session set. Raises NotFound if it has none with this id."""
        run = self._run

        def effect() -> tuple[None, list[Command]]:
            if not any(wakeup.id == id and wakeup.own for wakeup in self._coming()):
                raise NotFound(
                    f"session {run.facts.session} has set no wakeup {id}; ctx.schedule.list() shows them"
                )
            return None, [CancelWakeup(id=id)]

        run.perform(Kind.SCHEDULE, "cancel", effect)

    def _coming(self) -> tuple[Wakeup, ...]:
        """The coming wakeups, with what the handler changed since it last waited."""
        found = {wakeup.id: wakeup for wakeup in self._run.surroundings.wakeups()}
        for command in self._run.commands:
            if isinstance(command, SetWakeup):
                next = calendar.next_after(command.schedule, command.anchor, anchor=command.anchor)
                found[command.id] = Wakeup(id=command.id, schedule=command.schedule, next=next, own=True)
            elif isinstance(command, CancelWakeup):
                found.pop(command.id, None)
        return tuple(sorted(found.values(), key=lambda one: (one.next is None, one.next, one.id)))


def _names(to: str | Sequence[str]) -> tuple[str, ...]:
    """Those who are asked: one, or several."""
    names = (to,) if isinstance(to, str) else tuple(to)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"{to!r}: give the id of a contact or group, or several")
    return names


def _limits(
    timeout: float | timedelta | None, remind: float | timedelta | None
) -> tuple[float | None, float | None]:
    limit = None if timeout is None else seconds(timeout, "a timeout")
    every = None if remind is None else seconds(remind, "a reminder's interval")
    if every is not None and every <= 0:
        raise ValueError(f"remind={remind!r}: reminders need more than zero seconds between them")
    return limit, every


def _steps(given: Sequence[Any]) -> tuple[EscalationStep, ...]:
    return tuple(
        EscalationStep(after=one.after.total_seconds(), to=one.to, via=one.via) for one in escalations(given)
    )


def _words(option: Any) -> str:
    """An option as a person reads it: the value of an enum's member, else its text."""
    return str(option.value if isinstance(option, Enum) else option)


def _files_to_send(attachments: Sequence[Attachment], to: str) -> tuple[Attachment, ...]:
    """Files that can go with a message, of a size that the journal takes."""
    files = tuple(attachments)
    for file in files:
        if not isinstance(file, Attachment):
            raise TypeError(f"send({to!r}, attachments=…) takes Attachment objects, not {file!r}")
        scheme = file.url.partition(":")[0].lower()
        if scheme not in ("http", "https", "data") or file.channel is not None:
            raise ValueError(
                f"the file {file.name or scheme!r} for {to} cannot be fetched by who sends it: "
                "`await ctx.read(attachment)` gives its bytes, and Attachment.from_bytes(…) makes of them what can be sent"
            )
    size = sum(len(file.url) for file in files)
    if size > VALUE_LIMIT_BYTES:
        raise ValueTooLarge(
            f"the files for {to} are {size:,} bytes in the journal, over the limit of {VALUE_LIMIT_BYTES:,}: store them in a "
            "step where they can be fetched by https, and send Attachment(url=…)",
            where=f"the files for {to}", size=size, limit=VALUE_LIMIT_BYTES,
        )  # fmt: skip
    return files


def _sendable(text: str) -> str:
    """A text without NUL characters, which no provider sends and PostgreSQL does not keep."""
    return text.replace("\x00", "")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
