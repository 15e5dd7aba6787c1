"""What is imported at the start is what is needed then: a program's time to its first line, and a worker's to its first
turn, are mostly imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCHEMAS = ("jsonschema", "referencing")
STORE = ("sqlalchemy", "alembic", "psycopg")
BROKER = ("celery", "kombu", "redis")
WEB = ("fastapi", "starlette", "uvicorn", "jinja2")
HTTP = ("aiohttp", "httpx2", "twilio", "requests")
TERMINAL = ("rich", "typer")


def imported(code: str) -> set[str]:
    """The packages that a new process has imported after this code."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_an_agents_file_imports_no_store_no_broker_and_no_client() -> None:
    """`import wakeloop` is what programs and their tests pay for one name of it."""
    found = imported("import wakeloop")

    assert "pydantic" in found  # what it cannot do without: the list is right
    assert found.isdisjoint([*SCHEMAS, *STORE, *BROKER, *WEB, *HTTP, *TERMINAL])


def test_a_worker_starts_without_what_only_some_of_its_work_needs() -> None:
    """Changing the schema, checking an answer's form, drawing pages and calling Twilio have their libraries imported when
    it comes to that."""
    found = imported(
        "from wakeloop import celery, celery_app, flower_guard, wiring\n"
        "from wakeloop_channels.twilio import TwilioChannel\n"
        "from wakeloop_channels.whatsapp import WhatsAppChannel"
    )

    assert {"celery", "sqlalchemy", "phonenumbers"} <= found
    assert found.isdisjoint([*SCHEMAS, "alembic", *WEB, "aiohttp", "twilio", "requests", *TERMINAL])


def test_a_store_that_fits_is_checked_without_alembic(tmp_path: Path) -> None:
    """Every process asks for the schema's version as it starts."""
    url = f"sqlite:///{tmp_path}/store.db"
    made = imported(f"from wakeloop.store.database import Database\nDatabase({url!r}).upgrade()")
    checked = imported(f"from wakeloop.store.database import Database\nDatabase({url!r}).check_schema()")

    assert "alembic" in made
    assert "alembic" not in checked


def test_the_table_of_phrases_is_read_with_the_first_reply() -> None:
    """It is hundreds of phrases in each of their spellings."""
    code = "from wakeloop import decisions, verdicts\n{}\nassert verdicts.phrases.cache_info().currsize == {}"

    imported(code.format("", 0))
    imported(code.format("verdicts.read_verdict('yes')", 1))


def test_a_worker_looks_for_garbage_seldom_from_its_start() -> None:
    """Nearly all that a start makes stays; to look through it again and again was a seventh of the time."""
    imported(
        "import gc\nfrom wakeloop import garbage\nfrom wakeloop.celery import app\n"
        "assert gc.get_threshold()[0] == garbage.THRESHOLD, gc.get_threshold()"
    )
