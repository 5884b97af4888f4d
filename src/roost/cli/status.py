"""``roost status``: the queues, the workers and what ended lately, at a glance."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from roost import Overview, Percentiles, Throughput, Windows
from roost.cli import queues, workers
from roost.cli.client import CommandClient
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Columns, examples, print_json, show
from roost.cli.times import shown_duration

EPILOG = examples("roost status", "roost status --json")

Row = tuple[str, str, Throughput]
"""What, the window's name, and its throughput."""


def status(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Show the queues, the workers, and how many attempts ended in the last minute, hour and day.

    WAIT and RUN are the medians and the 95th percentiles of the times from due to started, and from
    started to ended. Workers write their counts once a minute, so the newest attempts are missing.
    """
    with CommandClient(dsn, "status") as client:
        found = client.overview()
    if as_json:
        print_json(found)
        return
    show(found.queues, queues.COLUMNS, as_json=False, empty="There is no queue.")
    typer.echo()
    show(found.workers, workers.columns(found.at), as_json=False, empty="No worker is registered.")
    typer.echo()
    show(_rows(found), COLUMNS, as_json=False, empty="")


def _rows(found: Overview) -> list[Row]:
    """Return the rows of the total, and the last hour of each task."""
    by_task: Mapping[str, Windows] = found.by_task
    total = found.total
    rows: list[Row] = [
        ("all", "minute", total.minute),
        ("all", "hour", total.hour),
        ("all", "day", total.day),
    ]
    return [*rows, *((task, "hour", windows.hour) for task, windows in by_task.items())]


def _times(percentiles: Percentiles) -> str | None:
    if percentiles.p50 is None:
        return None
    return f"{shown_duration(percentiles.p50)} / {shown_duration(percentiles.p95)}"


COLUMNS: Columns[Row] = {
    "TASK": lambda row: row[0],
    "LAST": lambda row: row[1],
    "ENDED": lambda row: row[2].attempts,
    "COMPLETED": lambda row: row[2].by_outcome.get("completed", 0),
    "FAILED": lambda row: row[2].failures,
    "WAIT": lambda row: _times(row[2].wait),
    "RUN": lambda row: _times(row[2].run),
}
