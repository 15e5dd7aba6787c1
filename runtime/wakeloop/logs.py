"""Loggers: a fixed message with fields, through the standard library's logging, silent until a process sets that up; and
the formatter that writes them as JSON."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from wakeloop import tracing

_SPACE = re.compile(r"\s")

FIELDS = "wakeloop_fields"
"""The attribute of a log record that has the fields."""


def get_logger(name: str) -> Logger:
    """A logger with fields on top of the standard logger of this name."""
    return Logger(logging.getLogger(name))


class Logger:
    """Logs a fixed message with fields. What is below the standard logger's level costs no more than asking for that."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, /, *, exc_info: bool = False, **fields: Any) -> None:
        """Log at DEBUG; exc_info: with the exception that is being handled."""
        self._log(logging.DEBUG, message, fields, exc_info)

    def info(self, message: str, /, **fields: Any) -> None:
        """Log at INFO."""
        self._log(logging.INFO, message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        """Log at WARNING."""
        self._log(logging.WARNING, message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        """Log at ERROR."""
        self._log(logging.ERROR, message, fields)

    def exception(self, message: str, /, **fields: Any) -> None:
        """Log at ERROR, with the exception that is being handled."""
        self._log(logging.ERROR, message, fields, True)

    def _log(self, level: int, message: str, fields: Mapping[str, Any], exc_info: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            extra = {FIELDS: {**fields, "event": message}}
            # The line of code that the record names is the caller's caller.
            self._logger.log(level, _line(message, fields), exc_info=exc_info, extra=extra, stacklevel=3)


def tell(logger: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """Log as a logger of `get_logger` does, in a third of the time: for what is told of each step of each run. The record
    does not know from which line of the code it came."""
    if logger.isEnabledFor(level):
        record = logging.LogRecord(logger.name, level, __file__, 0, _line(message, fields), None, None)
        setattr(record, FIELDS, {**fields, "event": message})
        logger.handle(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `at` (UTC), `level`, `logger`, `event`, the fields of our own records, `trace_id` and
    `span_id` of the current span, and `exception`.

    Records of other libraries have their whole message as `event`."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        ours: Mapping[str, Any] | None = getattr(record, FIELDS, None)
        facts: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage() if ours is None else "",
        }
        facts |= ours or {}
        facts |= tracing.log_ids()
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=False, default=str)


def _line(message: str, fields: Mapping[str, Any]) -> str:
    told = " ".join([f"{key}={_quoted(value)}" for key, value in fields.items()])
    return f"{message}  {told}" if told else str(message)


def _quoted(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or _SPACE.search(text) else text
