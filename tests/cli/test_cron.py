"""`roost cron` lists, pauses, resumes and runs entries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.support.cron_table import declaration, declare
from tests.support.job_table import JobTable

from roost import CronEntry

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
    assert says("list") == [
        "There is no cron entry: no worker has declared one, and none was added."
    ]


@pytest.mark.usefixtures("declared")
def test_entries_are_listed_with_their_state(says: Says, table: JobTable) -> None:
    [headings, cleanup, nightly] = map(columns, says("list"))
    assert headings[:6] == ["NAME", "EXPRESSION", "MEANING", "ZONE", "TASK", "SOURCE"]
    assert headings[6:] == ["STATE", "NEXT", "LAST", "LAST JOB"]
    assert cleanup[:4] == ["cleanup", "@hourly", "Every hour", "UTC"]
    assert cleanup[4:7] == ["clean", "code", "active"]
    assert cleanup[8:] == ["-", "-"]
    assert nightly[:4] == ["nightly", "0 3 * * *", "At 03:00", "Europe/Berlin"]
    assert nightly[4:7] == ["report", "code", "active"]
    next_tick = table.value(
        """select to_char(next_tick_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') """
        "from roost.cron where name = 'nightly'"
    )
    assert nightly[7] == next_tick

    table.rows(
        "update roost.cron set last_tick_at = '2026-06-01 03:00+02', last_job_id = 7 "
        "where name = 'nightly'"
    )
    table.rows(
        "update roost.cron_declarations set declared_at = now() - interval '4 minutes' "
        "where name = 'nightly'"
    )
    [_, _, nightly] = map(columns, says("list"))
    assert nightly[6:] == ["stale", "-", "2026-06-01T01:00:00Z", "7"]
    assert says("remove", "nightly") == ["removed  nightly"]
    assert says("remove", "nightly", code=1) == ["roost: no cron entry is named 'nightly'"]
    [entry] = [e for e in json.loads("".join(says("list", "--json"))) if e["name"] == "cleanup"]
    assert (entry["args"], entry["stale"], entry["last_tick_at"]) == ({"days": 7}, False, None)
    [refused] = says("remove", "cleanup", code=1)
    assert "a running worker declares the cron entry 'cleanup'" in refused


def test_an_entry_is_added_and_removed(says: Says, table: JobTable) -> None:
    options = ["--args", '{"tenant": 7}', "--queue", "reports", "--timezone", "Asia/Tokyo"]
    assert says("add", "tenant 7", "30 6 * * mon-fri 15", "report", *options) == [
        "added    tenant 7"
    ]
    [_, row] = map(columns, says("list"))
    assert row[:4] == [
        *("tenant 7", "30 6 * * mon-fri 15", "At 06:30:15, Monday through Friday"),
        "Asia/Tokyo",
    ]
    assert row[4:7] == ["report", "database", "stale"]
    assert says("run", "tenant 7") == ["enqueued tenant 7 as job 1"]
    assert (table.get(1).args, table.get(1).queue) == ({"tenant": 7}, "reports")
    [refused] = says("add", "other", "61 * * * *", "report", code=2)
    assert "'61' is not a valid minute" in refused
    [refused] = says("add", "other", "@daily", "report", "--args", "{", code=2)
    assert "--args is not JSON" in refused
    for args in ("null", "[1]"):
        [refused] = says("add", "other", "@daily", "report", "--args", args, code=2)
        assert refused == f"roost: --args must be a JSON object, not {args}"
    assert says("remove", "tenant 7") == ["removed  tenant 7"]


@pytest.mark.usefixtures("declared")
def test_an_entry_is_paused_resumed_and_run(says: Says, table: JobTable) -> None:
    assert says("pause", "cleanup") == ["paused   cleanup"]
    assert columns(says("list")[1])[6:8] == ["paused", "-"]
    assert says("run", "cleanup") == ["enqueued cleanup as job 1"]
    assert (table.get(1).task, table.get(1).args) == ("clean", {"days": 7})
    assert says("resume", "cleanup") == ["resumed  cleanup"]
    said = says("run", "cleanup", "--json")
    assert json.loads("".join(said)) == {"name": "cleanup", "job_id": 2}
    assert columns(says("list")[1])[6] == "active"


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize("verb", ["pause", "resume", "run"])
def test_an_unknown_name_is_an_error(says: Says, verb: str) -> None:
    assert says(verb, "never", code=1) == ["roost: no cron entry is named 'never'"]
