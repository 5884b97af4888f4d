"""`roost cron` lists, pauses, resumes and runs entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.support.cron_table import declaration
from tests.support.job_table import JobTable

from roost import CronEntry
from roost._ops.cron import declare

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

Says = Callable[..., list[str]]


@pytest.fixture
def says(dsn: str, roost_command: StartsRoost) -> Says:
    """Return a function that runs `roost cron` and returns its lines."""

    def run(*arguments: str, code: int = 0) -> list[str]:
        done = roost_command("cron", *arguments, ROOST_DSN=dsn)
        assert done.ends() == code, done.output
        return done.output.splitlines()

    return run


@pytest.fixture
def declared(table: JobTable) -> None:
    entries = [
        CronEntry("nightly", "0 3 * * *", "report", timezone_name="Europe/Berlin"),
        CronEntry("cleanup", "@hourly", "clean", {"days": 7}),
    ]
    table.run(declare([declaration(entry) for entry in entries]))


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_without_entries_it_says_so(says: Says) -> None:
    assert says("list") == ["No worker has declared a cron entry."]


@pytest.mark.usefixtures("declared")
def test_entries_are_listed_with_their_state(says: Says, table: JobTable) -> None:
    [headings, cleanup, nightly] = map(columns, says("list"))
    assert headings == ["NAME", "EXPRESSION", "ZONE", "TASK", "STATE", "NEXT", "LAST", "LAST JOB"]
    assert cleanup[:5] == ["cleanup", "@hourly", "UTC", "clean", "active"]
    assert cleanup[6:] == ["-", "-"]
    assert nightly[:5] == ["nightly", "0 3 * * *", "Europe/Berlin", "report", "active"]
    next_tick = table.value(
        "select to_char(next_tick_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') "
        "from roost.cron where name = 'nightly'"
    )
    assert nightly[5] == next_tick

    table.rows(
        "update roost.cron set last_tick_at = '2026-06-01 03:00+02', last_job_id = 7, "
        "declared_at = now() - interval '4 minutes' where name = 'nightly'"
    )
    [_, _, nightly] = map(columns, says("list"))
    assert nightly[4:] == ["stale", "-", "2026-06-01 01:00:00", "7"]


@pytest.mark.usefixtures("declared")
def test_an_entry_is_paused_resumed_and_run(says: Says, table: JobTable) -> None:
    assert says("pause", "cleanup") == ["paused   cleanup"]
    assert columns(says("list")[1])[4:6] == ["paused", "-"]
    assert says("run", "cleanup") == ["enqueued cleanup as job 1"]
    assert (table.get(1).task, table.get(1).args) == ("clean", {"days": 7})
    assert says("resume", "cleanup") == ["resumed  cleanup"]
    assert columns(says("list")[1])[4] == "active"


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize("verb", ["pause", "resume", "run"])
def test_an_unknown_name_is_an_error(says: Says, verb: str) -> None:
    assert says(verb, "never", code=1) == ["roost: no cron entry is named 'never'"]
