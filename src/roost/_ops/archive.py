"""Move old finished jobs to the archive, and drop old results."""

from __future__ import annotations

from roost._ops.dependencies import LOCK_WAIT, bound_lock_waits
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("archive")


def archive_jobs(*, after: float, limit: int) -> Op[int]:
    """Move up to ``limit`` jobs that ended more than ``after`` seconds ago; return how many.

    Must run inside a transaction. Locked rows are skipped.

    :param after: seconds.
    """
    yield from bound_lock_waits(LOCK_WAIT)
    return len((yield Query(_SQL["archive_jobs"], (after, limit))))


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
