"""Change waiting jobs and delete jobs: one by its id, or a batch of those that a filter finds.

All must run inside a transaction. Callers bound the waits for locks with `bounded`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

import attrs

from roost._model.job_changes import EncodedChanges
from roost._model.job_filter import WAITING, CheckedFilter
from roost._model.states import TERMINAL, JobState
from roost._ops.control import revive, state_of
from roost._ops.dependencies import LOCK_NOT_AVAILABLE, cancel_descendants
from roost._ops.query import Op, Query
from roost._sql import statements
from roost.exceptions import (
    DatabaseError,
    FilterTooSlowError,
    JobBlockedError,
    JobLockedError,
)

T = TypeVar("T")

_SQL = statements("steer")

LOCK_WAIT = 10_000
"""Milliseconds that a verb waits for a job that another transaction has locked."""
SEARCH_TIMEOUT = 10_000
"""Milliseconds that a search for the jobs of a filter may take."""
QUERY_CANCELED = "57014"
"""The sqlstate of a statement that took longer than ``statement_timeout``."""


@attrs.define
class ChangePoint:
    """The savepoint before a change in the caller's transaction.

    :ivar is_set: whether the transaction may hold a part of the change.
    """

    is_set: bool = False


def undo(point: ChangePoint) -> Op[None]:
    """Undo what a change has done so far, and give the caller its settings back.

    For a call that ends before its operation does: by a cancel, an interrupt or a deadline.
    """
    if point.is_set:
        yield Query(_SQL["undo_change"])
        point.is_set = False
        yield Query(_SQL["end_change"])


def bounded(
    operation: Op[T], *, borrowed: ChangePoint | None = None, timeout: int | None = None
) -> Op[T]:
    """Run an operation that waits at most `LOCK_WAIT` for each lock.

    :param borrowed: if the transaction is the caller's, a new `ChangePoint`. The caller gets its
        settings back, and after an error the transaction is as it was before. If the operation is
        not run to its end, call `undo`.
    :param timeout: milliseconds that each of its statements may take; ``None``: as is set.
    :raises JobLockedError: a lock was not available in time.
    :raises FilterTooSlowError: a statement took longer than ``timeout``.
    """
    if borrowed is not None:
        yield Query(_SQL["begin_change"])
        borrowed.is_set = True
    try:
        limit = None if timeout is None else str(timeout)
        [before] = yield Query(_SQL["bound_waits"], (str(LOCK_WAIT), limit))
        value = yield from operation
    except Exception as error:
        if borrowed is not None:
            with suppress(DatabaseError):  # the connection may be lost
                yield from undo(borrowed)
        explained = _explained(error, timeout)
        if explained is None:
            raise
        raise explained from error
    if borrowed is not None:
        yield Query(_SQL["restore_waits"], before[:3])
        borrowed.is_set = False
        yield Query(_SQL["end_change"])
    return value


def _explained(error: Exception, timeout: int | None) -> Exception | None:
    sqlstate = error.sqlstate if isinstance(error, DatabaseError) else None
    if sqlstate == LOCK_NOT_AVAILABLE:
        return JobLockedError(
            f"another transaction has locked the job for more than {LOCK_WAIT // 1_000} s: wait "
            "for its end, or end it (see pg_stat_activity)",
            sqlstate=sqlstate,
        )
    if sqlstate == QUERY_CANCELED and timeout is not None:
        return FilterTooSlowError(
            f"the search for the jobs of this filter took more than {timeout // 1_000} s: add "
            "states, queues of waiting jobs, ids or a time of their end, for which there are "
            "indexes"
        )
    return None


def run_now(job_id: int) -> Op[bool]:
    """Make a waiting job due now; ``False``: it is due, runs, or has ended.

    :raises JobNotFoundError: no job has that id.
    :raises JobBlockedError: it waits for other jobs.
    """
    if (yield from run_jobs_now([job_id])):
        return True
    parents = [row[0] for row in (yield Query(_SQL["blocking_parents"], (job_id,)))]
    if parents:
        raise JobBlockedError(job_id, parents)
    yield from state_of(job_id)
    return False


def run_jobs_now(ids: Collection[int]) -> Op[int]:
    """Make those of the jobs due now that wait for a later time; return how many."""
    return len((yield Query(_SQL["run_jobs_now"], (list(ids),))))


def reschedule(job_id: int, at: datetime | None, seconds: float | None) -> Op[bool]:
    """Set when a waiting job is due; ``False``: it runs, or has ended.

    :param at: the time; ``None``: ``seconds`` from now.
    :raises JobNotFoundError: no job has that id.
    """
    return (yield from _one(reschedule_jobs([job_id], at, seconds), job_id))


def reschedule_jobs(ids: Collection[int], at: datetime | None, seconds: float | None) -> Op[int]:
    """Set when those of the jobs are due that wait; return how many."""
    return len((yield Query(_SQL["reschedule_jobs"], (list(ids), at, seconds))))


def update(job_id: int, changes: EncodedChanges) -> Op[bool]:
    """Change a waiting job; ``False``: it runs, or has ended.

    :raises JobNotFoundError: no job has that id.
    """
    return (yield from _one(update_jobs([job_id], changes), job_id))


def update_encoded_for_its_task(job_id: int, encode: Callable[[str], EncodedChanges]) -> Op[bool]:
    """Do what `update` does, with changes whose encoding depends on the job's task.

    :param encode: returns the changes for a task.
    """
    rows = yield Query(_SQL["task_of"], (job_id,))
    if not rows:
        yield from state_of(job_id)
        return False
    return (yield from update(job_id, encode(rows[0][0])))


def update_jobs(ids: Collection[int], changes: EncodedChanges) -> Op[int]:
    """Change those of the jobs that wait; return how many."""
    params = (list(ids), changes.text, changes.cleared)
    return len((yield Query(_SQL["update_jobs"], params)))


def delete(job_id: int) -> Op[bool]:
    """Delete a job, live or archived, and cancel the jobs that wait for it; ``False``: it runs.

    :raises JobNotFoundError: no job has that id.
    """
    yield from lock_holds([job_id])
    rows = yield Query(_SQL["lock_to_delete"], ([job_id],))
    if rows:
        return bool((yield from delete_locked([job_id])))
    if (yield from delete_archived([job_id])):
        return True
    yield from state_of(job_id)
    return False


def lock_holds(ids: Collection[int]) -> Op[None]:
    """Lock the ``unique_for`` keys that the jobs hold, before the jobs: as an enqueue does."""
    yield Query(_SQL["lock_holds"], (list(ids),))


def delete_locked(ids: Collection[int]) -> Op[int]:
    """Delete jobs that the transaction has locked and that don't run; return how many.

    Jobs that wait for one of them are cancelled, with those that wait for these.
    """
    yield Query(_SQL["delete_links"], (list(ids),))
    yield from cancel_descendants(ids)
    return len((yield Query(_SQL["delete_jobs"], (list(ids),))))


def delete_archived(ids: Collection[int]) -> Op[int]:
    """Delete archived jobs; return how many."""
    yield from lock_holds(ids)
    return len((yield Query(_SQL["delete_archived_jobs"], (list(ids),))))


def _one(changed: Op[int], job_id: int) -> Op[bool]:
    if (yield from changed):
        return True
    yield from state_of(job_id)
    return False


@attrs.frozen
class Found:
    """A job that fits a filter."""

    id: int
    archived: bool


def find_jobs(where: CheckedFilter, *, after: int, limit: int, archived: bool) -> Op[list[Found]]:
    """Return up to ``limit`` jobs that fit the filter and have ids above ``after``, in order.

    :param archived: whether archived jobs are meant, too.
    """
    ended = where.includes(TERMINAL)
    kinds = (where.includes(WAITING), where.includes({JobState.EXECUTING}), ended)
    params = (*where.params, after, limit, *kinds, ended and archived)
    return [Found(*row) for row in (yield Query(_SQL["find_jobs"], params))]


@attrs.frozen
class BatchDone:
    """What a batch did.

    :param jobs: how many jobs it changed.
    :param passed_over: ids that were locked, or fit the filter no more.
    """

    jobs: int
    passed_over: list[int]


Change = Callable[[Mapping[int, str | None]], Op[int]]
"""Changes jobs that the transaction has locked, and returns how many: ids with unique keys."""


def change_batch(
    where: CheckedFilter, ids: Sequence[int], change: Change, *, wait: bool
) -> Op[BatchDone]:
    """Lock the jobs that still fit the filter, and change them.

    :param wait: whether to wait for rows that are locked; else they are passed over.
    """
    if change is delete_locked:
        yield from lock_holds(ids)
    lock = _SQL["lock_jobs" if wait else "lock_free_jobs"]
    locked: dict[int, str | None] = dict((yield Query(lock, (*where.params, list(ids)))))
    jobs = (yield from change(locked)) if locked else 0
    return BatchDone(jobs, [job_id for job_id in ids if job_id not in locked])


def retry_batch(keys: Mapping[int, str | None]) -> Op[int]:
    """Make locked jobs available now, parents before their children; return how many.

    Of several with one unique key the first, and none if an active job has it.
    """
    left, total = dict(keys), 0
    while left:
        first: dict[object, int] = {}
        for job_id, key in left.items():
            first.setdefault(job_id if key is None else key, job_id)
        revived = yield from revive(list(first.values()))
        if not revived:
            break
        total += len(revived)
        for job_id in revived:
            del left[job_id]
    return total
