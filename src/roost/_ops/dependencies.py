"""Release or cancel the children of parents that have ended.

Both operations must run in the transaction that ended the parents. It holds their rows, so an
enqueue of another child waits for it, or was committed before and is seen here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from roost._model.states import JobState
from roost._ops.query import Op, Query, Row
from roost._sql import statements

_SQL = statements("dependencies")

LOCK_NOT_AVAILABLE = "55P03"
"""The sqlstate of the error when a lock was not available within the time of `bound_lock_waits`."""

LOCK_WAIT = 500
"""Milliseconds that rescue and archive wait for the lock of a table or a child.

While they wait they keep one of the worker's few connections, and they try again later."""


def bound_lock_waits(milliseconds: int) -> Op[None]:
    """Limit how long later statements of this transaction wait for each lock.

    After that they fail with the sqlstate `LOCK_NOT_AVAILABLE`.
    """
    yield Query(_SQL["bound_lock_waits"], (str(milliseconds),))


def release_children(parents: Collection[int]) -> Op[None]:
    """Let the children of completed ``parents`` wait for one parent less, or be claimed."""
    if parents:
        yield Query(_SQL["release_children"], (list(parents),))


def cancel_descendants(parents: Collection[int]) -> Op[None]:
    """Cancel every job that depends on the failed ``parents``, directly or through other jobs."""
    if parents:
        yield Query(_SQL["cancel_descendants"], (list(parents),))


def failed_parents(rows: Sequence[Row]) -> list[int]:
    """Return the ids of discarded and cancelled parents; rows are (id, state, has_children)."""
    failed = (JobState.DISCARDED, JobState.CANCELLED)
    return [job_id for job_id, state, has_children in rows if has_children and state in failed]
