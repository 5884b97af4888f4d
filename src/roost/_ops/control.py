"""Cancel and retry jobs; pause and resume queues."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

import attrs

from roost._model.states import JobState
from roost._ops.dependencies import cancel_descendants
from roost._ops.query import Op, Query
from roost._sql import statements
from roost.exceptions import (
    DatabaseError,
    DuplicateUniqueJobError,
    InvalidJobError,
    JobNotFoundError,
)

_SQL = statements("control")

UNIQUE_VIOLATION = "23505"
PAGE = 500
"""Discarded jobs that `requeue_discarded` reads and revives at a time."""


def cancel_job(job_id: int) -> Op[bool]:
    """Cancel a waiting job, or request the cancel of an executing one; ``False``: it has ended.

    Must run inside a transaction: the descendants of a cancelled job are cancelled with it.

    :raises JobNotFoundError: no job has that id.
    """
    if (yield from cancel_jobs([job_id])):
        return True
    yield from state_of(job_id)
    return False


def cancel_jobs(ids: Collection[int]) -> Op[int]:
    """Cancel those of the jobs that wait, and request the cancel of those that run.

    Must run inside a transaction, as `cancel_job`.

    :returns: how many they are.
    """
    rows = yield Query(_SQL["cancel_jobs"], (list(ids),))
    yield from cancel_descendants(
        [
            cancelled
            for cancelled, state, has_children in rows
            if state == JobState.CANCELLED and has_children
        ]
    )
    return len(rows)


def state_of(job_id: int) -> Op[JobState]:
    """Return the state of a live or archived job.

    :raises JobNotFoundError: no job has that id.
    """
    rows = yield Query(_SQL["states_of"], ([job_id],))
    if not rows:
        raise JobNotFoundError(f"no job has the id {job_id}")
    return JobState(rows[0][1])


def database_time() -> Op[datetime]:
    """Return the time by the database's clock."""
    rows = yield Query(_SQL["database_time"])
    now: datetime = rows[0][0]
    return now


def cancel_requests(worker_id: int) -> Op[list[tuple[int, int]]]:
    """Return (id, lease number) of the worker's executing jobs with a cancel request."""
    rows = yield Query(_SQL["cancel_requests_of"], (worker_id,))
    return [(job_id, lease_no) for job_id, lease_no in rows]


def retry_job(job_id: int) -> Op[bool]:
    """Make a finished job, or one that waits for a retry, available now; ``False``: it is neither.

    An archived job is moved back. A cancelled one waits again for parents that have not ended.

    :raises JobNotFoundError: no job has that id.
    :raises DuplicateUniqueJobError: another active job has its unique key.
    :raises InvalidJobError: it was cancelled, and one of its parents is discarded or cancelled.
    """
    yield Query(_SQL["unarchive_jobs"], ([job_id],))
    if (yield from revive([job_id])):
        return True
    yield from state_of(job_id)
    holders = yield Query(_SQL["key_holder"], (job_id,))
    for holder, key in holders:
        raise DuplicateUniqueJobError(unique_key=key, existing_id=holder)
    parents = yield Query(_SQL["failed_parents"], (job_id,))
    for parent, state in parents:
        raise InvalidJobError(
            f"job {job_id} waits for job {parent}, which was {state}: retry it first"
        )
    return False


@attrs.frozen
class Page:
    """One page of discarded jobs.

    :param ids: at most one for each unique key, since two could not both be active.
    :param last: the highest id that was read; ``None``: there are no more pages.
    """

    ids: list[int]
    last: int | None


def discarded_page(*, queue: str | None, task: str | None, after: int, limit: int) -> Op[Page]:
    """Return up to ``limit`` discarded jobs with ids above ``after``."""
    rows = yield Query(_SQL["discarded_ids"], (queue, task, after, limit))
    first_of_key: dict[str | int, int] = {}
    for job_id, unique_key in rows:
        first_of_key.setdefault(job_id if unique_key is None else unique_key, job_id)
    last = rows[-1][0] if len(rows) == limit else None
    return Page(list(first_of_key.values()), last)


def revive_jobs(ids: Collection[int]) -> Op[int]:
    """Make finished jobs available, except those whose unique key is taken; return how many.

    Must not run inside a transaction: a unique violation undoes the batch, and then each job is
    tried in a statement of its own.
    """
    try:
        return len((yield from revive(ids)))
    except DatabaseError as error:
        if error.sqlstate != UNIQUE_VIOLATION:
            raise
    # Another job took a key between the statement's read and its write.
    revived = 0
    for job_id in ids:
        try:
            revived += len((yield from revive([job_id])))
        except DatabaseError as error:
            if error.sqlstate != UNIQUE_VIOLATION:
                raise
    return revived


def requeue_discarded(*, queue: str | None, task: str | None, limit: int | None) -> Op[int]:
    """Make discarded jobs available again, a page at a time; return how many.

    Must not run inside a transaction: each page commits by itself, and a unique violation undoes
    only its own page.

    :param queue: only of this queue; ``None``: of all.
    :param task: only of this task; ``None``: of all.
    :param limit: the most jobs; ``None``: all.
    """
    revived, last = 0, 0
    while limit is None or revived < limit:
        most = PAGE if limit is None else min(PAGE, limit - revived)
        page = yield from discarded_page(queue=queue, task=task, after=last, limit=most)
        if page.ids:
            revived += yield from revive_jobs(page.ids)
        if page.last is None:
            break
        last = page.last
    return revived


def pause_queue(queue: str) -> Op[None]:
    """Stop claims from ``queue`` and notify its workers; jobs that have started go on.

    A worker that has not confirmed the pause may still start jobs that it had claimed; see
    `unconfirmed_workers`.
    """
    yield Query(_SQL["pause_queue"], (queue,))


def unconfirmed_workers(queue: str) -> Op[dict[str, float]]:
    """Return the living workers that may still start jobs of a paused queue.

    :returns: seconds since the last heartbeat by worker name; empty if the queue is not paused.
    """
    return dict((yield Query(_SQL["unconfirmed_workers"], (queue,))))


def paused_queues(queues: Iterable[str]) -> Op[frozenset[str]]:
    """Return which of ``queues`` are paused."""
    rows = yield Query(_SQL["paused_queues"], (list(queues),))
    return frozenset(name for (name,) in rows)


def confirm_pauses(worker_id: int, queues: Iterable[str]) -> Op[bool]:
    """Record that this worker starts no job of ``queues``; ``False``: it has no row."""
    return bool((yield Query(_SQL["confirm_pauses"], (worker_id, sorted(queues)))))


def resume_queue(queue: str) -> Op[None]:
    """Undo `pause_queue` and notify the workers."""
    yield Query(_SQL["resume_queue"], (queue,))


def revive(ids: Iterable[int]) -> Op[list[int]]:
    """Make finished jobs, and jobs that wait for a retry, available now; return their ids.

    :raises DatabaseError: a unique violation: another job took a key at the same moment, or two of
        the jobs have the same.
    """
    rows = yield Query(_SQL["revive_jobs"], (list(ids),))
    return [job_id for (job_id,) in rows]
