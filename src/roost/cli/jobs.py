"""``roost jobs``: list and show jobs; ``job_verbs`` has the commands that change them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from roost import Job, JobState
from roost._client.reading_calls import MAX_PAGE
from roost._model.states import TERMINAL
from roost.cli import job_verbs
from roost.cli.client import CommandClient
from roost.cli.job_filter import job_filter, takes_job_filter
from roost.cli.options import Dsn
from roost.cli.output import (
    AsJson,
    Columns,
    cell,
    examples,
    print_json,
    print_note,
    show,
    show_fields,
)

app = typer.Typer(help="List, show, explain, retry, cancel and delete jobs.", no_args_is_help=True)

JobId = Annotated[int, typer.Argument(help="The job's id.", metavar="ID")]


@app.command(
    "list",
    epilog=examples(
        "roost jobs list --state discarded --queue mail",
        "roost jobs list --task sync --older 1h --limit 10",
        "roost jobs list --error 'timed out' --finished-after 1d --json",
    ),
)
@takes_job_filter
def list_jobs(
    *,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="The most jobs.")] = 50,
    after: Annotated[
        int | None,
        typer.Option(
            min=1, help="Go on after the job with this id, the last one of the page before."
        ),
    ] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
    **where: Any,
) -> None:
    """List jobs, live and archived, the newest first.

    TIME is when the job ended, or else when its attempt started, or else when it is due. Times are
    in UTC.
    """
    with CommandClient(dsn, "jobs list") as client:
        given = job_filter(client, where, None)
        jobs = client.list_jobs(limit=limit, after=after, **given)
    show(jobs, COLUMNS, as_json=as_json, empty="No job fits.")
    if len(jobs) == limit:
        print_note(f"more jobs may follow: add --after {jobs[-1].id}")


@app.command("show", epilog=examples("roost jobs show 42", "roost jobs show 42 --json"))
def show_job(job_id: JobId, *, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Show all of a job: its args, times, errors with their traces, result and metadata."""
    with CommandClient(dsn, "jobs show") as client:
        job = client.get(job_id)
    fields: dict[str, object] = {name: value for name, value in job if name != "errors"}
    for error in job.errors:
        started = f", started {error['started_at']}" if error.get("started_at") else ""
        by = f", by {error['worker']}" if error.get("worker") else ""
        head = f"{error.get('error')}\nat {error.get('at')}{started}{by}"
        trace = error.get("trace")
        number = error.get("attempt", "?")
        fields[f"error of attempt {number}"] = f"{head}\n{trace}" if trace else head
    show_fields(fields, value=job, as_json=as_json)


@app.command("why", epilog=examples("roost jobs why 42", "roost jobs why 42 --json"))
def why(job_id: JobId, *, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Say why a job does not run, or that it runs or has ended.

    The first line has the state and the reason in one word; the reasons that apply, too, follow.
    """
    with CommandClient(dsn, "jobs why") as client:
        found = client.explain(job_id)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found.state}, {found.reason.value}")
    for explanation in (found, *found.also):
        until = explanation.expected_at
        typer.echo(cell(explanation.message) + (f" Expected: {cell(until)}." if until else ""))


app.command(
    "retry",
    epilog=examples(
        "roost jobs retry 42",
        "roost jobs retry --state discarded --task sync --yes",
    ),
)(job_verbs.retry)
app.command(
    "cancel",
    epilog=examples(
        "roost jobs cancel 42 43",
        "roost jobs cancel --queue mail --state available --older 1h",
    ),
)(job_verbs.cancel)
app.command(
    "delete",
    epilog=examples(
        "roost jobs delete 42",
        "roost jobs delete --state discarded --finished-before 30d --yes",
    ),
)(job_verbs.delete)


def _time(job: Job) -> object:
    ended = job.completed_at or job.cancelled_at or job.discarded_at
    if ended is not None and job.state in TERMINAL:
        return ended
    return job.attempted_at if job.state == JobState.EXECUTING else job.scheduled_at


def _last_error(job: Job) -> object:
    return job.errors[-1].get("error") if job.errors else None


COLUMNS: Columns[Job] = {
    "ID": lambda job: job.id,
    "STATE": lambda job: job.state,
    "QUEUE": lambda job: job.queue,
    "TASK": lambda job: job.task,
    "ATTEMPT": lambda job: f"{job.attempt}/{job.max_attempts}",
    "TIME": _time,
    "LAST ERROR": _last_error,
}
