"""``roost jobs retry|cancel|delete``: over ids, or over all jobs of a filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import attrs
import typer

from roost import (
    DuplicateUniqueJobError,
    InvalidJobError,
    InvalidSettingError,
    JobBlockedError,
    JobFilter,
    JobLockedError,
    JobNotFoundError,
)
from roost._client.steering_calls import Verb
from roost.cli.client import CommandClient
from roost.cli.job_filter import has_filter, job_filter, takes_job_filter
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Yes, confirm, print_error, show_done

MOST_COUNTED = 10_000
"""The most jobs that are counted before a question: as many as one search finds."""

_REFUSALS = (
    DuplicateUniqueJobError,
    InvalidJobError,
    JobBlockedError,
    JobLockedError,
    JobNotFoundError,
)
"""Errors that concern one job: the next one may be changed."""

Ids = Annotated[
    list[int] | None, typer.Argument(help="Ids of jobs.", metavar="ID", show_default=False)
]
Everything = Annotated[
    bool, typer.Option("--everything", help="Instead of ids or a filter: all jobs.")
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, help="The most jobs to change, those with the lowest ids.", show_default=False
    ),
]


@attrs.frozen
class _Jobs:
    """What a call means.

    :param where: the options of the filter that were passed.
    """

    ids: list[int] | None
    where: dict[str, Any]
    everything: bool
    limit: int | None
    yes: bool

    @property
    def are_ids_only(self) -> bool:
        return bool(self.ids) and not has_filter(self.where)


@takes_job_filter
def retry(
    *,
    ids: Ids = None,
    everything: Everything = False,
    limit: Limit = None,
    yes: Yes = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
    **where: Any,
) -> None:
    """Make jobs available now that have ended or wait for their retry.

    Each gets one more attempt at least. Without ids, or with ids and a filter, it counts the jobs
    and asks first. Exits with 1 if an id was not retried.
    """
    jobs = _Jobs(ids, where, everything, limit, yes)
    with CommandClient(dsn, "jobs retry") as client:
        words = _Words("retry", done="retried", not_done="is available or running already")
        _change(client, jobs, words, client.retry, client.retry_jobs, as_json=as_json)


@takes_job_filter
def cancel(
    *,
    ids: Ids = None,
    everything: Everything = False,
    limit: Limit = None,
    yes: Yes = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
    **where: Any,
) -> None:
    """Cancel waiting jobs, and interrupt running ones. Jobs that depend on them are cancelled, too.

    Without ids, or with ids and a filter, it counts the jobs and asks first. Exits with 1 if an id
    was not cancelled.
    """
    jobs = _Jobs(ids, where, everything, limit, yes)
    with CommandClient(dsn, "jobs cancel") as client:
        words = _Words("cancel", done="cancelled", not_done="has ended already")
        _change(client, jobs, words, client.cancel, client.cancel_jobs, as_json=as_json)


@takes_job_filter
def delete(
    *,
    ids: Ids = None,
    everything: Everything = False,
    limit: Limit = None,
    yes: Yes = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
    **where: Any,
) -> None:
    """Delete jobs for good, live and archived. Running jobs stay: cancel them first.

    Without ids, or with ids and a filter, it counts the jobs and asks first. Exits with 1 if an id
    was not deleted.
    """
    jobs = _Jobs(ids, where, everything, limit, yes)
    with CommandClient(dsn, "jobs delete") as client:
        words = _Words("delete", done="deleted", not_done="is running: cancel it first")
        _change(client, jobs, words, client.delete, client.delete_jobs, as_json=as_json)


@attrs.frozen
class _Words:
    """How a verb is called, and what is said of a job that it has changed, or has not."""

    verb: Verb
    done: str = attrs.field(kw_only=True)
    not_done: str = attrs.field(kw_only=True)


def _change(
    client: CommandClient,
    jobs: _Jobs,
    words: _Words,
    one: Callable[[int], bool],
    many: Callable[..., int],
    *,
    as_json: bool,
) -> None:
    """Change jobs by their ids, or those of a filter after a question.

    :param one: changes the job of an id; ``False``: it can't be changed.
    :param many: changes the jobs of a filter, and returns how many.
    """
    if jobs.are_ids_only:
        _each(jobs, one, words, as_json=as_json)
        return
    given = _confirmed(client, words.verb, jobs)
    changed = many(everything=jobs.everything, limit=jobs.limit, **given)
    report_changed(changed, words.done, as_json=as_json)


def _each(jobs: _Jobs, one: Callable[[int], bool], words: _Words, *, as_json: bool) -> None:
    """Change jobs by their ids, and exit with 1 if one was not changed."""
    if jobs.everything or jobs.limit is not None:
        raise InvalidSettingError("--everything and --limit don't go with ids")
    changed: list[int] = []
    ids = list(dict.fromkeys(jobs.ids or ()))
    for job_id in ids:
        try:
            if one(job_id):
                changed.append(job_id)
            else:
                print_error(f"job {job_id} {words.not_done}")
        except _REFUSALS as error:
            print_error(str(error))
    if changed or as_json:
        ids_text = ", ".join(map(str, changed))
        report = {words.done: len(changed), "ids": changed}
        show_done(f"{words.done} {ids_text}", as_json=as_json, **report)
    if len(changed) < len(ids):
        raise typer.Exit(1)


def _confirmed(client: CommandClient, verb: Verb, jobs: _Jobs) -> JobFilter:
    """Return the filter after counting its jobs and asking; exit with 1 if the answer is no."""
    filtered = has_filter(jobs.where)
    if jobs.everything and (filtered or jobs.ids):
        raise InvalidSettingError("--everything means all jobs: pass no ids and no filter with it")
    if not (jobs.everything or filtered):
        raise InvalidSettingError(
            f"say which jobs to {verb}: pass ids or a filter, or --everything for all jobs"
        )
    given = job_filter(client, jobs.where, jobs.ids)
    if not jobs.yes:
        ask_about(client, verb, given, limit=jobs.limit, everything=jobs.everything)
    return given


def ask_about(
    client: CommandClient,
    verb: Verb,
    where: JobFilter,
    *,
    limit: int | None,
    everything: bool,
    words: str | None = None,
) -> None:
    """Count the jobs of a filter and ask; return if the answer is yes, or if there is no job.

    :param words: what the question calls the verb; default: its name.
    """
    most = min(limit or MOST_COUNTED, MOST_COUNTED)
    count = client.count_jobs(verb, everything=everything, most=most, **where)
    or_more = " or more" if count == MOST_COUNTED and limit != MOST_COUNTED else ""
    noun = "job" if count == 1 else "jobs"
    if count:
        confirm(f"{words or verb.capitalize()} {count:,}{or_more} {noun}?", yes=False)


def report_changed(changed: int, done: str, *, as_json: bool) -> None:
    """Print how many jobs were changed."""
    noun = "job" if changed == 1 else "jobs"
    show_done(f"{done} {changed:,} {noun}", as_json=as_json, **{done: changed})
