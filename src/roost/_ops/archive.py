"""Archive or delete ended jobs; drop old results and old records of unique keys.

Each in bounded batches, oldest end first.
"""

from __future__ import annotations

from datetime import datetime

import attrs

from roost._model.states import JobState
from roost._ops.dependencies import LOCK_WAIT, bound_lock_waits
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("archive")


@attrs.frozen
class EndedBatch:
    """What one batch did.

    :param jobs: how many it moved or deleted.
    :param last: the latest end among them, for the next batch to begin with; ``None``: no job.
    """

    jobs: int
    last: datetime | None


def archive_jobs(
    state: JobState, *, after: float, limit: int, since: datetime | None = None
) -> Op[EndedBatch]:
    """Move up to ``limit`` jobs that ended in ``state`` more than ``after`` seconds ago.

    Must run inside a transaction. Locked rows are skipped.

    :param after: seconds.
    :param since: the end to begin with; ``None``: the oldest.
    """
    return (yield from _one_batch("archive_jobs", state, after, limit, since))


def delete_jobs(
    state: JobState, *, after: float, limit: int, since: datetime | None = None
) -> Op[EndedBatch]:
    """Do what `archive_jobs` does, but delete the jobs for good.

    A job that a client waits for is kept for a minute after its end.
    """
    return (yield from _one_batch("delete_jobs", state, after, limit, since))


def delete_archived_jobs(
    state: JobState, *, after: float, limit: int, since: datetime | None = None
) -> Op[EndedBatch]:
    """Do what `delete_jobs` does, in the archive."""
    return (yield from _one_batch("delete_archived_jobs", state, after, limit, since))


def _one_batch(
    statement: str, state: JobState, after: float, limit: int, since: datetime | None
) -> Op[EndedBatch]:
    yield from bound_lock_waits(LOCK_WAIT)
    [[jobs, last]] = yield Query(_SQL[statement], (state.value, after, limit, since))
    return EndedBatch(jobs, last)


def forget_unique_holds(*, limit: int) -> Op[int]:
    """Remove up to ``limit`` records of a ``unique_for`` that is over; return how many.

    Must run inside a transaction. Locked rows are skipped.
    """
    yield from bound_lock_waits(LOCK_WAIT)
    return len((yield Query(_SQL["forget_unique_holds"], (limit,))))


def forget_results(*, after: float, limit: int) -> Op[int]:
    """Drop the results of jobs that completed more than ``after`` seconds ago.

    Must run inside a transaction. Locked rows are skipped.

    :param limit: the most live jobs, and the most archived ones.
    :returns: the larger of the two numbers.
    """
    yield from bound_lock_waits(LOCK_WAIT)
    live = yield Query(_SQL["forget_results"], (after, limit))
    archived = yield Query(_SQL["forget_archived_results"], (after, limit))
    return max(len(live), len(archived))
