"""Loggers: a message with fields, on the standard library's records."""

from __future__ import annotations

import json
import logging

import pytest

from wakeloop.logs import FIELDS, JsonFormatter, get_logger

log = get_logger("wakeloop.tests")


def test_fields_stand_behind_the_message_and_on_the_record(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever formats the record may take either; the record names the line of code that logged."""
    log.warning(
        "a worker has died", owner="here:1", sessions=2, cause="not in time", percent="100%s", name=""
    )

    (record,) = caplog.records
    assert record.getMessage() == (
        "a worker has died  owner=here:1 sessions=2 cause='not in time' percent=100%s name=''"
    )
    assert getattr(record, FIELDS) == {
        "owner": "here:1", "sessions": 2, "cause": "not in time", "percent": "100%s", "name": "",
        "event": "a worker has died",
    }  # fmt: skip
    assert (record.name, record.levelno, record.filename) == (
        "wakeloop.tests",
        logging.WARNING,
        "test_logs.py",
    )


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("debug", logging.DEBUG),
        ("info", logging.INFO),
        ("warning", logging.WARNING),
        ("error", logging.ERROR),
    ],
)
def test_each_method_logs_at_its_level_and_nothing_below_the_loggers(
    name: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What is below the level makes no record."""
    tell = getattr(log, name)

    with caplog.at_level(level + 1, "wakeloop.tests"):
        tell("unheard")
    with caplog.at_level(level, "wakeloop.tests"):
        tell("heard", level="a field")

    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (level, "heard  level='a field'")
    ]


def test_an_exception_is_told_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """As text below the line, and as a field of the JSON."""
    try:
        raise KeyError("gone")
    except KeyError:
        log.exception("a cycle failed", agent="standup")

    (record,) = caplog.records
    told = json.loads(JsonFormatter().format(record))
    assert record.levelno == logging.ERROR
    assert (told["event"], told["agent"], told["level"]) == ("a cycle failed", "standup", "error")
    assert told["exception"].endswith("KeyError: 'gone'")
    assert logging.Formatter().format(record).endswith("KeyError: 'gone'")
