"""`roost limit` lists, sets and clears the limits of tasks."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
from tests.support.job_table import JobTable

from roost import LimitInfo

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand


def test_a_limit_is_set_listed_and_cleared(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    assert run_command("limit", "list", "--dsn", dsn).out == "No task has a limit.\n"
    done = run_command("limit", "set", "sync", "--max-concurrency", 2, "--dsn", dsn)
    assert (done.code, done.out) == (0, "limited  sync\n")
    run_command("limit", "set", "sync", "--rate-per-minute", 600, "--dsn", dsn)
    assert run_command("limit", "list", "--dsn", dsn).rows == [
        ["sync", "0", "2", "0", "600", "-", "set"]
    ]
    [found] = run_command("limit", "list", "--json", "--dsn", dsn).json
    assert list(found) == [field.name for field in fields(LimitInfo)]

    done = run_command("limit", "clear", "sync", "--json", "--dsn", dsn)
    assert done.json == {"cleared": "sync"}
    assert table.value("select count(*) from roost.limits where set_max_concurrency = 2") == 0
    done = run_command("limit", "clear", "sync", "--dsn", dsn)
    assert (done.code, done.err) == (1, "roost: no limit was set for the task 'sync'\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "pass --max-concurrency, --rate-per-minute or both"),
        (["--max-concurrency", "0"], "max_concurrency must be"),
        (["--rate-per-minute", "x"], "Invalid value for '--rate-per-minute'"),
    ],
)
def test_a_wrong_limit_is_refused(
    options: list[str], message: str, dsn: str, run_command: RunsCommand
) -> None:
    done = run_command("limit", "set", "sync", *options, "--dsn", dsn)
    assert done.code == 2
    assert message in done.err
