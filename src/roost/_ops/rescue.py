"""Remove the rows of dead workers, and take back the jobs that they ran."""

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
    """A job that was taken back, and the state it went to."""

    job_id: int
    state: JobState
    queue: str
    task: str
    attempt: int
    max_attempts: int
    worker_id: int


def expire_workers(names: dict[int, str] | None = None) -> Op[list[str]]:
    """Remove the workers whose expiry has passed and return their names.

    Must run inside a transaction. What they had claimed and not started is available again, without
    using an attempt.

    :param names: gets each name by the worker's id, for `rescue_jobs`.
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
    """Take back up to ``limit`` executing jobs whose worker has no row.

    Must run inside a transaction. Each gets a ``WorkerCrash`` error record and becomes retryable,
    discarded when its attempts are used up, or cancelled when that was requested.

    :param tried: ids to leave out; those that are taken are added to it, also when this fails.
    :param names: of dead workers, by their ids, for the error records.
    :raises DatabaseUnavailableError: with the sqlstate ``55P03``, nothing was rescued: somebody
        holds a job that is to be cancelled with its parent, and may do so for long.
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
