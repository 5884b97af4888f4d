"""Remove the rows of dead workers, and rescue the jobs that they ran."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from roost._model.codec import encode
from roost._model.states import JobState
from roost._ops.dependencies import (
    LOCK_WAIT,
    bound_lock_waits,
    cancel_descendants,
    failed_parents,
)
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("rescue")


@attrs.frozen
class Rescued:
    """A rescued job, with its new state and the id of the dead worker."""

    job_id: int
    state: JobState
    queue: str
    task: str
    attempt: int
    max_attempts: int
    worker_id: int


def expire_workers(names: dict[int, str] | None = None) -> Op[list[str]]:
    """Remove the rows of expired workers and return their names.

    Must run inside a transaction. Jobs that they had claimed and not started become available
    again, without using an attempt.

    :param names: each name is added to it by the worker's id, for `rescue_jobs`.
    """
    yield from bound_lock_waits(LOCK_WAIT)
    rows = yield Query(_SQL["expire_workers"])
    if names is not None:
        names.update((worker_id, name) for worker_id, name, _ in rows)
    return [name for _, name, _ in rows]


def rescue_jobs(
    *,
    limit: int,
    error_cap: int,
    tried: list[int] | None = None,
    names: Mapping[int, str] | None = None,
) -> Op[list[Rescued]]:
    """Rescue up to ``limit`` executing jobs whose worker has no row.

    Must run inside a transaction. Each job gets a ``WorkerCrash`` error record. It becomes
    cancelled if that was requested, discarded if its attempts are used up, else retryable.

    :param error_cap: the most error records that a row keeps, ≥ 1; the oldest are dropped.
    :param tried: ids to leave out; the ids of this rescue are added to it, also when it fails.
    :param names: the names of dead workers by id, for the error records.
    :raises DatabaseUnavailableError: with the sqlstate `LOCK_NOT_AVAILABLE`: a descendant of a
        discarded or cancelled job is locked, maybe for long. Nothing was rescued.
    """
    tried = [] if tried is None else tried
    dead = {str(worker_id): name for worker_id, name in (names or {}).items()}
    yield from bound_lock_waits(LOCK_WAIT)
    rows = yield Query(_SQL["rescue_jobs"], (limit, error_cap, list(tried), encode(dead)))
    tried += [row[0] for row in rows]
    failed = failed_parents([row[:3] for row in rows])
    if failed:
        yield from cancel_descendants(failed)
    return [Rescued(job_id, JobState(state), *rest) for job_id, state, _, *rest in rows]
