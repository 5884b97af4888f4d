"""The command's logging: to stderr, each message followed by the data of its record."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from roost.cli.options import LogLevel
from roost.exceptions import RoostError

_STANDARD = {
    *vars(logging.LogRecord("", 0, "", 0, "", None, None)),
    "message",
    "asctime",
    "taskName",
}


def configure(level: LogLevel, *, as_json: bool = False) -> None:
    """Log to stderr. Handlers that the user's module adds later work beside this one."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    logging.basicConfig(level=level.value.upper(), handlers=[handler])


def extras(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields that the logging call passed as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineFormatter(logging.Formatter):
    """``2026-11-23T20:15:00.123Z INFO shop.mail: sent to=ada``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback if there is one."""
        message = record.getMessage()
        words = [f"{_moment(record)} {record.levelname} {record.name}: {message}"]
        # The message shows its own arguments.
        shown = record.args if isinstance(record.args, Mapping) else {}
        words += [
            f"{name}={_value(value)}" for name, value in extras(record).items() if name not in shown
        ]
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RoostError):
            # Its message says what to do, so a traceback would not help.
            if str(error) not in message:
                words.append(f"error={_value(f'{type(error).__name__}: {error}')}")
            return " ".join(words)
        line = " ".join(words)
        if trace := _trace(self, record):
            line += "\n" + trace
        if record.stack_info:
            line += "\n" + self.formatStack(record.stack_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; a value that JSON can't express becomes text."""
        shown: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extras(record),
        }
        if trace := _trace(self, record):
            shown["exception"] = trace
        return json.dumps(shown, default=str)


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    """Return the traceback. It is formatted once and kept in the record."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return record.exc_text


def _value(value: object) -> str:
    """Return a value as text, quoted unless it is one plain word."""
    text = str(value)
    plain = text and text.isprintable() and not any(sign in text for sign in " =\"'")
    return text if plain else json.dumps(text, ensure_ascii=False)
