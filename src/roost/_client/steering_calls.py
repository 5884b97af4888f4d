"""The calls of the verbs that steer jobs: over one id, or over all jobs of a filter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeAlias

import attrs

from roost._client.calls import DatabaseCall, T, checked_id
from roost._client.steps import Steps
from roost._model.job_changes import EncodedChanges, JobChanges, encode_changes
from roost._model.job_filter import WAITING, CheckedFilter, JobFilter, check_filter, check_limit
from roost._model.registry import HandlerRegistry
from roost._model.states import ACTIVE, TERMINAL, JobState
from roost._model.unique import Seconds, as_seconds
from roost._model.validate import as_utc, check_time
from roost._ops import control, steer
from roost._ops.query import Op
from roost.exceptions import (
    DatabaseError,
    DuplicateUniqueJobError,
    InvalidJobError,
    JobNotFoundError,
)

PAGE = 10_000
"""Ids that one search for the jobs of a filter returns."""
BATCH = 500
"""Jobs that one transaction changes."""

NOT_RUNNING = frozenset(JobState) - {JobState.EXECUTING}
RETRIED = TERMINAL | {JobState.RETRYABLE}


def cancel(job_id: int, *, borrowed: bool) -> DatabaseCall[bool]:
    """Cancel one job and the jobs that depend on it."""
    return _one(control.cancel_job(checked_id(job_id)), borrowed=borrowed)


def retry(job_id: int, *, borrowed: bool) -> Steps[bool]:
    """Make one job available again."""
    job_id = checked_id(job_id)
    # In a transaction, so that a refused retry leaves an archived job in the archive.
    again: bool
    try:
        again = yield _one(control.retry_job(job_id), borrowed=borrowed)
    except DatabaseError as error:
        if error.sqlstate != control.UNIQUE_VIOLATION:
            raise
        # Another job took its key at the same moment, and is seen now.
        again = yield _one(control.retry_job(job_id), borrowed=borrowed)
    return again


def run_now(job_id: int, *, borrowed: bool) -> DatabaseCall[bool]:
    """Make one waiting job due now."""
    return _one(steer.run_now(checked_id(job_id)), borrowed=borrowed)


def reschedule(
    job_id: int, at: datetime | None, in_: Seconds | None, *, borrowed: bool
) -> DatabaseCall[bool]:
    """Set when one waiting job is due."""
    operation = steer.reschedule(checked_id(job_id), *_due(at, in_))
    return _one(operation, borrowed=borrowed)


def update_job(
    registry: HandlerRegistry, job_id: int, changes: JobChanges, *, borrowed: bool
) -> DatabaseCall[bool]:
    """Change one waiting job."""
    job_id = checked_id(job_id)
    encoded = encode_changes(changes, registry)
    if "args" in changes:

        def for_task(task: str) -> EncodedChanges:
            return encode_changes(changes, registry, task=task, tasks=[task])

        operation = steer.update_encoded_for_its_task(job_id, for_task)
    else:
        operation = steer.update(job_id, encoded)
    return _one(operation, borrowed=borrowed)


def delete(job_id: int, *, borrowed: bool) -> DatabaseCall[bool]:
    """Delete one job."""
    return _one(steer.delete(checked_id(job_id)), borrowed=borrowed)


def _one(operation: Op[T], *, borrowed: bool, timeout: int | None = None) -> DatabaseCall[T]:
    point = steer.ChangePoint() if borrowed else None
    return DatabaseCall(
        steer.bounded(operation, borrowed=point, timeout=timeout),
        in_transaction=True,
        undo=None if point is None else partial(steer.undo, point),
    )


def _due(at: datetime | None, in_: Seconds | None) -> tuple[datetime | None, float | None]:
    if (at is None) == (in_ is None):
        raise InvalidJobError("pass either at= or in_=")
    if at is None:
        return None, as_seconds("in_", in_)
    check_time("at", at)
    return as_utc(at, what="at"), None


@attrs.frozen(kw_only=True)
class Selection:
    """The jobs that a verb over a filter changes.

    :param limit: the most jobs; ``None``: all.
    :param borrowed: whether it runs in the caller's transaction.
    """

    where: CheckedFilter
    limit: int | None
    borrowed: bool


def select(given: JobFilter, *, everything: bool, limit: int | None, borrowed: bool) -> Selection:
    """Check the parameters that all verbs over a filter have.

    :raises InvalidJobError: a value is out of its range, or no filter is given.
    """
    check_limit(limit)
    where = check_filter(given, everything=everything)
    return Selection(where=where, limit=limit, borrowed=borrowed)


Verb: TypeAlias = Literal["cancel", "retry", "delete"]
"""Verbs over a filter whose jobs can be counted before."""


def count_jobs(verb: Verb, jobs: Selection) -> DatabaseCall[int]:
    """Count the jobs that a verb would change now, up to the selection's limit.

    It may count a few more: those whose unique key is taken by the time of a retry.
    """
    states = {"cancel": ACTIVE, "retry": RETRIED, "delete": NOT_RUNNING}[verb]
    most = PAGE if jobs.limit is None else jobs.limit
    where = jobs.where.among(states)

    def count() -> Op[int]:
        archived = verb != "cancel"
        return len((yield from steer.find_jobs(where, after=0, limit=most, archived=archived)))

    return _one(count(), borrowed=False, timeout=steer.SEARCH_TIMEOUT)


def cancel_jobs(jobs: Selection) -> Steps[int]:
    """Cancel jobs that have not ended."""
    return _over(jobs, ACTIVE, control.cancel_jobs)


def retry_jobs(jobs: Selection) -> Steps[int]:
    """Make jobs available that have ended or wait for their next attempt."""
    return _over(jobs, RETRIED, steer.retry_batch, archived=_retry_archived)


def run_jobs_now(jobs: Selection) -> Steps[int]:
    """Make waiting jobs due now."""
    return _over(jobs, WAITING, steer.run_jobs_now)


def reschedule_jobs(jobs: Selection, at: datetime | None, in_: Seconds | None) -> Steps[int]:
    """Set when waiting jobs are due."""
    due, seconds = _due(at, in_)
    return _over(jobs, WAITING, partial(steer.reschedule_jobs, at=due, seconds=seconds))


def update_jobs(
    registry: HandlerRegistry, jobs: Selection, changes: Mapping[str, Any]
) -> Steps[int]:
    """Change waiting jobs."""
    tasks = registry if jobs.where.tasks is None else jobs.where.tasks
    encoded = encode_changes(changes, registry, tasks=tasks)
    return _over(jobs, WAITING, partial(steer.update_jobs, changes=encoded))


def delete_jobs(jobs: Selection) -> Steps[int]:
    """Delete jobs that don't run."""
    return _over(jobs, NOT_RUNNING, steer.delete_locked, archived=_delete_archived)


def _over(
    jobs: Selection,
    states: Collection[JobState],
    change: steer.Change,
    *,
    archived: Any = None,
) -> Steps[int]:
    """Change the jobs of a filter, in the order of their ids and in batches.

    Jobs that are locked are left for the end of their page, and then waited for.

    :param states: the states in which a job can be changed.
    :param archived: does the same with archived ids; ``None``: these are not meant.
    """
    where = jobs.where.among(states)
    done, after = 0, 0
    while jobs.limit is None or done < jobs.limit:
        search = steer.find_jobs(where, after=after, limit=PAGE, archived=archived is not None)
        page: list[steer.Found] = yield _one(
            search, borrowed=jobs.borrowed, timeout=steer.SEARCH_TIMEOUT
        )
        left = [found.id for found in page if not found.archived]
        for wait in (False, True):
            todo, left = left, []
            while todo and done != jobs.limit:
                room = BATCH if jobs.limit is None else min(BATCH, jobs.limit - done)
                batch, todo = todo[:room], todo[room:]
                changed = yield from _batch(jobs, where, batch, change, wait=wait)
                done += changed.jobs
                left += changed.passed_over
        todo = [found.id for found in page if found.archived]
        while todo and done != jobs.limit:
            room = BATCH if jobs.limit is None else min(BATCH, jobs.limit - done)
            batch, todo = todo[:room], todo[room:]
            done += yield from archived(jobs, batch)
        if len(page) < PAGE:
            break
        after = page[-1].id
    return done


def _batch(
    jobs: Selection,
    where: CheckedFilter,
    ids: list[int],
    change: steer.Change,
    *,
    wait: bool,
) -> Steps[steer.BatchDone]:
    try:
        done: steer.BatchDone = yield _one(
            steer.change_batch(where, ids, change, wait=wait), borrowed=jobs.borrowed
        )
    except DatabaseError as error:
        # Another job took a unique key at the same moment; it undid the whole batch.
        if error.sqlstate != control.UNIQUE_VIOLATION:
            raise
        if len(ids) == 1:
            return steer.BatchDone(0, [])
    else:
        return done
    total, passed_over = 0, []
    for job_id in ids:
        one = yield from _batch(jobs, where, [job_id], change, wait=wait)
        total += one.jobs
        passed_over += one.passed_over
    return steer.BatchDone(total, passed_over)


def _delete_archived(jobs: Selection, ids: list[int]) -> Steps[int]:
    deleted: int = yield _one(steer.delete_archived(ids), borrowed=jobs.borrowed)
    return deleted


def _retry_archived(jobs: Selection, ids: list[int]) -> Steps[int]:
    """Retry one by one: a refused job must stay in the archive."""
    retried = 0
    for job_id in ids:
        try:
            retried += yield from retry(job_id, borrowed=jobs.borrowed)
        except (DuplicateUniqueJobError, InvalidJobError, JobNotFoundError):
            continue
    return retried
