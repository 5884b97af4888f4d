"""A log line shows the data of its record, and a traceback except for Roost's own errors."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from roost.cli.logs import JsonFormatter, LineFormatter
from roost.exceptions import SchemaError


def record(error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    """Return a record as a logger makes it."""
    made = logging.getLogger("roost.worker.fetch").makeRecord(
        "roost.worker.fetch",
        *(logging.WARNING, "fetch.py", 1, "claim failed", ()),
        (type(error), error, error.__traceback__) if error else None,
        extra=extra,
    )
    made.created = 1_000_000_000.25
    return made


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        ("mail", "mail"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ("two\nlines", '"two\\nlines"'),
        ("Größe", "Größe"),
    ],
)
def test_a_line_shows_the_extra_fields(value: object, shown: str) -> None:
    line = LineFormatter().format(record(failures=2, reason=value))
    assert line == (
        "2001-09-09T01:46:40.250Z WARNING roost.worker.fetch: "
        f"claim failed failures=2 reason={shown}"
    )


def test_an_error_of_roosts_is_one_line_and_another_has_its_traceback() -> None:
    assert (
        LineFormatter()
        .format(record(SchemaError("run `roost init`")))
        .endswith(': claim failed error="SchemaError: run `roost init`"')
    )
    try:
        raise ValueError("of the user")
    except ValueError as error:
        text = LineFormatter().format(record(error))
    assert "\nTraceback (most recent call last):\n" in text
    assert text.endswith("\nValueError: of the user")


def test_json_takes_values_that_json_does_not_know() -> None:
    shown = json.loads(JsonFormatter().format(record(worker=object, failures=2)))
    assert shown == {
        "time": "2001-09-09T01:46:40.250Z",
        "level": "warning",
        "logger": "roost.worker.fetch",
        "message": "claim failed",
        "worker": "<class 'object'>",
        "failures": 2,
    }
