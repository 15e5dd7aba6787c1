"""The Celery app: how ids of due work travel to a worker process, and how that process is started and stopped.

Celery is only the carrier. What is due, who holds it, and what becomes of it if a worker dies is decided by the
database, through the `Host` that each worker process has. Hence: messages carry ids, tasks acknowledge before they
run, results are ignored, and no message is ever sent for later.
"""

# kombu is typed in part; its pools are not.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from celery import Celery, bootsteps, signals
from celery.exceptions import WorkerShutdown
from celery.loaders.app import AppLoader
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.exceptions import BatchPublishError, OperationalError
from kombu.pools import ProducerPool
from kombu.transport import get_transport_cls
from kombu.utils.url import maybe_sanitize_url

from . import embedded
from .dispatch import Dispatcher, Host, RunsFailed, TurnMessage
from .errors import ConfigurationError
from .logs import JsonFormatter, get_logger
from .telemetry import flush

if TYPE_CHECKING:
    from .embedded import Broker

log = get_logger("wakeloop.celery")

TURN_TASK_PREFIX = "wakeloop.agents."
DELIVERY_TASK = "wakeloop.deliver"

# Redis: 0 goes first. A message to a person is quick to send and should not queue behind a hundred turns.
DELIVERY_PRIORITY = 0
TURN_PRIORITY = 5

STARTUP_TRIES = 4
STOP_GRACE_SECONDS = 10.0
RECONNECT_SECONDS = 5.0
EVENTS_SECONDS = 0.1
"""How long a worker keeps what it has to tell to Flower, so that it says more at once, and not while a turn begins."""
NAMES_SHOWN = 5
PUBLISHERS = 4

_CONSUMING: dict[str, Any] = {
    # Without these a half-open connection leaves a worker deaf for minutes.
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 5,
    # One Redis list per priority that there is.
    "priority_steps": [DELIVERY_PRIORITY, TURN_PRIORITY],
    "sep": ":",
    # kombu would keep a copy of each message in Redis until it is acknowledged, which is before its task runs. Whatever
    # is lost with a worker, the database hands over again, and an hour earlier.
    "ack_emulation": False,
}

# The claiming thread must not hang on a dead broker: it gives up, and what it claimed is claimed again later. By
# default kombu tries to connect for ever when a channel is opened.
_PUBLISHING: dict[str, Any] = {
    "socket_timeout": 2,
    "socket_connect_timeout": 2,
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 0.2,
}

# By the scheme of a URL; kombu's own for all others.
_TRANSPORTS = {
    "redis": "wakeloop.redis_transport:Transport",
    "rediss": "wakeloop.redis_transport:Transport",
    "sentinel": "wakeloop.redis_transport:SentinelTransport",
}

_STARTING: dict[str, Any] = {"socket_timeout": 3, "socket_connect_timeout": 3}

_CONFIG: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    # With late acknowledgement a worker of Celery 5.7 exits when Redis goes away during a task, and Redis starts a
    # task again that takes longer than its visibility timeout. Recovery is the database's, by leases.
    "task_acks_late": False,
    # Cancels late-acknowledging tasks only, of which there are none; set because False warns at each reconnection.
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "worker_consumer": "wakeloop.celery_app:TurnConsumer",
    "worker_prefetch_multiplier": 1,
    # A message that waits behind a long task in one worker is not seen by the idle one beside it.
    "worker_disable_prefetch": True,
    # The first connection is tried by HostStep, a few times; after that a broker that is away is waited for.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "task_publish_retry": False,
    "worker_send_task_events": True,
    "task_send_sent_event": True,
    # An agent's print() stays a print().
    "worker_redirect_stdouts": False,
    "enable_utc": True,
    "timezone": "UTC",
}

_EMBEDDED_CONFIG: dict[str, Any] = {
    "worker_disable_prefetch": False,  # known to Redis only; there is no other worker to leave messages to
    "worker_send_task_events": False,  # nobody can listen from outside this process
    "task_send_sent_event": False,
    "worker_enable_remote_control": False,
}


class App(Celery):  # type: ignore[misc] # Celery has no types
    """A Celery app whose worker processes have a `Host` each. Made by `make_app`."""

    #: The calling process's host, created by its first call. Never handed from a process to its children.
    host: Callable[[], Host]
    #: How long turns may go on when the worker is told to end, in seconds.
    grace: float
    #: Whether broker and worker live in this process.
    embedded: bool
    #: The workers that run in this process.
    workers: WeakSet[Any]
    #: Serialises changes of the task registry.
    registering: threading.Lock
    #: The broker, if it lives in this process.
    broker: Broker

    amqp: Any
    steps: Any


def make_app(
    broker_url: str,
    *,
    queue: str,
    concurrency: int,
    host: Callable[[], Host],
    pool: str = "threads",
    grace: float = STOP_GRACE_SECONDS,
    key_prefix: str = "",
    sentinel_master: str | None = None,
) -> App:
    """Make the Celery app. Nothing is connected, and `host` is not called, before a worker starts.

    `broker_url` is a Redis URL or `embedded://<name>`, a broker within this process (see `EmbeddedWorker`). Agents
    that name no queue of their own, and all deliveries, use `queue`. `concurrency` is the number of messages that a
    worker works on at once. `host` makes a process's host; it is called once in each process that needs one. `pool`
    is "threads" or "prefork"; it is said here because Celery ignores `--pool=prefork` on the command line, taking it
    for its own default, once the app has named a pool. `grace`: for how many seconds turns under way may go on when the
    worker is told to end (SIGTERM). `key_prefix` begins every key in Redis; `sentinel_master` is the master's name, if
    `broker_url` is one of sentinels.
    """
    if broker_url == "embedded://":
        broker_url = "embedded://local"  # kombu would take a host of its own for one without a name
    app = App("wakeloop", broker=broker_url, loader=_Loader, set_as_current=False)
    app.host = _PerProcess(host)
    app.grace = grace
    app.embedded = broker_url.startswith("embedded:")
    app.workers = WeakSet()
    app.registering = threading.Lock()
    app.conf.update(
        _CONFIG,
        task_default_queue=queue,
        task_default_exchange=queue,
        task_default_routing_key=queue,
        worker_concurrency=concurrency,
        worker_pool=pool,
    )
    if app.embedded:
        app.conf.update(_EMBEDDED_CONFIG)
        app.broker = embedded.broker(broker_url)
    else:
        # What is said at a connection is added to these; each connection has the prefix and the name of the master.
        app.conf.broker_transport_options = {
            **_CONSUMING,
            **({"global_keyprefix": key_prefix} if key_prefix else {}),
            **({"master_name": sentinel_master} if sentinel_master else {}),
        }
    app.amqp.Connection = _Connection
    app.steps["worker"].add(HostStep)
    _add_task(app, DELIVERY_TASK, _deliver)
    return app


def register_agents(app: App, host: Host) -> None:
    """Make a task for each agent of `host`, named `wakeloop.agents.<agent>`, and make its queue known.

    May be called again, from any thread, when the host's agents have changed: a threads worker that has started then
    takes the new agents' messages, and an embedded one consumes their queues too (another worker does so after
    its next start, because which queues it consumes is its operator's choice). The task of an agent that is gone
    stays, since messages for it may be on their way: what to do with them is the host's decision.
    """
    with app.registering:
        workers = list(app.workers)
        for agent, queue in host.agents().items():
            if turn_task(agent) not in app.tasks:
                _add_task(app, turn_task(agent), _run_turns)
            if queue is None or queue in app.amqp.queues.consume_from:
                continue
            if not workers:
                app.amqp.queues.select_add(queue, exchange=queue, exchange_type="direct", routing_key=queue)
            elif app.embedded:
                for worker in workers:
                    worker.consumer.call_soon(worker.consumer.add_task_queue, queue)
        for worker in workers:
            worker.consumer.update_strategies()
    if app.embedded and workers:
        app.broker.kick()


def log_json() -> None:
    """Have a worker program of this process write its log as lines of JSON, wherever Celery's options send it. What it
    prints before that, its banner, is left out with `celery --quiet`."""
    for ready in (signals.after_setup_logger, signals.after_setup_task_logger):
        ready.connect(_format_as_json, weak=False)


def _format_as_json(logger: logging.Logger, **_: Any) -> None:
    for handler in logger.handlers:
        handler.setFormatter(JsonFormatter())


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator] # Celery has no types
def _flush_traces(**_: Any) -> None:
    # A child of the prefork pool ends without what Python does at a program's end.
    flush()


def turn_task(agent: str) -> str:
    """The name of the task that runs turns of this agent."""
    return f"{TURN_TASK_PREFIX}{agent}"


class CeleryDispatcher(Dispatcher):
    """Sends ids through Celery. Safe to share by threads.

    Each call raises within a few seconds if the broker does not take the messages (`kombu.exceptions.OperationalError`);
    some of them may be on their way. Nothing is retried here.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        options = None if app.embedded else _PUBLISHING
        connection = app.connection_for_write(transport_options=options)
        self._producers = ProducerPool(_Pool(connection, limit=PUBLISHERS), limit=PUBLISHERS)

    def turns(self, messages: Sequence[TurnMessage]) -> None:
        with self._producer() as producer:
            for message in messages:
                self._send(
                    producer,
                    turn_task(message.agent),
                    {"sessions": list(message.sessions)},
                    shown=_shown(message.names),
                    queue=message.queue or self._app.conf.task_default_queue,
                    priority=TURN_PRIORITY,
                )

    def deliveries(self, ids: Sequence[str]) -> None:
        with self._producer() as producer:
            self._send(
                producer,
                DELIVERY_TASK,
                {"deliveries": list(ids)},
                shown=_shown(ids),
                queue=self._app.conf.task_default_queue,
                priority=DELIVERY_PRIORITY,
            )

    def close(self) -> None:
        """Close the connections. The dispatcher is of no use after that."""
        self._producers.force_close_all()
        self._producers.connections.force_close_all()

    @contextmanager
    def _producer(self) -> Iterator[Any]:
        """What is sent with it goes to Redis at once at the end of the block, with the events that tell of it."""
        with self._producers.acquire(block=True) as producer:
            try:
                with producer.batch():
                    yield producer
            except BatchPublishError as error:
                raise OperationalError(str(error.__cause__)) from error

    def _send(
        self, producer: Any, task: str, ids: dict[str, list[Any]], *, shown: str, queue: str, priority: int
    ) -> None:
        self._app.send_task(
            task,
            kwargs=ids,
            producer=producer,
            queue=queue,
            priority=priority,
            ignore_result=True,
            add_to_parent=False,
            argsrepr=shown,
        )


class HostStep(bootsteps.StartStopStep):  # type: ignore[misc] # Celery has no types
    """Starts the host with the worker, in its main process, and stops it before anything else.

    With the prefork pool, the children's hosts only run tasks and are neither started nor stopped: the claiming is
    the parent's, and a worker that is told to end waits for the turns that run, without limit.
    """

    requires = frozenset({"celery.worker.components:Pool"})

    def __init__(self, parent: Any, **options: Any) -> None:
        self._host: Host | None = None
        self._dispatcher: CeleryDispatcher | None = None
        super().__init__(parent, **options)

    def start(self, parent: Any) -> None:
        app: App = parent.app
        try:
            _try_broker(app)
            self._dispatcher = CeleryDispatcher(app)
            self._host = app.host()
            self._host.start(self._dispatcher)
        except ConfigurationError as error:
            _refuse(app, error)
        app.workers.add(parent)

    def close(self, parent: Any) -> None:
        """Stop the host, within the grace period, or at once if the worker is told to terminate (SIGQUIT).

        This comes before the consumer says goodbye to the broker, which may take long if the broker is away, and
        before the pool, whose threads cannot be interrupted: their tasks end because the host lets go of its turns.
        No message is taken meanwhile, since the thread that would take it is the one that is here.
        """
        parent.app.workers.discard(parent)
        if self._host is not None:
            self._host.stop(grace=0.0 if state.should_terminate else parent.app.grace)
        if self._dispatcher is not None:
            self._dispatcher.close()


class TurnConsumer(Consumer):  # type: ignore[misc] # Celery has no types
    """Takes turns of agents that this worker does not know, too: in the middle of a deploy, some worker does. Survives what
    is no message.

    Celery would drop the message with an error, and nobody would know before the session is handed over again, which
    takes longer each time. The host hands such a session back at once."""

    app: Any
    loop: Callable[..., Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        # Mingling takes a whole second of every start, for ids of revoked tasks, which mean nothing here; gossip keeps the
        # clocks together by which Flower puts tasks in order.
        super().__init__(*args, **options, without_mingle=True)
        self._celerys_loop, self.loop = self.loop, self._guarded_loop
        self._will_tell = False

    def _guarded_loop(self, *args: Any) -> Any:
        """Go on after something on the queue that is no message at all, which kombu's transport does not expect: Celery
        would end the worker. It is off the queue already; the connection is made anew, as after a lost one."""
        self._will_tell = False  # what a loop was to do is forgotten when it ends
        try:
            return self._celerys_loop(*args)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            log.error("dropped what is no message of Celery's", error=f"{type(error).__name__}: {error}")
            raise ConnectionResetError("something on the queue was no message") from error

    def on_send_event_buffered(self) -> None:
        """Send the events of tasks in a moment, with those that come meanwhile. From any thread."""
        if self.hub and not self._will_tell:
            self._will_tell = True
            # In two steps, as the timer is the loop's own.
            self.hub.call_soon(self.hub.call_later, EVENTS_SECONDS, self._tell)

    def _tell(self) -> None:
        self._will_tell = False
        self._flush_events()

    def shutdown(self) -> None:
        """Say what there is left to say, and end."""
        self._flush_events()
        super().shutdown()

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        name = message.headers.get("task", "") if body is None else ""
        if not name.startswith(TURN_TASK_PREFIX):
            super().on_unknown_task(body, message, exc)
            return
        with self.app.registering:
            if name not in self.app.tasks:
                _add_task(self.app, name, _run_turns)
            self.update_strategies()
        self.create_task_handler()(message)


class _OwnTransports:
    """For a connection: see `wakeloop.redis_transport`."""

    transport_cls: str

    def get_transport_cls(self) -> Any:
        return get_transport_cls(_TRANSPORTS.get(self.transport_cls, self.transport_cls))


class _PooledConnection(_OwnTransports, PooledConnection):
    """One of several that messages are sent through."""


class _Pool(ConnectionPool):
    def new(self) -> Any:
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))


class _Connection(_OwnTransports, Connection):
    """Looks for a lost broker every RECONNECT_SECONDS; kombu would slow down to every 30 seconds."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        return super().ensure_connection(*args, **{"interval_max": RECONNECT_SECONDS, **options})


class _Loader(AppLoader):  # type: ignore[misc] # Celery has no types
    """Registers the agents at the one moment that precedes the choice of queues and the forking of children."""

    app: Any

    def on_worker_init(self) -> None:
        try:
            register_agents(self.app, self.app.host())
        except ConfigurationError as error:
            _refuse(self.app, error)


class _PerProcess:
    """Calls `make` once in each process: connections and threads do not survive a fork."""

    def __init__(self, make: Callable[[], Host]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._lock = threading.Lock()
        # A child keeps its parent's host, unused: dropping it might close connections that the parent still uses.
        self._hosts: dict[int, Host] = {}

    def __call__(self) -> Host:
        pid = os.getpid()
        if self._pid != pid:
            # Another thread of the parent may have held the lock while this process was forked. Pool children run
            # one task at a time, so nobody races here.
            self._lock, self._pid = threading.Lock(), pid
        with self._lock:
            if pid not in self._hosts:
                self._hosts[pid] = self._make()
            return self._hosts[pid]


def _run_turns(task: Any, sessions: list[int]) -> None:
    task.app.host().run_turns(sessions)


def _deliver(task: Any, deliveries: list[str]) -> None:
    task.app.host().run_deliveries(deliveries)


def _add_task(app: App, name: str, body: Callable[..., None]) -> None:
    # `shared=False`: a shared task would be added to every Celery app of the process, the user's own ones too.
    app.task(name=name, bind=True, shared=False, lazy=False, throws=(RunsFailed,))(body)


def _shown(names: Sequence[str]) -> str:
    """What Flower shows as the task's arguments."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _try_broker(app: App) -> None:
    """Raise ConfigurationError unless the broker can be reached, within STARTUP_TRIES tries."""
    options = None if app.embedded else _STARTING
    url = maybe_sanitize_url(app.conf.broker_read_url)
    with app.connection_for_read(transport_options=options) as connection:
        try:
            connection.ensure_connection(
                max_retries=STARTUP_TRIES - 1,
                interval_start=0.5,
                interval_step=0.5,
                callback=state.maybe_shutdown,  # SIGTERM while waiting
            )
        except OperationalError as error:
            raise ConfigurationError(
                f"the broker {url} cannot be used: {str(error).rstrip('.')}; start it, or correct its URL"
            ) from error


def _refuse(app: App, error: ConfigurationError) -> NoReturn:
    """End a worker program with one line and status 1. A worker inside a program passes the error on to it."""
    if app.embedded:
        raise error
    print("wakeloop:", " ".join(str(error).split()), file=sys.stderr, flush=True)
    raise WorkerShutdown(1)
