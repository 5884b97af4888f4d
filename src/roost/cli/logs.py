"""The command's logging: to stderr, each message followed by the data of its record.

A process that runs handlers for the worker imports this file too, so it imports little.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from functools import partial

from roost import JobLogFilter
from roost._model.logs import JobFields
from roost._worker.handlers.process_setup import run_in_each_process
from roost.exceptions import RoostError

_STANDARD = {
    *vars(logging.LogRecord("", 0, "", 0, "", None, None)),
    "message",
    "asctime",
    "taskName",
}


_KEYS = {"time", "level", "logger", "exception", "stack"}
"""The keys of each line in JSON. A field of the same name gets a ``_`` at its end."""
_COLORS = {
    logging.DEBUG: "2",
    logging.INFO: "32",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}
"""The numbers of a terminal's escape sequences: dim, green, yellow, red, and bold red."""


def configure(
    level: str, *, as_json: bool | None = None, worker_process: int | None = None
) -> None:
    """Log to stderr, in this process and in those that run handlers for it.

    Handlers that the user's module adds later work beside this one.

    :param level: the lowest level to show, such as ``"info"``.
    :param as_json: ``None``: JSON, unless stderr is a terminal.
    :param worker_process: which of several worker processes this is, from 1, for a field of each
        line. ``None``: the only one, or their supervisor.
    """
    is_terminal = sys.stderr.isatty()
    if as_json is None:
        as_json = not is_terminal
    colored = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    configured = partial(
        _configure, str(level), as_json=as_json, colored=colored, worker_process=worker_process
    )
    configured()
    run_in_each_process(configured)


def _configure(level: str, *, as_json: bool, colored: bool, worker_process: int | None) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else LineFormatter(colored=colored))
    handler.addFilter(JobLogFilter())
    if worker_process is not None:
        handler.addFilter(_WorkerProcess(worker_process))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _WorkerProcess(logging.Filter):
    """Adds the number of this worker process to each line: several write to one stderr."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the field ``worker_process``."""
        record.worker_process = self._number
        return True


def extras(record: logging.LogRecord) -> dict[str, object]:
    """Return the fields that the logging call passed as ``extra``, and those of a running job."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and not (value is None and name in JobFields.__annotations__)
    }


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LineFormatter(logging.Formatter):
    """``2026-11-23T20:15:00.123Z INFO shop.mail: sent to=ada``.

    :param colored: show the level in a color, for a terminal.
    """

    def __init__(self, *, colored: bool = False) -> None:
        super().__init__()
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback if there is one."""
        message = record.getMessage()
        level = record.levelname
        if self._colored and (color := _COLORS.get(record.levelno)) is not None:
            level = f"\x1b[{color}m{level}\x1b[0m"
        words = [f"{_moment(record)} {level} {record.name}: {message}"]
        template = str(record.msg)
        words += [
            f"{name}={_value(value)}"
            for name, value in extras(record).items()
            if f"%({name})" not in template  # else the message shows it
        ]
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RoostError) and _is_about_roost(record):
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
        }
        for name, value in extras(record).items():
            shown[f"{name}_" if name in _KEYS else name] = value
        if trace := _trace(self, record):
            shown["exception"] = trace
        if record.stack_info:
            shown["stack"] = self.formatStack(record.stack_info)
        try:
            return json.dumps(shown, default=_text, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return json.dumps({name: _expressible(value) for name, value in shown.items()})


def _expressible(value: object) -> object:
    """Return a value, or its text if JSON can't express it, such as a nan or a cycle."""
    try:
        return json.loads(json.dumps(value, default=_text, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return _text(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  (the line says the rest)
        return f"<{type(value).__name__} without a text>"


def _is_about_roost(record: logging.LogRecord) -> bool:
    """Return whether a line is Roost's own and not about a handler.

    The author of a handler needs to see where it failed.
    """
    is_own = record.name == "roost" or record.name.startswith("roost.")
    return is_own and record.name != "roost.worker.attempts"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    """Return the traceback. It is formatted once and kept in the record."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return record.exc_text


def _value(value: object) -> str:
    """Return a value as text, quoted unless it is one plain word."""
    text = _text(value)
    plain = text and text.isprintable() and not any(sign in text for sign in " =\"'")
    return text if plain else json.dumps(text, ensure_ascii=False)
