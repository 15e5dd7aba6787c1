"""Broker and worker inside one process, for `wakeloop dev` and for tests.

The broker is kombu's in-memory transport, except that a consumer sleeps until something is published instead of
looking once a second. URLs are `embedded://<name>`; brokers of different names share nothing. Messages live no longer
than the process, and a worker that stops drops those it has taken from the queue: the database sends them again.
"""

# kombu is typed in part; its untyped methods are called here all the time.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, Queue
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from celery.concurrency.thread import TaskPool
from celery.exceptions import WorkerShutdown
from celery.worker import WorkController
from kombu.transport import TRANSPORT_ALIASES, memory, virtual

if TYPE_CHECKING:
    from .celery_app import App

logger = logging.getLogger(__name__)


class Broker:
    """The queues of one name, and the means to sleep until they change. Safe to share by threads."""

    def __init__(self) -> None:
        self.queues: dict[str, Queue[Any]] = {}
        self.bindings = virtual.BrokerState()
        self.kicks = 0
        self._changes = 0
        self._changed = threading.Condition()

    @property
    def changes(self) -> int:
        """How often something was published or acknowledged so far. Read it before looking, then pass it to `wait`."""
        return self._changes

    def touch(self) -> None:
        """Wake every consumer: there may be a message, or the credit to take one."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def kick(self) -> None:
        """Make every consumer return from its present or, if it is not waiting, its next wait for messages."""
        with self._changed:
            self.kicks += 1
            self._changes += 1
            self._changed.notify_all()

    def wait(self, changes: int, timeout: float | None) -> bool:
        """Sleep until `changes` is out of date; False if it still is not after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._changes != changes, timeout)


_brokers: WeakValueDictionary[str, Broker] = WeakValueDictionary()
_brokers_lock = threading.Lock()


def broker(url: str) -> Broker:
    """The broker of this `embedded://<name>` URL. It is forgotten when no app or connection uses it any more."""
    return _named(urlsplit(url).hostname or "")


def _named(name: str) -> Broker:
    with _brokers_lock:
        return _brokers.setdefault(name, Broker())


class _Channel(memory.Channel):
    """A channel to the queues of the connection's broker, not to the process-global ones of `memory://`."""

    def __init__(self, connection: Transport, **options: Any) -> None:
        self.broker = connection.broker
        self.queues = self.broker.queues
        super().__init__(connection, **options)

    def _new_queue(self, queue: str, **options: Any) -> None:
        self._queue_for(queue)

    def _queue_for(self, queue: str) -> Queue[Any]:
        # One atomic step: of two threads that find no queue, the second must not replace the first one's.
        found: Queue[Any] = self.queues.setdefault(queue, Queue())
        return found

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        super()._put(queue, message, **options)
        self.broker.touch()

    def _put_fanout(
        self, exchange: str, message: Any, routing_key: str | None = None, **options: Any
    ) -> None:
        super()._put_fanout(exchange, message, routing_key, **options)
        self.broker.touch()

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        super().basic_ack(delivery_tag, multiple)
        self.broker.touch()

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().basic_reject(delivery_tag, requeue)
        self.broker.touch()

    def close(self) -> None:
        # Not memory.Channel's, which walks through the queues while other threads may be adding to them.
        virtual.Channel.close(self)


class Transport(memory.Transport):
    """kombu's transport for `embedded://<name>`."""

    Channel = _Channel
    cycle: Any
    driver_name = "embedded"

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.broker = _named(client.hostname or "")
        self.state = self.broker.bindings
        self._kicks = self.broker.kicks

    def drain_events(self, connection: Any, timeout: float | None = None, **options: Any) -> None:
        """Deliver one message, waiting for it. Raises TimeoutError after `timeout` seconds, or when kicked."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            changes = self.broker.changes
            if self._kicks != self.broker.kicks:
                self._kicks = self.broker.kicks
                raise TimeoutError("kicked")
            try:
                self.cycle.get(self._deliver, timeout=timeout)
            except Empty:
                pass
            else:
                return
            if not self.broker.wait(changes, None if deadline is None else max(0.0, deadline - monotonic())):
                raise TimeoutError("no message")


TRANSPORT_ALIASES["embedded"] = f"{__name__}:Transport"


class EmbeddedWorker:
    """A Celery worker in a thread of this process, for an app on an `embedded://` broker.

    It touches neither signal handlers nor logging. It can be started again after it was stopped.
    """

    def __init__(self, app: App) -> None:
        if not app.embedded:
            raise ValueError("EmbeddedWorker needs an app on an embedded:// broker")
        self._app = app
        self._thread: threading.Thread | None = None
        self._controller: _Controller | None = None

    @property
    def running(self) -> bool:
        """Whether it takes messages."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start, and return when messages are being taken. Raises what kept it from starting (ConfigurationError)."""
        if self.running:
            raise RuntimeError("this embedded worker runs already")
        self._app.loader.worker_initialized = (
            False  # register the agents again: they may be others than last time
        )
        self._controller = controller = _Controller(
            app=self._app, pool_cls=_Pool, without_gossip=True, without_heartbeat=True
        )
        self._thread = threading.Thread(target=controller.start, name="wakeloop-worker", daemon=True)
        self._thread.start()
        controller.settled.wait()
        if controller.failure is not None:
            self._thread.join()
            raise controller.failure

    def stop(self) -> None:
        """Stop taking messages, stop the host, and return when every task has ended. Harmless if not running."""
        if self._thread is None or self._controller is None:
            return
        self._controller.consumer.call_soon(_leave)
        self._app.broker.kick()
        self._thread.join()
        self._thread = self._controller = None


class _Controller(WorkController):  # type: ignore[misc] # Celery has no types
    """A worker without signal handlers, and what became of it."""

    blueprint: Any
    consumer: Any
    failure: BaseException | None = None

    def on_before_init(self, **options: Any) -> None:
        self.settled = threading.Event()

    def on_consumer_ready(self, consumer: Any) -> None:
        self.settled.set()

    def start(self) -> None:
        try:
            self.blueprint.start(self)
        except WorkerShutdown:
            self.stop()
        except BaseException as error:
            if self.settled.is_set():
                logger.critical("the embedded worker failed", exc_info=error)
            self.failure = error
            self.stop()
        finally:
            self.settled.set()


class _Pool(TaskPool):  # type: ignore[misc] # Celery has no types
    """Celery's threads pool with the app made current in its threads alone, not in the whole process."""

    app: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.executor = ThreadPoolExecutor(self.limit, "wakeloop-task", initializer=self.app.set_current)


def _leave() -> None:
    # Raised in the worker's own thread, by its loop: stopping from another thread would race with the consumer.
    raise WorkerShutdown(0)
