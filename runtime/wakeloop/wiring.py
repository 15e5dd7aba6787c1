"""Puts the runtime together from the settings: the one place where parts are chosen and connected."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import cast

from wakeloop.adapters import adapters
from wakeloop.amending import amends
from wakeloop.attachments import Attachments
from wakeloop.callbacks import TIMEOUT_SECONDS, CallbackSender, webhook_secret
from wakeloop.channel import CALLBACK_CHANNEL, Channel, ChannelServices, Guiding, RawRequest, Reacting
from wakeloop.clock import SystemClock
from wakeloop.decisions import Decisions
from wakeloop.desk import Desk
from wakeloop.dispatch import Dispatcher, Handed, RunsFailed
from wakeloop.errors import ChannelError, ConfigurationError
from wakeloop.executor import Executor
from wakeloop.handing import Handing
from wakeloop.intake import REPORT_SECONDS, Intake, Taker
from wakeloop.links import Links
from wakeloop.listeners import Listeners
from wakeloop.logs import get_logger
from wakeloop.meters import Exposition, expose
from wakeloop.operations import Operations
from wakeloop.outbox import Outbox
from wakeloop.pacing import Pace
from wakeloop.people import People
from wakeloop.registry import Problem, Registry, load_folder
from wakeloop.requests import Requests
from wakeloop.retention import Policy, Retention
from wakeloop.routing import Replies, Routing
from wakeloop.settings import Settings, load_settings
from wakeloop.step_runner import RealLoop, ThreadedSteps
from wakeloop.store import keys
from wakeloop.store.database import Database
from wakeloop.telemetry import begin as begin_traces
from wakeloop.timers import AHEAD, Timers, TimerThread
from wakeloop.tokens import Tokens
from wakeloop.world import World

__all__ = ["Runtime", "Settings", "load_channel", "load_channels", "load_settings", "make_host"]

log = get_logger("wakeloop.wiring")

WEB_CHANNEL = "web"
"""The channel of people's own pages, which needs no setting: it is there wherever its adapter is installed."""
STEP_THREADS = 32
REACT_SECONDS = 10.0
LISTENERS_SECONDS = 8.0


class Runtime:
    """Everything that one process has of wakeloop, connected; the Host of a worker (see wakeloop.dispatch.Host).

    Made without connecting to anything. `start` begins to claim what is due; turns and deliveries can be run, and
    messages taken in, without it, as the children of a prefork pool and the command line do.
    """

    def __init__(self, settings: Settings, *, alone: bool = False) -> None:
        """`alone`: no other process works on this store, so what a dead predecessor had in hand is taken up at once.

        Raises ConfigurationError for settings that cannot work."""
        self.settings = settings
        self.database = Database(settings.database_url)
        self.problems: tuple[Problem, ...] = ()
        self._alone = alone
        self._lock = threading.Lock()
        self._executor: Executor | None = None
        self._steps: ThreadedSteps | None = None
        self._loop = RealLoop("wakeloop-steps")
        self._timer_thread: TimerThread | None = None
        self._handing: Handing | None = None
        self._exposition: Exposition | None = None
        self._listening: Future[None] | None = None
        self._stopped = False
        self._is_traced = False
        self._signing: tuple[str, ...] = ()
        self._webhook_secrets: tuple[str, ...] = ()
        self._watchers: tuple[Callable[[], None], ...] = ()
        people = People(settings.contacts, settings.approvers)
        self.channels = load_channels(settings, people)
        people = people.normalized({name: channel.normalize for name, channel in self.channels.items()})
        self.world = World(
            registry=self._load_agents(),
            people=people,
            ids=SystemClock(),
            reader=Attachments(database=self.database, channels=self.channels),
        )
        self.links = Links(keys=self._keys, base_url=page_url(settings), now=self.database.now)
        amending = [name for name, channel in self.channels.items() if amends(channel)]
        self.desk = Desk(world=self.world, links=self.links, amending=amending)
        self.decisions = Decisions(world=self.world, desk=self.desk, links=self.links)
        self.callbacks = CallbackSender(
            secrets=self.webhook_secrets,
            allowed=settings.callback_hosts,
            is_local=settings.public_url is None and is_loopback(settings.host),
            # An attempt must end before the outbox takes its outcome for unknown.
            timeout=min(TIMEOUT_SECONDS, 0.8 * settings.lease_seconds),
            now=self.database.now,
        )
        self.outbox = Outbox(
            database=self.database,
            world=self.world,
            desk=self.desk,
            channels={**self.channels, CALLBACK_CHANNEL: self.callbacks},
            send_seconds=settings.lease_seconds,
            pace=Pace(
                messages_per_hour=settings.messages_per_hour, coalesce_seconds=settings.coalesce_seconds
            ),
        )
        self.timers = Timers(database=self.database, world=self.world, desk=self.desk, ahead=AHEAD)
        self.retention = Retention(database=self.database, policy=Policy.of(settings))
        self.intake = Intake(
            database=self.database,
            world=self.world,
            outbox=self.outbox,
            routing=Routing(
                world=self.world,
                decisions=self.decisions,
                links=self.links,
                replies=Replies(
                    unknown_sender=settings.unknown_sender_text
                    if settings.unknown_sender == "answer"
                    else None,
                    unrouted=settings.unrouted_text,
                ),
            ),
            channels=self.channels,
            changed=self.nudge,
            taker=self._taker,
            files_limit=int(settings.attachments_limit_mb * 1024 * 1024),
            report_seconds=REPORT_SECONDS,
        )
        self.listeners = Listeners(
            database=self.database,
            intake=self.intake,
            channels=self.channels,
            lease_seconds=settings.lease_seconds,
        )
        self.requests = Requests(
            database=self.database,
            world=self.world,
            desk=self.desk,
            decisions=self.decisions,
            changed=self.nudge,
        )
        self.tokens = Tokens(self.database)
        self.operations = Operations(database=self.database, world=self.world, intake=self.intake)

    def _keys(self) -> Sequence[str]:
        """The keys that links are signed with: of the settings, newest first, else one that this store keeps."""
        if not self._signing:
            given = [key.get_secret_value() for key in self.settings.secret_keys]
            self._signing = tuple(given or [self._kept_key(keys.LINKS)])
        return self._signing

    def webhook_secrets(self) -> Sequence[str]:
        """What callbacks are signed with (`whsec_…`): from the keys of the settings, newest first, else from one that
        this store keeps."""
        if not self._webhook_secrets:
            given = [key.get_secret_value() for key in self.settings.secret_keys]
            self._webhook_secrets = tuple(
                webhook_secret(key) for key in given or [self._kept_key(keys.CALLBACKS)]
            )
        return self._webhook_secrets

    def _kept_key(self, name: str) -> str:
        # The schema comes with its keys: a store in which one is missing was made by hand, or restored in part.
        with self.database.read() as connection:
            key = keys.find_key(connection, name)
        if key is None:
            with self.database.begin() as connection:
                key = keys.ensure_key(connection, name, now=self.database.now())
        return key

    def _load_agents(self) -> Registry:
        loaded = load_folder(Path(self.settings.agents_dir))
        self.problems = tuple(loaded.problems)
        for problem in loaded.problems:
            log.error(
                "an agent file is broken", file=str(problem.file), line=problem.line, problem=problem.message
            )
        return Registry(loaded.agents)

    def reload_agents(self) -> None:
        """Load the agents' files anew. Runs under way finish their turn with the code they have."""
        self.world.registry = self._load_agents()
        self.timers.sync_schedules()
        self.nudge()

    # ------------------------------------------------------------------ the host of a worker

    def agents(self) -> Mapping[str, str | None]:
        """The names of the agents that this process knows, each with the queue it asked for."""
        return {agent.name: agent.queue for agent in self.world.registry.agents}

    def run_turns(self, sessions: Sequence[int]) -> None:
        """Run a turn of each of these sessions that still needs one. Raises RunsFailed."""
        executor = self._ensure_executor()
        if executor is None:
            return
        ticket = executor.submit(sessions)
        while not ticket.wait(1.0):
            if self._stopped:
                return
        if ticket.failures:
            raise RunsFailed("; ".join(ticket.failures[:5]))

    def run_deliveries(self, ids: Sequence[str]) -> None:
        """Make these deliveries if they are still to be made."""
        if not self._stopped:
            self.begin_traces()
            self._loop.submit(lambda: self.outbox.deliver(ids, self.nudge)).result()

    def start(self, dispatcher: Dispatcher) -> None:
        """Begin to claim what is due, and hand it to the dispatcher. Raises ConfigurationError if the store cannot be
        used, or its schema is not this version's."""
        self.database.check_schema()
        self.begin_traces()
        self._stopped = False
        if self._alone:
            self.timers.recover()
            self.listeners.recover()
        self.timers.sync_schedules()
        self._timer_thread = TimerThread(
            timers=self.timers,
            database=self.database,
            dispatcher=dispatcher,
            lease_seconds=self.settings.lease_seconds,
            tidy=self.retention.step,
            is_idle=self._is_idle,
        )
        self._timer_thread.start()
        if self.settings.metrics_port:
            self._exposition = expose(self.settings.metrics_address, self.settings.metrics_port)
        if self.listeners.names:
            self._listening = self._loop.submit(self.listeners.run)

    def _is_idle(self) -> bool:
        return self._executor is not None and not self._executor.held

    def hand_over(self, dispatcher: Dispatcher) -> None:
        """For a process that is no worker: send what it makes due to the workers at once, rather than leave it to be
        found by them."""
        self._handing = Handing(timers=self.timers, dispatcher=dispatcher)
        self._handing.start()

    def stop(self, *, grace: float = 10.0) -> None:
        """Stop claiming, give turns under way `grace` seconds, hand the rest back, close connections."""
        handing, self._handing = self._handing, None
        if handing is not None:
            handing.stop(timeout=min(grace, 5.0))
        thread, self._timer_thread = self._timer_thread, None
        if thread is not None:
            thread.stop(timeout=min(grace, 5.0))
        self._stop_listening()
        exposition, self._exposition = self._exposition, None
        if exposition is not None:
            exposition.close()
        with self._lock:
            self._stopped = True
            executor, self._executor = self._executor, None
            steps, self._steps = self._steps, None
        if executor is not None:
            executor.stop(grace)
        if steps is not None:
            steps.close()
        closing = {name: channel.close for name, channel in self.channels.items()}
        self._loop.run_all({**closing, CALLBACK_CHANNEL: self.callbacks.close})
        self._loop.close()
        self.database.close()

    def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        if listening is None:
            return
        self._loop.submit(self.listeners.stop)
        try:
            listening.result(timeout=LISTENERS_SECONDS)
        except Exception as error:
            log.warning("the listeners did not stop; their leases run out", error=type(error).__name__)

    def react(self, channel: str, request: RawRequest) -> None:
        """Let a channel do what its provider wants beside the answer to a request that was recorded. Returns at once;
        it happens in the loop in which all of the channels' traffic does, and what goes wrong is logged."""
        reacting = self.channels.get(channel)
        if reacting is not None and not self._stopped and _reacts(type(reacting)):
            known = cast(Reacting, reacting)
            self._loop.submit(lambda: self._react(channel, known, request))

    async def _react(self, name: str, channel: Reacting, request: RawRequest) -> None:
        try:
            async with asyncio.timeout(REACT_SECONDS):
                await channel.react(request)
        except Exception as error:
            told = str(error) if isinstance(error, ChannelError) else type(error).__name__
            log.warning("a reaction to a request failed", channel=name, error=told)

    def begin_traces(self) -> None:
        """Have this process make traces, if they are wished for. Raises ConfigurationError if it cannot."""
        if not self._is_traced:
            self._is_traced = True
            begin_traces(self.settings.traces)

    def nudge(self) -> None:
        """Something may be due earlier than was known."""
        if (thread := self._timer_thread) is not None:
            thread.nudge()
        if (handing := self._handing) is not None:
            handing.nudge()
        self._tell()

    def _taker(self) -> Taker | None:
        """Who takes sessions that were marked as dispatched where they were made due: nobody while the broker is away."""
        handing = self._handing
        if handing is None or handing.is_paused:
            return None

        def take(sessions: Sequence[Handed]) -> None:
            if sessions:
                handing.take(sessions)
            self._tell()

        return take

    def _committed(self, due: datetime | None) -> None:
        if due is not None and (thread := self._timer_thread) is not None:
            thread.nudge(due)
        self._tell()

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call this, from any thread, whenever this process has changed something; it must return at once."""
        with self._lock:
            self._watchers = (*self._watchers, changed)

    def _ensure_executor(self) -> Executor | None:
        with self._lock:
            if self._stopped:
                return None
            if self._executor is None:
                self.begin_traces()
                self._steps = ThreadedSteps(self._loop, threads=STEP_THREADS)
                self._executor = Executor(
                    database=self.database,
                    world=self.world,
                    steps=self._steps,
                    lease_seconds=self.settings.lease_seconds,
                    committed=self._committed,
                    ahead=AHEAD,
                )
                self._executor.start()
            return self._executor


@functools.cache
def _reacts(kind: type[Channel]) -> bool:
    """Whether channels of this class react. To look through a class for what a protocol wants takes long."""
    return issubclass(kind, Reacting)


def page_url(settings: Settings) -> str | None:
    """Where people's pages are: at the public address, else on this machine if nothing else can reach the web process."""
    if settings.public_url is not None:
        return settings.public_url
    if settings.port and is_loopback(settings.host):
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"http://{host}:{settings.port}"
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_host(settings: Settings) -> Runtime:
    """The host of a Celery worker."""
    return Runtime(settings)


def load_channels(settings: Settings, people: People) -> dict[str, Channel]:
    """The adapters of the channels that have a table in wakeloop.toml, or that a contact has an address on, and of
    people's own pages. Of no other channel is anything imported.

    Raises ConfigurationError for all channels that cannot be used, a line for each: see `load_channel`."""
    addresses = {channel for id in people.ids for channel in people.get(id).addresses}
    channels: dict[str, Channel] = {}
    broken: list[ConfigurationError] = []
    for name in wanted_channels(settings, addresses):
        try:
            channels[name] = load_channel(settings, name)
        except ConfigurationError as error:
            broken.append(error)
    if broken:
        raise ConfigurationError("\n".join(str(error) for error in broken)) from broken[0]
    return channels


def wanted_channels(settings: Settings, addresses: Iterable[str]) -> list[str]:
    """The names of the channels that are set up, or that somebody has an address on, and of people's own pages."""
    own = {WEB_CHANNEL} & adapters().keys()
    return sorted({*settings.channels, *addresses, *own})


def load_channel(settings: Settings, name: str) -> Channel:
    """The adapter of a channel, with its settings.

    Raises ConfigurationError if there is none, naming those that there are; if a library is missing that it needs, naming
    the extra that brings it; or if a setting is missing or wrong."""
    points = adapters()
    if name not in points:
        raise ConfigurationError(
            f"there is no adapter for the channel {name!r}; installed are: {', '.join(sorted(points)) or 'none'}. "
            "An adapter is a package with an entry point of the group wakeloop.channels"
        )
    try:
        adapter: type[Channel] = points[name].load()
    except ImportError as error:
        raise _missing(points[name], error) from error
    return adapter.from_settings(
        settings.channel_section(name), ChannelServices(webhook_url=webhook_url(settings, name))
    )


def webhook_url(settings: Settings, name: str) -> str | None:
    """Where a channel's provider calls; None without a public address."""
    return f"{settings.public_url}/webhooks/{name}" if settings.public_url else None


def _missing(point: EntryPoint, error: ImportError) -> ConfigurationError:
    extra = point.extras[0] if point.extras else point.name
    package = point.dist.name if point.dist is not None else "wakeloop"
    library = (error.name or "").partition(".")[0]
    what = (
        f"needs {library}, which is not installed"
        if isinstance(error, ModuleNotFoundError) and library
        else f"cannot be loaded ({error}); perhaps a library that it needs is missing or too old"
    )
    return ConfigurationError(f'the channel {point.name} {what}: pip install "{package}[{extra}]"')


def guides(settings: Settings, channels: Mapping[str, Channel]) -> dict[str, Sequence[tuple[str, str]]]:
    """By channel, what its provider must be told, as (where, what); of none without a public address."""
    found: dict[str, Sequence[tuple[str, str]]] = {}
    for name, channel in channels.items():
        url = webhook_url(settings, name)
        if url is not None and isinstance(channel, Guiding) and (pairs := channel.guide(url)):
            found[name] = pairs
    return found
