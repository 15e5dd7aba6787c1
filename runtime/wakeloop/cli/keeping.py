"""What is kept and what is not: `db prune`, `export` and `forget`."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from wakeloop.cli.base import Config, Json, chosen, console, fail, opened, print_json, say, table
from wakeloop.cli.serve import db
from wakeloop.exporting import export_session
from wakeloop.forgetting import Forgetting, Forgotten
from wakeloop.retention import Policy, Retention

DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; tell what would be changed.")]


@db.command()
def prune(ctx: typer.Context, dry_run: DryRun = False, config: Config = None, json: Json = False) -> None:
    """Delete what the settings of retention say is old enough, as workers do when they are idle."""
    choices = chosen(ctx, config, json)
    with opened(choices) as (settings, database):
        policy = Policy.of(settings)
        counts = Retention(database=database, policy=policy).prune(dry_run=dry_run)
    if choices.json:
        print_json({"dry_run": dry_run, "deleted": dict(counts)})
        return
    if policy == Policy():
        say(
            "everything is kept: ",
            ("retention_days", "bold"), ", ", ("message_retention_days", "bold"), " and ", ("raw_retention_days", "bold"),
            " are not set",
        )  # fmt: skip
        return
    _print_counts(counts, "would be deleted" if dry_run else "deleted")


def _print_counts(counts: Any, what: str) -> None:
    if not +counts:
        say(f"nothing {what}")
        return
    shown = table("", what)
    for name, count in sorted((+counts).items()):
        shown.add_row(name, f"{count:,}")
    console().print(shown)


def export(
    ctx: typer.Context,
    session: Annotated[str, typer.Argument(metavar="AGENT/KEY", help="The session; its key is `default` if left out.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a new file instead.")
    ] = None,
    files: Annotated[
        bool, typer.Option("--files/--no-files", help="With the bytes of the files that came in.")
    ] = True,
    config: Config = None,
) -> None:  # fmt: skip
    """Write everything that is kept about a session to standard output, as JSON lines."""
    with (
        opened(chosen(ctx, config)) as (_, database),
        closing(export_session(database, session, with_files=files)) as lines,
    ):
        first = next(lines)
        if output is None:
            sys.stdout.buffer.write(first)
            sys.stdout.buffer.writelines(lines)
            sys.stdout.buffer.flush()
            return
        try:
            with output.open("xb") as file:
                file.write(first)
                file.writelines(lines)
        except FileExistsError:
            fail(f"{output} is there already; nothing was written: name a new file")


def forget(
    ctx: typer.Context,
    contact: Annotated[str, typer.Argument(help="The contact's id; they need not be in the settings any more.")],
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Erase what was said to and by a person, and their addresses; what is open is erased when it has ended."""
    choices = chosen(ctx, config, json)
    with opened(choices) as (settings, database):
        known = settings.contacts.get(contact)
        addresses = set(known.addresses.items()) if known is not None else set()
        if not dry_run and not yes:
            sure = typer.confirm(f"Erase {contact}? This cannot be undone", err=True)
            if not sure:
                fail("nothing was erased")
        done = Forgetting(database).forget(contact, addresses, dry_run=dry_run)
    if choices.json:
        print_json(
            {
                "contact": contact, "dry_run": dry_run, "erased": +done.erased, "waiting": +done.waiting,
                "audit_comments": done.comments, "states": done.states, "in_settings": known is not None,
            }
        )  # fmt: skip
        return
    _print_counts(done.erased, "would be erased" if dry_run else "erased")
    _tell_what_is_left(contact, done, in_settings=known is not None)


def _tell_what_is_left(contact: str, done: Forgotten, *, in_settings: bool) -> None:
    if +done.waiting:
        left = ", ".join(f"{count:,} {name}" for name, count in sorted((+done.waiting).items()))
        say(
            ("still needed: ", "yellow"), f"{left}; workers erase these when the runs and requests have ended"
        )
    if done.comments:
        say(
            ("kept: ", "yellow"), f"{done.comments:,} lines of the audit record with words of theirs, which the database "
            "lets nobody change",
        )  # fmt: skip
    if done.states:
        names = ", ".join(done.states[:20]) + (" …" if len(done.states) > 20 else "")
        say(
            ("look yourself: ", "yellow"), f"what agents remember is theirs; they may know {contact}: {names}"
        )
    if in_settings:
        say(
            ("next: ", "yellow"),
            f"take [contacts.{contact}] out of wakeloop.toml, or agents write to them again",
        )
