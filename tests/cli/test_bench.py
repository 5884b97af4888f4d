"""`roost bench` measures, and leaves nothing in the database, however it ends."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import JobInsert

if TYPE_CHECKING:
    from tests.cli.conftest import Roost, StartsRoost

Starts = Callable[..., "Roost"]
LEFT = """
select
    (select count(*) from roost.jobs)
    + (select count(*) from roost.jobs_archive)
    + (select count(*) from roost.tasks)
    + (select count(*) from roost.rollups)
    + (select count(*) from roost.workers)
"""


@pytest.fixture
def starts(dsn: str, roost_command: StartsRoost) -> Starts:
    """Return a function that starts `roost bench`."""
    return lambda *arguments: roost_command("bench", *arguments, ROOST_DSN=dsn)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_measures_and_removes_its_jobs(starts: Starts, table: JobTable, backend: str) -> None:
    run = starts("--seconds", "1", "--concurrency", "8", "--backend", backend, "--json")
    assert run.ends() == 0, run.output
    figures: dict[str, Any] = json.loads(run.output)
    assert list(figures) == ["surroundings", "enqueue", "bulk_enqueue", "drain", "latency"]
    around = figures["surroundings"]
    assert (around["backend"], around["driver"], around["concurrency"]) == (backend, "psycopg", 8)
    assert around["postgres"] == table.value("show server_version")
    assert around["synchronous_commit"] == table.value("show synchronous_commit")
    assert around["round_trip_seconds"] > 0
    for part in ("enqueue", "bulk_enqueue", "drain"):
        rate = figures[part]
        assert rate["jobs"] >= 1
        assert rate["jobs_per_second"] == pytest.approx(rate["jobs"] / rate["seconds"])
    latency = figures["latency"]
    assert 0 < latency["p50_seconds"] <= latency["p95_seconds"] <= latency["p99_seconds"]
    assert table.value(LEFT) == 0


def test_for_people_it_prints_a_line_for_each_figure(starts: Starts) -> None:
    run = starts("--seconds", "1")
    assert run.ends() == 0
    lines = run.output.splitlines()
    heads = ["Postgres ", "Roost ", "enqueue, one by one: ", "enqueue, 1,000 at once: "]
    heads += ["run, 32 at once: ", "from enqueue to start: p50 "]
    assert [line[: len(head)] for line, head in zip(lines, heads, strict=True)] == heads


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["Roost ", "enqueue, one by one", "enqueue, 1,000", "run, 32"])
def test_a_signal_ends_it_and_its_jobs_are_removed(
    starts: Starts, table: JobTable, end: signal.Signals, after: str
) -> None:
    other = table.add()
    run = starts("--seconds", "8")
    run.wait_for(after)
    until(lambda: table.value("select count(*) from roost.jobs") > 1 or after == "run, 32")
    run.signal(end)
    assert run.ends() == 130
    assert run.output.endswith("roost: interrupted; the jobs are removed\n")
    assert table.value(LEFT) == 1
    assert table.column(other, "state") == "available"


@pytest.mark.skipif(sys.platform == "win32", reason="needs Unix signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_more_signals_do_not_interrupt_the_removal(
    starts: Starts, table: JobTable, end: signal.Signals, backend: str
) -> None:
    run = starts("--seconds", "8", "--backend", backend)
    run.wait_for("enqueue, 1,000")
    run.signal(end)
    run.signal(end)
    time.sleep(0.02)
    run.signal(end)
    assert run.ends() == 130
    assert run.output.endswith("roost: interrupted; the jobs are removed\n")
    assert table.value(LEFT) == 0


def test_it_asks_first_where_workers_run(starts: Starts, table: JobTable) -> None:
    worker = table.add_worker("host:12")
    run = starts("--seconds", "1")
    assert run.ends() == 2
    assert "Workers use this database (1: host:12)" in run.output
    assert "pass --yes" in run.output
    forced = starts("--seconds", "1", "--yes")
    assert forced.ends() == 0
    assert table.workers() == [worker]


def test_it_removes_the_jobs_of_a_measurement_that_was_killed(
    starts: Starts, table: JobTable
) -> None:
    table.add_all([JobInsert("roost.bench", queue="roost-bench-killed")] * 3)
    table.rows("update roost.jobs set inserted_at = now() - interval '1 hour'")
    another = table.add("roost.bench", queue="roost-bench-running")
    assert starts("--seconds", "1").ends() == 0
    assert [row[0] for row in table.rows("select id from roost.jobs")] == [another]


@pytest.mark.parametrize(
    ("option", "value"), [("--seconds", "0"), ("--seconds", "601"), ("--concurrency", "0")]
)
def test_a_wrong_option_is_refused(starts: Starts, option: str, value: str) -> None:
    run = starts(option, value)
    assert run.ends() == 2
    assert f"roost: {option} must be" in run.output
