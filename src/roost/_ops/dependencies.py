"""What the end of a parent means for its children.

Both operations must run in the transaction that ended the parents and so holds their rows: an
enqueue of a child waits for that, or was committed before and is seen here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from roost._model.states import JobState
from roost._ops.query import Op, Query, Row
from roost._sql import statements

_SQL = statements("dependencies")

LOCK_NOT_AVAILABLE = "55P03"
"""The sqlstate of the error when who ends parents did not wait for a child that is locked."""

LOCK_WAIT = 500
"""Milliseconds that upkeep waits for a lock, of a table or of a child: while it waits it keeps one
of the worker's few connections, and it is tried again at the next look."""


def bound_lock_waits(milliseconds: int) -> Op[None]:
    """Let later statements of the transaction fail with `LOCK_NOT_AVAILABLE` after this wait."""
    yield Query(_SQL["bound_lock_waits"], (str(milliseconds),))


def release_children(parents: Collection[int]) -> Op[None]:
    """Count ``parents`` as completed; children that wait for nothing else can be claimed."""
    if parents:
        yield Query(_SQL["release_children"], (list(parents),))


def cancel_descendants(parents: Collection[int]) -> Op[None]:
    """Cancel all that waits for ``parents``, which failed, however far down."""
    if parents:
        # A function, for a chain of 5,000 took as many round trips: 7.6 s (November 2026).
        yield Query(_SQL["cancel_descendants"], (list(parents),))


def failed_parents(rows: Sequence[Row]) -> list[int]:
    """Of (id, state, has_children): the parents that ended without success."""
    failed = (JobState.DISCARDED, JobState.CANCELLED)
    return [job_id for job_id, state, has_children in rows if has_children and state in failed]
