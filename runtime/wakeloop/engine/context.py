"""The context: everything that a handler may do with the world outside itself."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from wakeloop import calendar
from wakeloop.agent import Agent
from wakeloop.answers import Answer
from wakeloop.engine.commands import (
    CancelWakeup,
    Command,
    EmitSignal,
    SendMessage,
    SetWakeup,
    SpawnRun,
    Wakeup,
    seconds,
    sendable,
)
from wakeloop.engine.conversation import Conversation
from wakeloop.engine.journal import Kind
from wakeloop.engine.requesting import approval, question
from wakeloop.engine.values import JSON_CODEC, VALUE_LIMIT_BYTES, codec_for, plain, result_codec
from wakeloop.errors import NotFound, ValueTooLarge
from wakeloop.events import ANY_SIGNAL, Attachment, Event, Message, Signal, Tick
from wakeloop.gates import Approval
from wakeloop.people import Card
from wakeloop.triggers import KEY_CHARACTERS, Schedule, is_key

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
                id=str(run.surroundings.new_id()), text=sendable(text), to=to,
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
        return await question(
            self._run, to, text, options=options, answer=answer, timeout=timeout, remind=remind, escalate=escalate,
            via=via, subject=subject, urgent=urgent,
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
        return await approval(
            self._run, by, action, args, text=text, timeout=timeout, quorum=quorum, edit=edit,
            reject_options=reject_options, escalate=escalate, remind=remind, via=via, subject=subject, urgent=urgent,
            four_eyes=four_eyes,
        )  # fmt: skip

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
        for this session. Which session a signal is for says the agent's `on_signal` that names its type; if none does, every
        run of the agent that waits for it gets it (of one that waits for any: if the agent has no `on_signal` at all). from_: only messages of that contact; by default of the one whose message started this run,
        else of anyone. timeout: seconds or timedelta. Raises TimeoutError, NotFound for an unknown contact."""
        match: dict[str, Any]
        if type is Message:
            sender = from_ or (self.event.from_ if isinstance(self.event, Message) else None)
            if from_ is not None:
                self._run.surroundings.check_contact(from_, None)
            match = {"type": "message", "from": sender}
            codec = codec_for(Message)
        elif type is Signal or isinstance(type, str):
            match = {"type": "signal", "signal": type if isinstance(type, str) else ANY_SIGNAL}
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
        text = JSON_CODEC.dump(plain(input), f"the input of agent {name}")
        if key is not None and not is_key(key):
            raise TypeError(
                f"spawn({name}, key={key!r:.100}): a session's key is a text of 1 to {KEY_CHARACTERS} characters without NUL"
            )
        run = self._run

        def effect() -> tuple[str, list[Command]]:
            run.surroundings.check_agent(name)
            id = str(run.surroundings.new_id())
            return id, [SpawnRun(id=id, agent=name, key=key or id, input=text)]

        child = run.perform(Kind.SPAWN, name, effect)
        return Child(run, child, name, agent if isinstance(agent, Agent) else None)

    async def emit(self, type: str, data: Any = None, *, subject: str | None = None) -> Signal:
        """Publish a signal to the agents that listen for its type, and to the runs that wait for it. `data` is a JSON value or
        a pydantic model."""
        run = self._run

        def effect() -> tuple[Signal, list[Command]]:
            signal = Signal(
                type=type, data=plain(data), id=str(run.surroundings.new_id()), source=f"wakeloop/{self.session}",
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
