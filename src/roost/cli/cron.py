"""``roost cron``: list, add, remove, pause, resume and run cron entries."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from roost import CronInfo, HandlerRegistry
from roost.cli.client import CommandClient
from roost.cli.enqueue import read_object
from roost.cli.modules import registry_of
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Columns, examples, fail, show, show_done

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


@app.command("list", epilog=examples("roost cron list", "roost cron list --json"))
def list_entries(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the entries with their task, schedule and last run. Times are in UTC."""
    with _client(dsn) as client:
        entries = client.list_cron()
    empty = "There is no cron entry: no worker has declared one, and none was added."
    show(entries, _COLUMNS, as_json=as_json, empty=empty)


@app.command(
    epilog=examples(
        "roost cron add nightly '0 3 * * *' report",
        """roost cron add tenant-7 @hourly sync --args '{"tenant": 7}'""",
    )
)
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
    as_json: AsJson = False,
) -> None:
    """Add an entry that no code declares, or replace one that was added before."""
    given = {
        "queue": queue,
        "priority": priority,
        "max_attempts": max_attempts,
        "tags": tag or None,
        "timeout_seconds": timeout_seconds,
        "timezone": timezone,
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    with _client(dsn, registry_of(module)) as client:
        client.add_cron(
            name,
            expression,
            task,
            args=read_object("--args", args),
            misfire=misfire.value,
            overlap=overlap.value,
            jitter=jitter,
            **options,
        )
    show_done(f"added    {name}", as_json=as_json, added=name)


@app.command(epilog=examples("roost cron remove tenant-7"))
def remove(name: Name, *, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Remove an entry that was added, or one whose code is gone. Its jobs stay."""
    with _client(dsn) as client:
        if not client.remove_cron(name):
            fail(f"no cron entry is named {name!r}")
    show_done(f"removed  {name}", as_json=as_json, removed=name)


@app.command(epilog=examples("roost cron pause nightly"))
def pause(name: Name, *, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Pause an entry on all workers, until it is resumed."""
    with _client(dsn) as client:
        client.pause_cron(name)
    show_done(f"paused   {name}", as_json=as_json, paused=name)


@app.command(epilog=examples("roost cron resume nightly"))
def resume(name: Name, *, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Resume a paused entry. Ticks that were due while it was paused are skipped."""
    with _client(dsn) as client:
        client.resume_cron(name)
    show_done(f"resumed  {name}", as_json=as_json, resumed=name)


@app.command("run", epilog=examples("roost cron run nightly", "roost cron run nightly -m shop"))
def run_now(
    name: Name, *, module: Modules = None, dsn: Dsn = None, as_json: AsJson = False
) -> None:
    """Enqueue an entry's job once, now, even if it is paused. Its schedule stays the same."""
    with _client(dsn, registry_of(module)) as client:
        job_id = client.run_cron_now(name)
    show_done(f"enqueued {name} as job {job_id}", as_json=as_json, name=name, job_id=job_id)


def _client(dsn: str | None, registry: HandlerRegistry | None = None) -> CommandClient:
    return CommandClient(dsn, "cron", registry=registry)


def _state(entry: CronInfo) -> str:
    return "paused" if entry.paused_at else "stale" if entry.stale else "active"


_COLUMNS: Columns[CronInfo] = {
    "NAME": lambda entry: entry.name,
    "EXPRESSION": lambda entry: entry.expression,
    "MEANING": lambda entry: entry.description,
    "ZONE": lambda entry: entry.timezone_name or "UTC",
    "TASK": lambda entry: entry.task,
    "SOURCE": lambda entry: entry.source,
    "STATE": _state,
    "NEXT": lambda entry: entry.next_tick_at if _state(entry) == "active" else None,
    "LAST": lambda entry: entry.last_tick_at,
    "LAST JOB": lambda entry: entry.last_job_id,
}
