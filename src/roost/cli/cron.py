"""``roost cron``: list, add, remove, pause, resume and run cron entries."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from roost import CronInfo, HandlerRegistry, InvalidSettingError
from roost._client import admin_calls, reading_calls
from roost._client.calls import DatabaseCall
from roost._drivers import psycopg_sync
from roost._drivers.base import run_sync
from roost.cli.modules import load
from roost.cli.options import Dsn, resolve_dsn

T = TypeVar("T")

app = typer.Typer(
    help="List, add, remove, pause, resume and run cron entries.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The entry's name, as `roost cron list` shows it.")]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--module",
        help="A module with the tasks: package.module, or package.module:registry. For the "
        "defaults of @job, and for args that a function makes. Repeat it for more.",
        show_default=False,
    ),
]


class Misfire(StrEnum):
    """What happens to missed ticks."""

    SKIP = "skip"
    LAST = "last"
    ALL = "all"


class Overlap(StrEnum):
    """Whether an entry fires while its last job has not ended."""

    ALLOW = "allow"
    SKIP = "skip"


@app.command("list")
def list_entries(*, dsn: Dsn = None) -> None:
    """List the entries with their task, schedule and last run. Times are in UTC."""
    entries = _run(dsn, reading_calls.list_cron())
    if not entries:
        typer.echo("There is no cron entry: no worker has declared one, and none was added.")
        return
    rows = [_HEADINGS, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


@app.command()
def add(
    name: Annotated[
        str, typer.Argument(help="The new entry's name, or one that was added before.")
    ],
    expression: Annotated[str, typer.Argument(help="Five cron fields, or six with seconds last.")],
    task: Annotated[str, typer.Argument(help="The registered name of the task.")],
    *,
    args: Annotated[
        str, typer.Option(help="The handler's keyword arguments, as a JSON object.")
    ] = "{}",
    queue: Annotated[str | None, typer.Option(help="The queue that its jobs wait in.")] = None,
    priority: Annotated[
        int | None, typer.Option(help="Jobs with a smaller number run first.")
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Attempts after which a failed job is discarded.")
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(help="An IANA name such as Europe/Berlin. Default: UTC.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A word to find its jobs by. Repeat it for more.")
    ] = None,
    timeout_seconds: Annotated[
        int | None, typer.Option(help="Longest time of one attempt.")
    ] = None,
    misfire: Annotated[
        Misfire, typer.Option(help="Which of the ticks to fire that no worker could fire in time.")
    ] = Misfire.LAST,
    overlap: Annotated[
        Overlap, typer.Option(help="skip fires nothing while the last tick's job has not ended.")
    ] = Overlap.ALLOW,
    jitter: Annotated[
        float, typer.Option(help="Longest random delay of a job after its tick, in seconds.")
    ] = 0.0,
    module: Modules = None,
    dsn: Dsn = None,
) -> None:
    """Add an entry that no code declares, or replace one that was added before."""
    try:
        decoded = json.loads(args)
    except ValueError as error:
        raise InvalidSettingError(f"--args is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise InvalidSettingError(f"--args must be a JSON object, not {args}")
    given = {
        "queue": queue,
        "priority": priority,
        "max_attempts": max_attempts,
        "tags": tag or None,
        "timeout_seconds": timeout_seconds,
        "timezone": timezone,
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    call = admin_calls.add_cron(
        _registry(module),
        name,
        expression,
        task,
        args=decoded,
        misfire=misfire.value,
        overlap=overlap.value,
        jitter=jitter,
        **options,
    )
    _run(dsn, call)
    typer.echo(f"added    {name}")


@app.command()
def remove(name: Name, *, dsn: Dsn = None) -> None:
    """Remove an entry that was added, or one whose code is gone. Its jobs stay."""
    if not _run(dsn, admin_calls.remove_cron(name)):
        typer.echo(f"roost: no cron entry is named {name!r}", err=True)
        raise typer.Exit(1)
    typer.echo(f"removed  {name}")


@app.command()
def pause(name: Name, *, dsn: Dsn = None) -> None:
    """Pause an entry on all workers, until it is resumed."""
    _run(dsn, admin_calls.pause_cron(name))
    typer.echo(f"paused   {name}")


@app.command()
def resume(name: Name, *, dsn: Dsn = None) -> None:
    """Resume a paused entry. Ticks that were due while it was paused are skipped."""
    _run(dsn, admin_calls.resume_cron(name))
    typer.echo(f"resumed  {name}")


@app.command("run")
def run_now(name: Name, *, module: Modules = None, dsn: Dsn = None) -> None:
    """Enqueue an entry's job once, now, even if it is paused. Its schedule stays the same."""
    job_id = _run(dsn, admin_calls.run_cron_now(_registry(module), name))
    typer.echo(f"enqueued {name} as job {job_id}")


def _registry(modules: list[str] | None) -> HandlerRegistry:
    return load(modules).registry if modules else HandlerRegistry()


def _run(dsn: str | None, call: DatabaseCall[T]) -> T:
    with psycopg_sync.connect(resolve_dsn(dsn), application_name="roost cron") as connection:
        if not call.in_transaction:
            return run_sync(connection, call.operation)
        with connection.transaction():
            return run_sync(connection, call.operation)


_HEADINGS = (
    *("NAME", "EXPRESSION", "MEANING", "ZONE", "TASK", "SOURCE", "STATE", "NEXT", "LAST"),
    "LAST JOB",
)


def _row(entry: CronInfo) -> tuple[str, ...]:
    state = "paused" if entry.paused_at else "stale" if entry.stale else "active"
    return (
        entry.name,
        entry.expression,
        entry.description or "-",
        entry.timezone_name or "UTC",
        entry.task,
        entry.source,
        state,
        _time(entry.next_tick_at) if state == "active" else "-",
        _time(entry.last_tick_at),
        "-" if entry.last_job_id is None else str(entry.last_job_id),
    )


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
