"""Log lines with the data in the message and as fields of the record.

A plain formatter shows the data in the message; a JSON formatter gets each value by its name. The
message template is constant, so that lines of one kind can be grouped.
"""

from __future__ import annotations

import logging
from typing import TypedDict

MAX_SHOWN = 20
"""Entries of a list that a message shows; the field has all."""


class JobFields(TypedDict):
    """The fields of a log record about a job."""

    job_id: int
    task: str
    queue: str
    attempt: int


class StructuredLogger:
    """A logger whose keywords fill the message and become fields of the record.

    ``logger.warning("claim failed: %(error)s", error=str(error))`` logs a message that shows the
    error, in a record with the attribute ``error``. The message is a literal that names each
    keyword; a test checks that. Line breaks in values are escaped, so that a value can't forge a
    line. Nothing is formatted while the level is off.

    :param name: name of the standard logger, such as ``roost.worker.fetch``.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def is_enabled_for(self, level: int) -> bool:
        """Return whether ``level`` is on, for callers whose data are expensive."""
        return self._logger.isEnabledFor(level)

    def info(self, message: str, /, **data: object) -> None:
        """Log normal progress."""
        self._log(logging.INFO, message, None, data)

    def warning(
        self,
        message: str,
        /,
        *,
        exc_info: BaseException | None = None,
        trace: str | None = None,
        **data: object,
    ) -> None:
        """Log a problem that Roost handles by itself; ``trace`` is as for `log`."""
        self._log(logging.WARNING, message, exc_info, data, trace=trace)

    def error(
        self, message: str, /, *, exc_info: BaseException | None = None, **data: object
    ) -> None:
        """Log a problem that needs attention."""
        self._log(logging.ERROR, message, exc_info, data)

    def critical(
        self, message: str, /, *, exc_info: BaseException | None = None, **data: object
    ) -> None:
        """Log a problem that ends the worker or the process."""
        self._log(logging.CRITICAL, message, exc_info, data)

    def log(
        self,
        level: int,
        message: str,
        /,
        *,
        exc_info: BaseException | None = None,
        trace: str | None = None,
        **data: object,
    ) -> None:
        """Log at a level that is computed at run time.

        :param trace: the traceback of ``exc_info`` as text, if it is formatted already; the
            standard library's formatters then don't format it again.
        """
        self._log(level, message, exc_info, data, trace=trace)

    def _log(
        self,
        level: int,
        message: str,
        error: BaseException | None,
        data: dict[str, object],
        *,
        trace: str | None = None,
    ) -> None:
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        # logging would format an empty mapping as a positional argument.
        shown = ({name: _shown(value) for name, value in data.items()},) if data else ()
        file, line, function, _ = logger.findCaller(stacklevel=3)
        info = None if error is None else (type(error), error, error.__traceback__)
        record = logger.makeRecord(
            *(logger.name, level, file, line, message, shown, info), func=function, extra=data
        )
        if trace is not None:
            record.exc_text = trace.rstrip("\n")
        logger.handle(record)


def one_line(text: str) -> str:
    """Return ``text`` with line breaks and other control characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _shown(value: object) -> object:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, (list, tuple)):
        more = f" and {len(value) - MAX_SHOWN} more" if len(value) > MAX_SHOWN else ""
        return one_line(", ".join(map(str, value[:MAX_SHOWN]))) + more
    return value
