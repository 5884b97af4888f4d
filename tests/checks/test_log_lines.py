"""Every line that Roost logs is complete in its message, and its data are fields of the record."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from roost._model.logs import StructuredLogger

SOURCE = Path(__file__).parents[2] / "src" / "roost"
HELPERS = {"_model/logs.py", "_worker/handlers/log_filter.py", "cli/logs.py"}
"""These make and format records. All other modules log through `StructuredLogger`."""
LEVELS = {"info", "warning", "error", "critical", "log"}
NAMED = re.compile(r"%\((\w+)\)[-\d.]*[a-z]")
NO_DATA = {"exc_info", "trace", "level"}
JOB = {"job_id", "task", "queue", "attempt"}
"""The fields of a record about a job; its message may leave some out."""
ID_ONLY = {"settle.py", "slow_writer.py", "verdicts.py", "sync_waiting.py", "waiting.py"}
"""These write verdicts or wait for jobs, of which they know the id only."""
RESERVED = {*vars(logging.LogRecord("", 0, "", 0, "", None, None)), "message", "asctime"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call of a logger's method, with its file and line."""
    for file in sorted(SOURCE.rglob("*.py")):
        name = file.relative_to(SOURCE).as_posix()
        if name in HELPERS:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                yield f"{name}:{node.lineno}", node


def test_the_checks_find_the_log_calls() -> None:
    assert len(list(calls())) > 30


def test_every_module_logs_through_the_structured_logger() -> None:
    past = [
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if "logging.getLogger(" in file.read_text(encoding="utf-8")
    ]
    assert set(past) <= HELPERS


def data_of(call: ast.Call) -> set[str]:
    """Return the names of the data that a call logs."""
    data = {keyword.arg for keyword in call.keywords if keyword.arg is not None} - NO_DATA
    return data | (JOB if names_the_job(call) else set())


def names_the_job(call: ast.Call) -> bool:
    """Say whether the call passes ``**….log_fields()``."""
    return any(
        keyword.arg is None and ast.unparse(keyword.value).partition("(")[0].endswith("log_fields")
        for keyword in call.keywords
    )


def test_each_message_shows_all_of_its_data() -> None:
    wrong = []
    for place, call in calls():
        data = data_of(call)
        message = call.args[-1] if call.args else None
        if isinstance(message, ast.Constant) and isinstance(message.value, str):
            shown = set(NAMED.findall(message.value))
            left_out = data - shown - (JOB if names_the_job(call) else set())
            if shown - data or left_out or "%" in NAMED.sub("", message.value):
                wrong.append(place)
        elif not isinstance(message, ast.Name):  # made of literals by the caller
            wrong.append(place)
        if data & RESERVED:
            wrong.append(f"{place}: {data & RESERVED} are the record's own")
    assert wrong == []


def test_a_record_about_a_job_has_all_fields_of_the_job() -> None:
    about_jobs = [
        (place, call)
        for place, call in calls()
        if "job_id" in data_of(call) and Path(place.partition(":")[0]).name not in ID_ONLY
    ]
    assert len(about_jobs) > 10
    assert [place for place, call in about_jobs if not data_of(call) >= JOB] == []


def test_values_are_in_the_message_and_are_fields_of_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    StructuredLogger("roost.test").warning(
        "%(count)d jobs of %(task)s: %(jobs)s", count=2, task="two\nlines", jobs=list(range(30))
    )
    [record] = caplog.records
    assert record.getMessage() == (
        f"2 jobs of two\\nlines: {', '.join(map(str, range(20)))} and 10 more"
    )
    assert (record.__dict__["task"], record.__dict__["jobs"]) == ("two\nlines", list(range(30)))
    assert (record.filename, record.funcName) == (
        Path(__file__).name,
        "test_values_are_in_the_message_and_are_fields_of_the_record",
    )


def test_a_message_without_data_is_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    StructuredLogger("roost.test").error("100 % done")
    assert caplog.messages == ["100 % done"]


def test_data_are_not_formatted_when_the_level_is_off() -> None:
    class Loud:
        def __str__(self) -> str:
            raise AssertionError

    logging.getLogger("roost.test").setLevel(logging.ERROR)
    try:
        StructuredLogger("roost.test").warning("%(value)s", value=[Loud()])
    finally:
        logging.getLogger("roost.test").setLevel(logging.NOTSET)
