"""Replies: from what a person sent to the next line of the handler that waited for it, one at a time and many at once."""

from __future__ import annotations

import contextlib
import http.client
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from bench.fleet.dbos_side import Dbos
from bench.fleet.ours import WORKERS, Ours, number_of
from bench.fleet.sleepers import quantile
from tests.servers import Postgres, Redis

from wakeloop.testing.twilio import sign

SENDERS = 16
"""So many replies of a burst are on their way at once."""
SET_UP_SECONDS = 1800.0
ANSWER_SECONDS = 60.0
PAUSE_SECONDS = 0.02
LOOK_SECONDS = 0.0005
WARM = 5


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A side in which runs wait for a person each. sender: makes what sends the reply to the run of a number, and returns
    once the sender's side knows that it is recorded; one for each thread."""

    side: Ours | Dbos
    sender: Callable[[], contextlib.AbstractContextManager[Callable[[int], None]]]


Opening = contextlib.AbstractContextManager[Waiting]


@contextlib.contextmanager
def ours(postgres: Postgres, redis: Redis, *, waiting: int, agent: str, workers: int = WORKERS) -> Iterator[Waiting]:
    """wakeloop with its web process and Celery workers. agent `asker`: each run has asked a person of its own a question, by
    SMS through the stand-in of Twilio's API; `listener`: each waits in `ctx.receive` for a message of that person. A reply is
    Twilio's form, signed, posted to the web process over a connection that is kept; it is answered once it is committed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Ours(Path(folder), postgres.new_database(), redis, contacts=waiting) as side,
        side.workers(workers),
        side.web(),
    ):
        side.start(agent, ((str(number), number) for number in range(waiting)))
        side.wait(lambda: side.with_status(agent, "waiting") == waiting, SET_UP_SECONDS, every=0.5)
        if agent == "asker":
            side.twilio.wait_for(waiting, timeout=SET_UP_SECONDS)
            undelivered = "SELECT 1 FROM deliveries WHERE due_at IS NOT NULL LIMIT 1"
            side.wait(lambda: side.query(undelivered) is None, SET_UP_SECONDS, every=0.5)
        forms = {number: _form(side, number) for number in range(waiting)}
        yield Waiting(side=side, sender=lambda: _poster(side.port, forms))


def _form(side: Ours, number: int) -> tuple[bytes, dict[str, str]]:
    """What Twilio posts when that person writes, with the headers."""
    parameters = side.twilio.message_parameters("yes", from_=number_of(number))
    headers = {
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        "X-Twilio-Signature": sign(str(side.twilio.webhook), parameters, side.twilio.auth_token),
    }
    return urlencode(parameters).encode(), headers


@contextlib.contextmanager
def _poster(port: int, forms: dict[int, tuple[bytes, dict[str, str]]]) -> Iterator[Callable[[int], None]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)

    def post(number: int) -> None:
        body, headers = forms[number]
        connection.request("POST", "/webhooks/sms", body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the webhook answered {answer.status}: {said[:200]!r}")

    with contextlib.closing(connection):
        yield post


@contextlib.contextmanager
def dbos(postgres: Postgres, *, waiting: int, workers: int = WORKERS) -> Iterator[Waiting]:
    """DBOS in as many processes, an equal part of the async workflows in each, all of them in `DBOS.recv_async` (woken by
    NOTIFY, its default). A reply is `DBOSClient.send` from another process: there is no HTTP on this side."""
    from dbos import DBOSClient

    with (
        tempfile.TemporaryDirectory() as folder,
        Dbos(Path(folder), postgres.new_database()) as side,
        side.apps(workers) as apps,
    ):
        side.start_on(apps, "listener", [(f"w{number}", [number]) for number in range(waiting)])
        side.wait(lambda: side.marks.count("waits") >= waiting, SET_UP_SECONDS, every=0.5)
        side.wait(lambda: side.asleep() >= waiting, SET_UP_SECONDS, every=0.5)
        client = DBOSClient(system_database_url=side.environment["DBOS_SYSTEM_DATABASE_URL"])
        with contextlib.closing(_Destroying(client.destroy)):
            yield Waiting(
                side=side,
                sender=lambda: contextlib.nullcontext(lambda number: client.send(f"w{number}", "yes")),
            )


class _Destroying:
    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close


def answered(opening: Opening, *, waiting: int, singles: int, burst: int) -> dict[str, float]:
    """`waiting` runs wait; `singles` of them are answered one after the other, each once the one before has gone on, then
    `burst` of them at once, SENDERS at a time.

    p50, p99: milliseconds from just before a reply is sent to the handler's next line. recorded_p50: from there to when
    the sender knows that it is recorded. burst_rate: replies a second, from the first request to the last handler's next line;
    burst_p50, burst_p99: the milliseconds of each of them, from its own request."""
    numbers = iter(range(waiting))
    with opening as one, one.sender() as send:
        marks = one.side.marks

        def reply(number: int) -> tuple[float, float]:
            noted = marks.count("resumed")
            begun = time.time()
            send(number)
            recorded = time.time()
            one.side.wait(lambda: marks.count("resumed") > noted, ANSWER_SECONDS, every=LOOK_SECONDS)
            ((_, at),) = marks.all("resumed", after=noted)[:1]
            time.sleep(PAUSE_SECONDS)
            return (at - begun) * 1000, (recorded - begun) * 1000

        for _ in range(min(WARM, singles)):
            reply(next(numbers))
        taken = [reply(next(numbers)) for _ in range(singles)]
        time.sleep(1.0)
        return {
            "p50": statistics.median(at for at, _ in taken),
            "p99": quantile([at for at, _ in taken], 0.99),
            "recorded_p50": statistics.median(recorded for _, recorded in taken),
            **_burst(one, [next(numbers) for _ in range(burst)]),
        }


def _burst(one: Waiting, numbers: Sequence[int]) -> dict[str, float]:
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        left.put(number)
    begun: dict[int, float] = {}

    def send_all() -> None:
        with one.sender() as send, contextlib.suppress(queue.Empty):
            while True:
                number = left.get_nowait()
                begun[number] = time.time()
                send(number)

    marks = one.side.marks
    noted = marks.count("resumed")
    with ThreadPoolExecutor(SENDERS) as pool:
        for sending in [pool.submit(send_all) for _ in range(SENDERS)]:
            sending.result()
    one.side.wait(lambda: marks.count("resumed") - noted >= len(numbers), SET_UP_SECONDS)
    resumed = marks.first("resumed", after=noted)
    taken = [(resumed[number] - begun[number]) * 1000 for number in numbers]
    return {
        "burst_rate": len(numbers) / (max(resumed.values()) - min(begun.values())),
        "burst_p50": statistics.median(taken),
        "burst_p99": quantile(taken, 0.99),
    }
