"""Replies: from what a person sent to the next line of the handler that waited for it, with many waiting."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

from bench.fleet.answering import needed, replies
from bench.fleet.dbos_side import Dbos, run_peer
from bench.fleet.ours import WORKERS, Ours, number_of, wait
from bench.lab import Lab
from bench.posting import poster
from bench.restate import Restate
from wakeloop.testing.twilio import sign

SET_UP_SECONDS = 1800.0


def ours(
    lab: Lab, *, agent: str, waiting: int, singles: int, burst: int, workers: int = WORKERS
) -> dict[str, float]:
    """wakeloop with its web process and Celery workers; `waiting` runs wait, of a session and a person each.

    agent `asker`: each has asked its person a question, by SMS through the stand-in of Twilio's API; `listener`: each is in
    `ctx.receive`, for a message of its person. A reply is Twilio's form, signed, posted to the web process over a connection
    that is kept, and answered once it is committed. What is measured: see `bench.fleet.answering.replies`."""
    contacts = max(waiting, needed(singles, burst))
    with (
        lab.database(sqlite=False) as url,
        Ours(lab.folder(), url, lab.redis, contacts=contacts) as side,
        side.workers(workers) as programs,
        side.web() as web,
    ):
        side.start(agent, ((str(number), number) for number in range(contacts)))
        side.wait(lambda: side.with_status(agent, "waiting") == contacts, SET_UP_SECONDS, every=0.5)
        if agent == "asker":
            unsent = "SELECT 1 FROM deliveries WHERE due_at IS NOT NULL LIMIT 1"
            side.wait(lambda: len(side.twilio.messages) >= contacts, SET_UP_SECONDS, every=0.5)
            side.wait(lambda: side.query(unsent) is None, SET_UP_SECONDS, every=0.5)
        forms = {number: _form(side, number) for number in range(needed(singles, burst))}
        pids = [program.pid for program in (web, *programs)]
        return replies(side.marks, lambda: _poster(side.port, forms), pids=pids, singles=singles, burst=burst)


def _form(side: Ours, number: int) -> tuple[bytes, dict[str, str]]:
    """What Twilio posts when that person writes, with the headers."""
    parameters = side.twilio.message_parameters("yes", from_=number_of(number))
    headers = {
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        "X-Twilio-Signature": sign(str(side.twilio.webhook), parameters, side.twilio.auth_token),
    }
    return urlencode(parameters).encode(), headers


@contextlib.contextmanager
def _poster(port: int, forms: dict[int, tuple[bytes, dict[str, str]]]) -> Iterator[Callable[[int], object]]:
    with poster(port) as post:
        yield lambda number: post("/webhooks/sms", *forms[number])


def dbos(lab: Lab, *, waiting: int, singles: int, burst: int, workers: int = WORKERS) -> dict[str, float]:
    """DBOS in as many processes, an equal part of `waiting` async workflows in each, all of them in `DBOS.recv_async` (woken
    by NOTIFY, its default). A reply is `DBOSClient.send` from another process: there is no HTTP and no signature here."""
    count = max(waiting, needed(singles, burst))
    with lab.database(sqlite=False) as url, Dbos(lab.folder(), url) as side, side.apps(workers) as apps:
        side.start_on(apps, "listener", [(f"w{number}", [number]) for number in range(count)])
        side.wait(lambda: side.marks.count("waits") >= count, SET_UP_SECONDS, every=0.5)
        # What a wait with a time limit writes down last, before it waits.
        side.wait(lambda: side.asleep() >= count, SET_UP_SECONDS, every=0.5)
        pids = [app.program.pid for app in apps]
        job = {
            "url": side.dsn,
            "marks": str(side.marks.folder),
            "pids": pids,
            "singles": singles,
            "burst": burst,
        }
        return run_peer("bench.fleet.dbos_sender", json.dumps(job))


def restate(lab: Lab, *, waiting: int, singles: int, burst: int, workers: int = WORKERS) -> dict[str, float]:
    """Restate with its application in as many processes; `waiting` invocations wait, of an awakeable each, and stay connected to
    the application while they do. A reply is posted to the server's ingress, which answers once it is in its log; there is no
    signature here. burst_cpu is the application's."""
    count = max(waiting, needed(singles, burst))
    with Restate(lab.folder(), processes=workers) as side:
        side.start("listener", range(count))
        wait(lambda: side.marks.count("waits") >= count, SET_UP_SECONDS, every=0.5)
        ids = {int(number): id for number, id in side.marks.told("awakeables")}

        @contextlib.contextmanager
        def resolver() -> Iterator[Callable[[int], object]]:
            with poster(side.port) as post:
                yield lambda number: post(f"/restate/awakeables/{ids[number]}/resolve", b'"yes"')

        return replies(side.marks, resolver, pids=side.pids, singles=singles, burst=burst)
