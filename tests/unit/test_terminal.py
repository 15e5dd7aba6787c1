"""Log lines are the same with and without a terminal, apart from their colours."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from wakeloop.logs import get_logger, tell
from wakeloop.terminal import LogHandler

NAME = "wakeloop.test_terminal"


@pytest.fixture
def written() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What is logged, as it is written to a file and to a terminal."""
    bare, coloured = io.StringIO(), io.StringIO()
    logger = logging.getLogger(NAME)
    handlers = [
        LogHandler(Console(file=bare, highlight=False, soft_wrap=True)),
        LogHandler(
            Console(
                file=coloured, highlight=False, soft_wrap=True, force_terminal=True, color_system="standard"
            )
        ),
    ]
    logger.setLevel(logging.DEBUG)
    for handler in handlers:
        logger.addHandler(handler)
    yield bare, coloured
    for handler in handlers:
        logger.removeHandler(handler)


def test_a_line_says_the_same_with_and_without_colours(written: tuple[io.StringIO, io.StringIO]) -> None:
    """What steers a terminal is left out, brackets stand for themselves, and what a session's name says is not repeated."""
    log = get_logger(NAME)
    log.info("message in", channel="sms", contact="a b", agent="clerk", session="clerk/1")
    log.warning("a [bold]word[/]\x07 and a bell", empty="")
    try:
        raise LookupError("lost")
    except LookupError:
        log.exception("failed", run=4)
    tell(logging.getLogger(NAME), logging.ERROR, "told", {"word": "x" * 300})

    bare, coloured = (stream.getvalue() for stream in written)
    lines = [line[9:] for line in bare.splitlines()]
    assert lines[:3] == [
        "· message in  channel sms  contact a b  session clerk/1",
        "! a [bold]word[/] and a bell  empty ",
        "✗ failed  run 4",
    ]
    assert "LookupError: lost" in bare
    assert lines[-1] == f"✗ told  word {'x' * 300}"
    assert "\x1b[" in coloured and re.sub(r"\x1b\[[\d;]*m", "", coloured) == bare
