"""Logging of the command: to stderr, with the data of a record behind its message."""

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
    """Send what is logged to stderr. A handler that the user's module sets up later adds to it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
    logging.basicConfig(level=level.value.upper(), handlers=[handler])


def extras(record: logging.LogRecord) -> dict[str, object]:
    """Return what the call passed as ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineFormatter(logging.Formatter):
    """``2026-11-23T20:15:00.123Z INFO shop.mail: sent to=ada``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and below it the traceback if there is one."""
        message = record.getMessage()
        words = [f"{_moment(record)} {record.levelname} {record.name}: {message}"]
        # What fills the message is in it already.
        shown = record.args if isinstance(record.args, Mapping) else {}
        words += [
            f"{name}={_value(value)}" for name, value in extras(record).items() if name not in shown
        ]
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RoostError):
            # Raised on purpose, with a message that says what to do: where is of no use.
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
        """Return the object; values that JSON doesn't know become text."""
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
    """Return the traceback, as it was formatted before if it was."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return record.exc_text


def _value(value: object) -> str:
    """Return a value that is told from its neighbours: quoted if it isn't one plain word."""
    text = str(value)
    plain = text and text.isprintable() and not any(sign in text for sign in " =\"'")
    return text if plain else json.dumps(text, ensure_ascii=False)
