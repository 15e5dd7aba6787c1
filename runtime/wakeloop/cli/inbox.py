"""`wakeloop inbox`: everything that wants a human."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic_core import from_json
from rich.table import Table
from rich.text import Text

from wakeloop.callbacks import host_of
from wakeloop.cli.base import Config, Json, chosen, console, opened, print_json, say, status_text, table
from wakeloop.cli.look import run_data
from wakeloop.cli.words import short_id
from wakeloop.status import PARKED_RUN
from wakeloop.store import listing, queries
from wakeloop.store import requests as request_store
from wakeloop.terminal import moment, short
from wakeloop.views import RequestView, message_view, request_view, run_view


def inbox(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many of each kind.")] = 20,
    config: Config = None,
    json: Json = False,
) -> None:
    """Open questions and approvals, failed and stuck runs, messages and callbacks that reached nobody, and messages that
    nobody takes."""
    choices = chosen(ctx, config, json)
    with opened(choices) as (_, database):
        with database.read() as connection:
            rows = queries.list_requests(connection, status="open", limit=limit)
            asked = request_store.recipients_of_all(connection, [row.id for row in rows])
            questions = [request_view(row, asked[row.id]) for row in rows]
            parked = queries.list_runs(connection, statuses=PARKED_RUN, limit=limit)
            undelivered = queries.failed_deliveries(connection, limit=limit)
            callbacks = listing.failed_callbacks(connection, limit=limit)
            unrouted = queries.unrouted(connection, limit=limit)
        now = database.now()
    if choices.json:
        print_json(
            {
                "requests": questions,
                "runs": [run_data(row) for row in parked],
                "undelivered": [
                    {"message": message_view(row), "status": row.status, "error": row.error} for row in undelivered
                ],
                "callbacks": [
                    {"host": host_of(row.address), "request": _request_of(row), "status": row.status,
                     "error": row.error, "tries": row.tries, "at": row.at}
                    for row in callbacks
                ],
                "unrouted": [
                    {"channel": row.channel, "contact": row.contact, "address": row.address, "text": row.text,
                     "outcome": row.outcome, "at": row.at}
                    for row in unrouted
                ],
            }
        )  # fmt: skip
        return
    parts = [
        ("open questions and approvals", _requests(questions, now), "answer as a contact with `wakeloop reply CONTACT CODE TEXT`"),
        ("failed and stuck runs", _runs(parked, now), "`wakeloop runs show RUN`, then `wakeloop retry|restart|cancel RUN`"),
        ("messages that reached nobody", _undelivered(undelivered, now), "correct the contact's addresses, or the channel"),
        ("callbacks that were given up", _callbacks(callbacks, now), "the program can still ask how its request ended"),
        ("messages that nobody takes", _unrouted(unrouted, now), "make the sender a contact, or an agent listen: on_message()"),
    ]  # fmt: skip
    if not any(shown.row_count for _, shown, _ in parts):
        say(("✓ ", "green"), "nothing wants a human")
    for title, shown, advice in parts:
        if shown.row_count:
            say((title, "bold"), ("   ", ""), (advice, "dim"))
            console().print(shown)
            say("")


def _requests(requests: list[RequestView], now: Any) -> Table:
    shown = table("code", "to", "since", "until", "for", "what")
    for one in requests:
        shown.add_row(
            Text(one.code, style="bold yellow"),
            ", ".join(one.asked) or str(one.to),
            moment(one.created_at, now),
            moment(one.expires_at, now) if one.expires_at else "",
            f"{one.agent}/{one.key}" if one.agent else (one.maker or ""),
            one.title,
        )
    return shown


def _runs(rows: list[Any], now: Any) -> Table:
    shown = table("run", "session", "status", "since", "reason")
    for row in rows:
        run = run_view(row, None)
        since = run.ended_at or run.created_at
        shown.add_row(
            Text(short_id(run.id), style="bold"),
            f"{run.agent}/{run.key}",
            status_text(run.status),
            moment(since, now),
            short(run.error or "", 200),
        )
    return shown


def _undelivered(rows: list[Any], now: Any) -> Table:
    shown = table("at", "to", "by", "status", "text", "reason")
    for row in rows:
        shown.add_row(
            moment(row.at, now),
            row.contact,
            row.channel,
            status_text(row.status),
            short(row.text, 60),
            row.error or "",
        )
    return shown


def _request_of(row: Any) -> str:
    """The request that a callback is about."""
    return str(from_json(row.text)["data"]["id"])


def _callbacks(rows: list[Any], now: Any) -> Table:
    shown = table("at", "host", "request", "tries", "reason")
    for row in rows:
        shown.add_row(
            moment(row.at, now),
            host_of(row.address),
            short_id(_request_of(row)),
            str(row.tries),
            row.error or "",
        )
    return shown


def _unrouted(rows: list[Any], now: Any) -> Table:
    shown = table("at", "from", "by", "what became of it", "text")
    for row in rows:
        shown.add_row(
            moment(row.at, now), row.contact or row.address, row.channel, row.outcome, short(row.text, 200)
        )
    return shown
