"""`roost status` shows the queues, the workers and what ended lately."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.job_table import JobTable

from roost import Percentiles, Throughput
from roost.cli.status import COLUMNS, Row

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand


def test_it_shows_queues_workers_and_throughput(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    table.add(queue="mail")
    table.add_worker("host:7", queues=["mail"])
    done = run_command("status", "--dsn", dsn)
    assert done.code == 0
    queues, workers, throughput = done.out.split("\n\n")
    assert queues.splitlines()[1].split()[:2] == ["mail", "1"]
    assert "host:7" in workers
    lines = [line.split() for line in throughput.splitlines()]
    assert lines[0] == ["TASK", "LAST", "ENDED", "COMPLETED", "FAILED", "WAIT", "RUN"]
    assert [line[:5] for line in lines[1:]] == [
        ["all", window, "0", "0", "0"] for window in ("minute", "hour", "day")
    ]


def test_times_below_a_second_are_in_milliseconds() -> None:
    row: Row = (
        "send",
        "hour",
        Throughput(
            seconds=3600.0,
            attempts=3,
            by_outcome={"completed": 2, "retried": 1},
            failures=1,
            per_second=3 / 3600,
            wait=Percentiles(p50=0.0042, p95=90.0, p99=90.0),
            run=Percentiles(p50=None, p95=None, p99=None),
        ),
    )
    cells = [get(row) for get in COLUMNS.values()]
    assert cells == ["send", "hour", 3, 2, 1, "4.2ms / 1m30s", None]
