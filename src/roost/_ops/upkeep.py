"""The worker's own row, and taking back the jobs of workers that died."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs

from roost._model.codec import encode
from roost._model.states import JobState
from roost._model.verdict import Lease
from roost._ops.family import bound_lock_waits, cancel_descendants
from roost._ops.handover import withdraw_offer
from roost._ops.query import Op, Query, Row
from roost._sql import statements

_SQL = statements("upkeep")

LOCK_WAIT = 500
"""Milliseconds that upkeep waits for a lock, of a table or of a child: while it waits it keeps one
of the worker's few connections, and it is tried again at the next look."""


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


def notify_probe(payload: str) -> Op[None]:
    """Send what a listener waits to hear."""
    yield Query(_SQL["notify_probe"], (payload,))


def discard_plans() -> Op[None]:
    """Let this connection plan its statements anew; 0.2 ms."""
    yield Query(_SQL["discard_plans"])


def register_worker(
    *,
    name: str,
    queues: Sequence[str],
    concurrency: int,
    stale_after: float,
    tasks: Collection[str] = (),
    version: str | None = None,
    driver: str | None = None,
    event_loop: str | None = None,
) -> Op[int]:
    """Add a row for a new worker incarnation and return its id.

    :param stale_after: seconds without a heartbeat after which its jobs may be taken.
    :param tasks: what it has handlers for.
    """
    rows = yield Query(
        _SQL["register_worker"],
        (
            *(name, list(queues), concurrency, stale_after),
            *(sorted(tasks), version, driver, event_loop),
        ),
    )
    worker_id: int = rows[0][0]
    return worker_id


def renew_worker(worker_id: int, *, stale_after: float) -> Op[bool]:
    """Push the expiry out; ``False``: the row is gone and so may be the jobs."""
    rows = yield Query(_SQL["renew_worker"], (worker_id, stale_after))
    return bool(rows)


def set_asleep(worker_id: int, *, asleep: bool) -> Op[None]:
    """Say whether the worker waits to be notified of jobs, or looks by itself."""
    yield Query(_SQL["set_asleep"], (worker_id, asleep))


def next_transaction() -> Op[int]:
    """Return a number above that of every transaction that has written something by now."""
    rows = yield Query(_SQL["next_transaction"])
    number: int = rows[0][0]
    return number


def oldest_transaction() -> Op[int]:
    """Return a number that is not above that of any transaction that has written and still runs."""
    rows = yield Query(_SQL["oldest_transaction"])
    number: int = rows[0][0]
    return number


def forget_worker(worker_id: int) -> Op[None]:
    """Remove the row of a worker that ends, so that no worker waits for its expiry.

    What it had claimed and not started is given back.
    """
    yield Query(_SQL["forget_worker"], (worker_id,))


def mark_started(worker_id: int, through: Sequence[int], *, flush: bool) -> Op[bool]:
    """Write how far a worker's prefetched jobs may start; ``False``: it has no row.

    :param through: `ClaimedJob.place` of the last of them.
    :param flush: whether the mark must outlive a crash of the server: one of the jobs has its last
        attempt.
    """
    return bool((yield Query(_SQL["mark_started"], (worker_id, list(through), flush))))


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
    failed = _failed_parents([row[:3] for row in rows])
    if failed:
        yield from cancel_descendants(failed)
    return [Rescued(job_id, JobState(state), *rest) for job_id, state, _, *rest in rows]


def release_unheld(worker_id: int, *, held: Collection[Lease]) -> Op[list[int]]:
    """Give back the jobs that this worker holds without knowing of them, and return their ids.

    It claimed them, or they were handed to it; its offer is withdrawn first. Must run inside a
    transaction, and only while no claim of this worker is in flight.

    :param held: the leases that the worker knows: waiting, running or not settled yet. A job of
        which it knows another lease is given back: that is of an attempt that no longer counts.
    """
    yield from withdraw_offer(worker_id)
    known = [lease for lease in held if lease.worker_id == worker_id]
    parameters = [lease.job_id for lease in known], [lease.lease_no for lease in known]
    rows = yield Query(_SQL["release_unheld"], (worker_id, *parameters))
    yield from cancel_descendants(_failed_parents(rows))
    return [job_id for job_id, _, _ in rows]


def archive_jobs(*, after: float, limit: int) -> Op[int]:
    """Move up to ``limit`` jobs that ended more than ``after`` seconds ago; return how many.

    Must run inside a transaction.
    """
    yield from bound_lock_waits(LOCK_WAIT)
    return len((yield Query(_SQL["archive_jobs"], (after, limit))))


def forget_results(*, after: float, limit: int) -> Op[int]:
    """Drop the results of jobs completed more than ``after`` seconds ago; return how many.

    Up to ``limit`` live jobs and as many archived ones. Must run inside a transaction.
    """
    yield from bound_lock_waits(LOCK_WAIT)
    live = yield Query(_SQL["forget_results"], (after, limit))
    archived = yield Query(_SQL["forget_archived_results"], (after, limit))
    return max(len(live), len(archived))


def _failed_parents(rows: Sequence[Row]) -> list[int]:
    """Of (id, state, has_children): the parents that ended without success."""
    failed = (JobState.DISCARDED, JobState.CANCELLED)
    return [job_id for job_id, state, has_children in rows if has_children and state in failed]
