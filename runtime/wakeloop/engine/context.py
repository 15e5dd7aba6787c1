"""The context: everything that a handler may do with the world outside itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, TypeAdapter

from wakeloop import calendar
from wakeloop.agent import Agent
from wakeloop.answers import Answer, Unreadable, numbered, read_answer
from wakeloop.engine.commands import (
    CancelWakeup,
    Command,
    EmitSignal,
    OpenRequest,
    SendMessage,
    SettleRequest,
    SetWakeup,
    SpawnRun,
    Wakeup,
    seconds,
)
from wakeloop.engine.journal import Kind
from wakeloop.engine.values import JSON_CODEC, codec_for, result_codec
from wakeloop.errors import NoAnswer, NotFound
from wakeloop.events import Event, Message, Signal, Tick
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
    key: the session's key within the agent. random: a `random.Random` of the run's own.
    """

    def __init__(self, execution: Execution) -> None:
        self._run = execution
        self.event: Event = execution.facts.event
        self.run_id: str = execution.facts.id
        self.session: str = execution.facts.session
        self.key: str = execution.facts.key
        self.random = random.Random(execution.facts.id)
        self.schedule = OwnSchedule(execution)
        self._uuids = random.Random(f"uuid of {execution.facts.id}")
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

    async def send(
        self, to: str, text: str, *, via: str | None = None, subject: str | None = None
    ) -> Message:
        """Send a contact a one-way message, on their first channel that works, or only `via` one.

        It is recorded with everything else up to the next wait, and sent after that. Raises NotFound if there is no
        such contact, or it has no address on `via`."""
        return self._send(to, text, via=via, subject=subject)

    @overload
    async def ask(
        self, to: str, text: str, *, options: Sequence[str] | None = None, timeout: float | timedelta | None = None,
        remind: float | timedelta | None = None, via: str | None = None, subject: str | None = None,
    ) -> Answer[str]: ...  # fmt: skip
    @overload
    async def ask(
        self, to: str, text: str, *, options: Sequence[str] | None = None, answer: type[T],
        timeout: float | timedelta | None = None, remind: float | timedelta | None = None,
        via: str | None = None, subject: str | None = None,
    ) -> Answer[T]: ...  # fmt: skip
    async def ask(
        self, to: str, text: str, *, options: Sequence[str] | None = None, answer: Any = str,
        timeout: float | timedelta | None = None, remind: float | timedelta | None = None,
        via: str | None = None, subject: str | None = None,
    ) -> Answer[Any]:  # fmt: skip
        """Ask a contact a question and wait for the reply.

        options: what may be answered, by number or by its words. answer: the type of `Answer.value`: str, int, bool,
        date, an Enum, a Literal or a pydantic model; a reply that does not fit is asked again with the reason.
        timeout: seconds (or timedelta) until nobody's answer counts any more. remind: how often to repeat it until
        then. via: one channel only. subject: for channels that have one.

        Raises NoAnswer at the timeout, Undeliverable if no channel takes the question, NotFound for an unknown
        contact. If the wait is cancelled, the question is closed.
        """
        choices = tuple(_words(option) for option in options or ())
        TypeAdapter(answer)
        limit = None if timeout is None else seconds(timeout, "a timeout")
        every = None if remind is None else seconds(remind, "a reminder's interval")
        if every is not None and every <= 0:
            raise ValueError(f"remind={remind!r}: reminders need more than zero seconds between them")
        request = self._open_request(to, text, choices, limit, via, subject)
        settled = "cancelled"
        try:
            async with asyncio.timeout(limit):
                while True:
                    message = await self._reply(request, every, to, text, choices, via, subject)
                    try:
                        value = read_answer(message.text, answer, choices)
                    except Unreadable as reason:
                        again = f"That could not be read ({reason}). {text}"
                        self._send(
                            message.from_ or to, again, via=message.channel, subject=subject, request=request
                        )
                        continue
                    self._settle(request, "answered", answer=message.text, by=message.from_)
                    settled = ""
                    return Answer(
                        text=message.text,
                        value=value,
                        by=message.from_ or to,
                        channel=message.channel,
                        at=message.at,
                    )
        except TimeoutError as error:
            if settled == "":
                raise
            settled = "expired"
            raise NoAnswer(
                f"{to} did not answer request {request} within {timeout}", request=request, to=to
            ) from error
        finally:
            if settled:
                self._settle_unless_closed(request, settled)

    async def _reply(
        self, request: str, every: float | None, to: str, text: str, choices: tuple[str, ...], via: str | None,
        subject: str | None,
    ) -> Message:  # fmt: skip
        while True:
            try:
                async with asyncio.timeout(every):
                    return cast(
                        Message,
                        await self._run.wait(Kind.REPLY, to, {"request": request}, codec_for(Message)),
                    )
            except TimeoutError:
                if every is None:
                    raise
                self._send(
                    to, _question(f"Reminder: {text}", choices), via=via, subject=subject, request=request
                )

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

    # ------------------------------------------------------------------ inside

    def _send(
        self, to: str, text: str, *, via: str | None, subject: str | None, request: str | None = None
    ) -> Message:
        run = self._run

        def effect() -> tuple[Message, list[Command]]:
            channel = run.surroundings.check_contact(to, via)
            message = Message(
                id=str(run.surroundings.new_id()),
                text=_sendable(text),
                to=to,
                channel=channel,
                at=run.now,
                subject=subject,
            )
            return message, [SendMessage(message=message, via=via, request=request)]

        return cast(Message, run.perform(Kind.SEND, to, effect, codec_for(Message)))

    def _open_request(
        self,
        to: str,
        text: str,
        choices: tuple[str, ...],
        limit: float | None,
        via: str | None,
        subject: str | None,
    ) -> str:
        run = self._run

        def effect() -> tuple[str, list[Command]]:
            channel = run.surroundings.check_contact(to, via)
            id = str(run.surroundings.new_id())
            message = Message(
                id=str(run.surroundings.new_id()), text=_sendable(_question(text, choices)), to=to,
                channel=channel, at=run.now,
                subject=subject,
            )  # fmt: skip
            expires = None if limit is None else run.now + timedelta(seconds=limit)
            return id, [
                OpenRequest(id=id, to=to, text=_sendable(text), options=choices, expires=expires),
                SendMessage(message=message, via=via, request=id),
            ]

        return cast(str, run.perform(Kind.ASK, to, effect))

    def _settle(self, request: str, status: str, *, answer: str | None = None, by: str | None = None) -> None:
        command = SettleRequest(id=request, status=status, answer=answer, by=by)
        self._run.perform(Kind.SETTLE, status, lambda: (None, [command]))

    def _settle_unless_closed(self, request: str, status: str) -> None:
        if not self._run.loop.is_closed():
            self._settle(request, status)


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


def _question(text: str, choices: tuple[str, ...]) -> str:
    return f"{text}\n{numbered(choices)}" if choices else text


def _words(option: Any) -> str:
    """An option as a person reads it: the value of an enum's member, else its text."""
    return str(option.value if isinstance(option, Enum) else option)


def _sendable(text: str) -> str:
    """A text without NUL characters, which no provider sends and PostgreSQL does not keep."""
    return text.replace("\x00", "")


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
