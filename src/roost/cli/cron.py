"""``roost cron``: list, pause, resume and run cron entries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeVar

import typer

from roost import CronInfo
from roost._drivers import psycopg_sync
from roost._drivers.base import run_sync
from roost._ops import cron
from roost._ops.query import Op
from roost._worker.lanes.cron import STALE_AFTER
from roost.cli.options import Dsn, resolve_dsn

T = TypeVar("T")

app = typer.Typer(help="List, pause, resume and run cron entries.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The entry's name, as `roost cron list` shows it.")]


@app.command("list")
def list_entries(*, dsn: Dsn = None) -> None:
    """List the entries with their task, schedule and last run. Times are in UTC."""
    entries = _run(dsn, cron.list_entries(stale_after=STALE_AFTER))
    if not entries:
        typer.echo("No worker has declared a cron entry.")
        return
    rows = [_HEADINGS, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


@app.command()
def pause(name: Name, *, dsn: Dsn = None) -> None:
    """Pause an entry on all workers, until it is resumed."""
    _run(dsn, cron.pause(name))
    typer.echo(f"paused   {name}")


@app.command()
def resume(name: Name, *, dsn: Dsn = None) -> None:
    """Resume a paused entry. Ticks that were due while it was paused are skipped."""
    _run(dsn, cron.resume(name))
    typer.echo(f"resumed  {name}")


@app.command("run")
def run_now(name: Name, *, dsn: Dsn = None) -> None:
    """Enqueue an entry's job once, now, even if it is paused. Its schedule stays the same."""
    job_id = _run(dsn, cron.run_now(name))
    typer.echo(f"enqueued {name} as job {job_id}")


def _run(dsn: str | None, operation: Op[T]) -> T:
    with psycopg_sync.connect(resolve_dsn(dsn), application_name="roost cron") as connection:
        return run_sync(connection, operation)


_HEADINGS = ("NAME", "EXPRESSION", "ZONE", "TASK", "STATE", "NEXT", "LAST", "LAST JOB")


def _row(entry: CronInfo) -> tuple[str, ...]:
    state = "paused" if entry.paused_at else "stale" if entry.stale else "active"
    return (
        entry.name,
        entry.expression,
        entry.timezone_name or "UTC",
        entry.task,
        state,
        _time(entry.next_tick_at) if state == "active" else "-",
        _time(entry.last_tick_at),
        "-" if entry.last_job_id is None else str(entry.last_job_id),
    )


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
