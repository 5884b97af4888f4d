"""``roost requeue``: make discarded jobs available again."""

from __future__ import annotations

from typing import Annotated

import typer

from roost import InvalidSettingError, JobFilter
from roost.cli.client import CommandClient
from roost.cli.job_verbs import ask_about, report_changed
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Yes, examples

EPILOG = examples("roost requeue --discarded --queue mail")


def requeue(
    *,
    discarded: Annotated[
        bool, typer.Option("--discarded", help="Required: it requeues discarded jobs.")
    ] = False,
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", help="Only jobs of this queue.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only jobs of this task.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The most jobs, those with the lowest ids.")
    ] = None,
    yes: Yes = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Make all discarded jobs available again, of a queue or a task, after counting and asking.

    Each gets one more attempt at least. Jobs whose unique key another job has stay discarded, and
    so do archived jobs: `roost jobs retry` has more filters, and archived jobs, too.
    """
    if not discarded:
        raise InvalidSettingError("pass --discarded: it is what `roost requeue` requeues")
    with CommandClient(dsn, "requeue") as client:
        where = JobFilter(states=["discarded"])
        if queue is not None:
            where["queues"] = [queue]
        if task is not None:
            where["tasks"] = [task]
        if not yes:
            ask_about(client, "retry", where, limit=limit, everything=False, words="Requeue")
        changed = client.requeue_discarded(queue=queue, task=task, limit=limit)
    report_changed(changed, "requeued", as_json=as_json)
