"""A log line shows the data of its record, and a traceback except for Roost's own errors."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.job_table import JobTable

from roost.cli.logs import JsonFormatter, LineFormatter
from roost.exceptions import SchemaError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import StartsRoost


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


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


def test_no_value_loses_a_line_or_makes_it_invalid_json() -> None:
    cycle: list[object] = [1]
    cycle.append(cycle)
    values: dict[str, Any] = {
        "a": float("nan"),
        "b": {(1, 2): 3},
        "c": cycle,
        "d": Unprintable(),
        "e": [1, None],
    }

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    shown = json.loads(JsonFormatter().format(record(**values)), parse_constant=refuse)
    assert [shown[name] for name in values] == [
        "nan",
        "{(1, 2): 3}",
        "[1, [...]]",
        "<Unprintable without a text>",
        [1, None],
    ]
    assert shown["message"] == "claim failed"
    assert (
        LineFormatter()
        .format(record(d=Unprintable()))
        .endswith(' d="<Unprintable without a text>"')
    )


def test_a_field_of_the_application_replaces_no_key_of_the_line() -> None:
    shown = json.loads(JsonFormatter().format(record(level=3, time="late", exception="none")))
    assert (shown["level"], shown["time"][:4]) == ("warning", "2001")
    assert "exception" not in shown
    assert (shown["level_"], shown["time_"], shown["exception_"]) == (3, "late", "none")


def test_json_has_the_stack_of_a_line_that_was_logged_with_it() -> None:
    made = record()
    made.stack_info = "Stack (most recent call last):\n  here"
    assert json.loads(JsonFormatter().format(made))["stack"] == made.stack_info


@pytest.mark.parametrize("name", ["shop.mail", "roost.worker.attempts", "rooster"])
def test_an_error_of_roosts_in_a_handler_has_its_traceback(name: str) -> None:
    try:
        raise SchemaError("run `roost init`")
    except SchemaError as error:
        made = record(error)
    made.name = name
    assert "\nTraceback (most recent call last):\n" in LineFormatter().format(made)


def test_a_colored_line_is_the_plain_one_with_a_color_for_its_level() -> None:
    colored = LineFormatter(colored=True).format(record(failures=2))
    assert "\x1b[33mWARNING\x1b[0m" in colored
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == LineFormatter().format(record(failures=2))


def test_a_field_that_the_message_shows_is_not_repeated() -> None:
    made = record(job_id=7, queue="mail")
    made.msg, made.args = "job %(job_id)d failed", {"job_id": 7, "queue": "mail"}
    assert LineFormatter().format(made).endswith(": job 7 failed queue=mail")


LOGGING_TASKS = """
import logging
import roost

logger = logging.getLogger("shop.mail")

@roost.job("in_loop")
async def in_loop() -> None:
    logger.info("sent", extra={"to": "ada"})

@roost.job("in_process", run_in="process")
def in_process() -> None:
    logger.info("computed")
"""


@pytest.fixture
def logging_tasks(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(LOGGING_TASKS)
    return tmp_path


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_lines_of_a_job_name_it_also_in_its_own_process(
    backend: str, dsn: str, table: JobTable, logging_tasks: Path, roost_command: StartsRoost
) -> None:
    first = table.add("in_loop", queue="mail")
    second = table.add("in_process", queue="mail")
    options = ("-m", "tasks", "-q", "mail", "--once", "--backend", backend)
    run = roost_command("run", *options, ROOST_DSN=dsn)
    assert run.ends() == 0, run.output
    sent = f"INFO shop.mail: sent to=ada job_id={first} task=in_loop queue=mail attempt=1\n"
    computed = f"INFO shop.mail: computed job_id={second} task=in_process queue=mail attempt=1\n"
    assert sent in run.output
    assert computed in run.output


def test_it_logs_json_where_stderr_is_no_terminal(
    dsn: str, table: JobTable, logging_tasks: Path, roost_command: StartsRoost
) -> None:
    ids = {table.add(task): task for task in ("in_loop", "in_process")}
    run = roost_command("run", "-m", "tasks", "--once", ROOST_DSN=dsn, ROOST_LOG_JSON="")
    assert run.ends() == 0, run.output
    lines = [json.loads(line) for line in run.output.splitlines()]
    found = {line["job_id"]: line["task"] for line in lines if line["logger"] == "shop.mail"}
    assert found == ids


@pytest.mark.parametrize(
    ("variables", "colored"), [({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)]
)
def test_it_logs_readable_lines_on_a_terminal(
    variables: dict[str, str],
    colored: bool,
    dsn: str,
    table: JobTable,
    logging_tasks: Path,
    roost_command: StartsRoost,
) -> None:
    table.add("in_process")
    options = ("run", "-m", "tasks", "--once")
    run = roost_command(*options, terminal=True, ROOST_DSN=dsn, ROOST_LOG_JSON="", **variables)
    assert run.ends() == 0, run.output
    level = "\x1b[32mINFO\x1b[0m" if colored else "INFO"
    assert f"Z {level} shop.mail: computed job_id=" in run.output
