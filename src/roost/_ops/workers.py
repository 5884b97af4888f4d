"""A worker's own row, and what the worker asks and tells the database about itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from roost._model.verdict import Lease
from roost._ops.dependencies import cancel_descendants, failed_parents
from roost._ops.dispatch import revoke_credit
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("workers")


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


def set_wants_notify(worker_id: int, *, wants_notify: bool) -> Op[None]:
    """Say whether the worker waits to be notified of jobs, or looks by itself."""
    yield Query(_SQL["set_wants_notify"], (worker_id, wants_notify))


def mark_started(worker_id: int, through: Sequence[int], *, flush: bool) -> Op[bool]:
    """Write how far a worker's prefetched jobs may start; ``False``: it has no row.

    :param through: `ClaimedJob.place` of the last of them.
    :param flush: whether the mark must outlive a crash of the server: one of the jobs has its last
        attempt.
    """
    return bool((yield Query(_SQL["mark_started"], (worker_id, list(through), flush))))


def release_unheld(worker_id: int, *, held: Collection[Lease]) -> Op[list[int]]:
    """Give back the jobs that this worker holds without knowing of them, and return their ids.

    It claimed them, or they were handed to it; its credit is revoked first. Must run inside a
    transaction, and only while no claim of this worker is in flight.

    :param held: the leases that the worker knows: waiting, running or not settled yet. A job of
        which it knows another lease is given back: that is of an attempt that no longer counts.
    """
    yield from revoke_credit(worker_id)
    known = [lease for lease in held if lease.worker_id == worker_id]
    parameters = [lease.job_id for lease in known], [lease.lease_no for lease in known]
    rows = yield Query(_SQL["release_unheld"], (worker_id, *parameters))
    yield from cancel_descendants(failed_parents(rows))
    return [job_id for job_id, _, _ in rows]


def forget_worker(worker_id: int) -> Op[None]:
    """Remove the row of a worker that ends, so that no worker waits for its expiry.

    What it had claimed and not started is given back.
    """
    yield Query(_SQL["forget_worker"], (worker_id,))


def notify_probe(payload: str) -> Op[None]:
    """Send what a listener waits to hear."""
    yield Query(_SQL["notify_probe"], (payload,))


def oldest_transaction() -> Op[int]:
    """Return a number that is not above that of any transaction that has written and still runs."""
    rows = yield Query(_SQL["oldest_transaction"])
    number: int = rows[0][0]
    return number


def next_transaction() -> Op[int]:
    """Return a number above that of every transaction that has written something by now."""
    rows = yield Query(_SQL["next_transaction"])
    number: int = rows[0][0]
    return number


def discard_plans() -> Op[None]:
    """Let this connection plan its statements anew; 0.2 ms."""
    yield Query(_SQL["discard_plans"])
