"""The commands on what programs outside have here: tokens, their requests, and approvals that were given in advance."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.text import Text

from wakeloop.cli.base import (
    Choices,
    Config,
    Json,
    chosen,
    console,
    fail,
    opened_runtime,
    print_json,
    say,
    status_text,
    table,
)
from wakeloop.cli.words import arguments_words, short_id
from wakeloop.decisions import Actor
from wakeloop.errors import NotFound, NotPossible
from wakeloop.status import RequestStatus
from wakeloop.store import listing
from wakeloop.store import requests as request_store
from wakeloop.terminal import distance, moment, short
from wakeloop.tokens import Scope, Token
from wakeloop.views import GrantView, RequestView, request_view
from wakeloop.wiring import Runtime

RESERVED = "local"
"""What the API calls those who need no token."""

tokens = typer.Typer(invoke_without_command=True, help="The tokens of programs outside, oldest first.")
requests = typer.Typer(
    invoke_without_command=True,
    help="The questions and approvals, newest first; `requests show ID` shows one.",
)
grants = typer.Typer(invoke_without_command=True, help="Approvals that were given in advance, newest first.")

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")]


# ---------------------------------------------------------------------- tokens


@tokens.callback()
def list_tokens(ctx: typer.Context, config: Config = None, json: Json = False) -> None:
    """The tokens of programs outside, oldest first, those that are over too."""
    choices = chosen(ctx, config, json)
    if ctx.invoked_subcommand is not None:
        ctx.obj = choices
        return
    with opened_runtime(choices) as runtime:
        found, now = runtime.tokens.list(), runtime.database.now()
    if choices.json:
        print_json([_token_data(token, now) for token in found])
        return
    if not found:
        say("there is no token yet; `wakeloop tokens create NAME --scope requests:write` makes one")
        return
    shown = table("token", "state", "since", "until", "scopes")
    for token in found:
        shown.add_row(
            Text(token.name, style="bold"),
            _token_state(token, now),
            moment(token.created_at, now),
            moment(token.expires_at, now) if token.expires_at else "",
            ", ".join(sorted(token.scopes)),
        )
    console().print(shown)


def _token_state(token: Token, now: Any) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "over" if token.expires_at is not None and token.expires_at <= now else "works"


def _token_data(token: Token, now: Any) -> dict[str, Any]:
    return {
        "name": token.name, "scopes": sorted(token.scopes), "state": _token_state(token, now),
        "created_at": token.created_at, "expires_at": token.expires_at, "revoked_at": token.revoked_at,
    }  # fmt: skip


@tokens.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is called in lists and in the audit record.")],
    scope: Annotated[list[Scope], typer.Option("--scope", help="What it is good for; may be given again.")],
    days: Annotated[
        int | None,
        typer.Option("--days", min=1, max=36500, help="How long it works; until it is revoked otherwise."),
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make a token for a program; its secret is printed once, and kept nowhere."""
    choices = chosen(ctx, config, json)
    if name == RESERVED:
        raise NotPossible(f"{RESERVED} is what callers without a token are called: choose another name")
    with opened_runtime(choices) as runtime:
        life = None if days is None else timedelta(days=days)
        secret = runtime.tokens.create(name, scope, life=life)
    if choices.json:
        print_json({"name": name, "scopes": sorted(scope), "token": secret})
        return
    say(("✓ ", "green"), "token ", (name, "bold"), "; keep it now, it is not to be had again:")
    print(secret)


@tokens.command()
def revoke(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The token's name.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Take a token back: it stops working at once."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        runtime.tokens.revoke(name)
    if choices.json:
        print_json({"name": name, "revoked": True})
    else:
        say(("✓ ", "green"), "token ", (name, "bold"), " does not work any more")


@tokens.command(name="webhook-secret")
def webhook_secret(ctx: typer.Context, config: Config = None, json: Json = False) -> None:
    """Print what the receivers of callbacks verify signatures with (Standard Webhooks)."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        newest = runtime.webhook_secrets()[0]
    if choices.json:
        print_json({"secret": newest})
    else:
        print(newest)


# ---------------------------------------------------------------------- requests


@requests.callback()
def list_requests(
    ctx: typer.Context,
    status: Annotated[RequestStatus | None, typer.Option("--status", help="Only with this status.")] = None,
    limit: Limit = 20,
    config: Config = None,
    json: Json = False,
) -> None:
    """The questions and approvals, newest first."""
    choices = chosen(ctx, config, json)
    if ctx.invoked_subcommand is not None:
        ctx.obj = choices
        return
    with opened_runtime(choices) as runtime:
        with runtime.database.read() as connection:
            rows = listing.requests_page(connection, status=status, limit=limit)
            asked = request_store.recipients_of_all(connection, [row.id for row in rows])
        found = [request_view(row, asked[row.id]) for row in rows]
        now = runtime.database.now()
    if choices.json:
        print_json(found)
        return
    if not found:
        say("there is no such request" if status else "there is no request yet")
        return
    shown = table("request", "code", "to", "status", "since", "for", "what")
    for one in found:
        shown.add_row(
            short_id(one.id), one.code, ", ".join(one.asked) or str(one.to), status_text(one.status),
            moment(one.created_at, now), _whose(one), one.title,
        )  # fmt: skip
    console().print(shown)


def _whose(one: RequestView) -> str:
    return f"{one.agent}/{one.key}" if one.agent else (one.maker or "")


RequestId = Annotated[str, typer.Argument(help="The request's id, or its beginning or end.")]


@requests.command()
def show(ctx: typer.Context, id: RequestId, config: Config = None, json: Json = False) -> None:
    """One request: what was asked, what came of it, and every attempt to decide it."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        one = runtime.requests.get(_find(runtime, id))
        lines = runtime.requests.audit(UUID(one.id))
        now = runtime.database.now()
    if choices.json:
        print_json({"request": one, "audit": lines})
        return
    say(
        (f"{one.kind} ", "dim"), (one.id, "bold"), f" ({one.code})  ", status_text(one.status).plain, "  for ",
        _whose(one),
    )  # fmt: skip
    say(f"to {', '.join(one.asked) or one.to}: {one.text}")
    if one.status == RequestStatus.OPEN and one.expires_at is not None:
        say(("until ", "dim"), f"{moment(one.expires_at, now)} ({distance(one.expires_at, now)})")
    if one.action is not None:
        say(f"{one.action}({arguments_words(one.args)})  ", (one.digest or "", "dim"))
    if one.outcome is not None and (one.answer or one.outcome.reason):
        say(f"{one.by or ''} ", ("said ", "dim"), one.answer or one.outcome.reason or "")
    shown = table("at", "what", "result", "who", "by", "known by", "comment")
    for line in lines:
        shown.add_row(
            moment(line.at, now), line.act, line.result, line.contact or "", line.channel or "", line.auth or "",
            short(line.comment or ""),
        )  # fmt: skip
    console().print(shown)


@requests.command()
def cancel(
    ctx: typer.Context,
    id: RequestId,
    reason: Annotated[str, typer.Option("--reason", help="What those who asked are told.")] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """End a request undecided; those who were asked are told. To decide one, use `wakeloop reply` as the contact."""
    choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        found = _find(runtime, id)
        actor = Actor(contact=None, channel="cli", auth="operator's shell")
        attempt = runtime.requests.cancel(found, actor, reason=reason)
    if choices.json:
        print_json(
            {"request": found, "accepted": attempt.accepted, "status": attempt.status, "words": attempt.words}
        )
        if not attempt.accepted:
            raise typer.Exit(1)
        return
    if not attempt.accepted:
        fail(attempt.words)
    say(("✓ ", "green"), f"request {found} is cancelled")


def _find(runtime: Runtime, fragment: str) -> UUID:
    """The request whose id is, begins with or ends with this."""
    with runtime.database.read() as connection:
        found = listing.find_requests(connection, fragment)
    return _one(found, "request", fragment, "wakeloop requests")


def _one(found: list[UUID], what: str, fragment: str, command: str) -> UUID:
    if not found:
        raise NotFound(f"there is no {what} {fragment}; `{command}` lists them")
    if len(found) > 1:
        raise NotPossible(f"several {what}s have an id like {fragment}; write more of it")
    return found[0]


# ---------------------------------------------------------------------- grants


@grants.callback()
def list_grants(ctx: typer.Context, limit: Limit = 20, config: Config = None, json: Json = False) -> None:
    """Approvals that were given in advance, newest first, those that are over too."""
    choices = chosen(ctx, config, json)
    if ctx.invoked_subcommand is not None:
        ctx.obj = choices
        return
    with opened_runtime(choices) as runtime:
        found, now = runtime.requests.grants(limit=limit), runtime.database.now()
    if choices.json:
        print_json(found)
        return
    if not found:
        say("nothing is approved in advance")
        return
    shown = table("grant", "state", "by", "until", "for", "what")
    for one in found:
        shown.add_row(
            short_id(one.id), _grant_state(one), one.contact, moment(one.expires_at, now), one.origin,
            f"{one.action}: {one.limits}",
        )  # fmt: skip
    console().print(shown)


def _grant_state(one: GrantView) -> str:
    if one.revoked_at is not None:
        return "revoked"
    return "active" if one.is_active else "over"


@grants.command(name="revoke")
def revoke_grant(
    ctx: typer.Context,
    id: Annotated[str, typer.Argument(help="The grant's id, or its beginning or end.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Take an approval in advance back: calls are asked about again."""
    choices: Choices = chosen(ctx, config, json)
    with opened_runtime(choices) as runtime:
        digits = id.replace("-", "").lower()
        names = [(one.id.replace("-", ""), UUID(one.id)) for one in runtime.requests.grants(limit=10_000)]
        found = [
            grant for name, grant in names if digits and (name.startswith(digits) or name.endswith(digits))
        ]
        view = runtime.requests.revoke_grant(
            _one(found, "grant", id, "wakeloop grants"), by="operator's shell"
        )
    if choices.json:
        print_json(view)
    else:
        say(("✓ ", "green"), f"grant {view.id} covers nothing any more")
