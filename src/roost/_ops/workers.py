"""Write and remove a worker's own row, and release jobs that it does not know of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs

from roost._model.codec import encode
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
    fires_cron: bool = True,
    host: str | None = None,
    pid: int | None = None,
    slots: Mapping[str, int] | None = None,
    poll_interval: float | None = None,
    heartbeat_interval: float | None = None,
) -> Op[int]:
    """Insert the row of a new worker incarnation and return its id.

    :param stale_after: seconds without a heartbeat after which other workers may rescue its jobs.
    :param tasks: the tasks that it has handlers for.
    :param fires_cron: whether it fires the cron entries of these tasks.
    :param slots: of each queue that has slots of its own; ``None``: the queues share them.
    :param poll_interval: seconds after which it looks for jobs without a notification.
    :param heartbeat_interval: seconds between two heartbeats.
    """
    rows = yield Query(
        _SQL["register_worker"],
        (
            *(name, list(queues), concurrency, stale_after),
            *(sorted(tasks), version, driver, event_loop, fires_cron, host, pid, _slots(slots)),
            poll_interval,
            heartbeat_interval,
        ),
    )
    worker_id: int = rows[0][0]
    return worker_id


def renew_worker(
    worker_id: int,
    *,
    stale_after: float,
    running: int = 0,
    waiting: int = 0,
    loop_lag: float = 0.0,
    stopping: bool = False,
) -> Op[bool]:
    """Record a heartbeat; ``False``: the row is gone, and its jobs may have been rescued.

    :param stale_after: seconds from now until the worker counts as dead.
    :param running: jobs in its slots.
    :param waiting: claimed jobs that wait for a slot.
    :param loop_lag: worst lag of its event loop since the last heartbeat, in seconds.
    :param stopping: whether it starts no more jobs.
    """
    parameters = (worker_id, stale_after, running, waiting, loop_lag, stopping)
    rows = yield Query(_SQL["renew_worker"], parameters)
    return bool(rows)


def set_queues(
    worker_id: int,
    queues: Sequence[str],
    *,
    concurrency: int,
    slots: Mapping[str, int] | None = None,
) -> Op[bool]:
    """Record which queues a worker serves now, and its slots; ``False``: the row is gone.

    :param slots: of each queue that has slots of its own; ``None``: the queues share them.
    """
    parameters = (worker_id, list(queues), concurrency, _slots(slots))
    return bool((yield Query(_SQL["set_queues"], parameters)))


def _slots(slots: Mapping[str, int] | None) -> str | None:
    return None if slots is None else encode(dict(slots))


def set_wants_notify(worker_id: int, *, wants_notify: bool) -> Op[None]:
    """Record whether producers notify this worker of new jobs. If not, it must poll."""
    yield Query(_SQL["set_wants_notify"], (worker_id, wants_notify))


def mark_started(worker_id: int, through: Sequence[int], *, flush: bool) -> Op[bool]:
    """Record how far the worker's prefetched jobs may start; ``False``: it has no row.

    Call it before they start. When the worker dies, later ones are released without using an
    attempt.

    :param through: `ClaimedJob.place` of the last job that may start.
    :param flush: whether the mark must survive a crash of the server: set it when one of the jobs
        has its last attempt.
    """
    return bool((yield Query(_SQL["mark_started"], (worker_id, list(through), flush))))


def release_unheld(worker_id: int, *, held: Collection[Lease]) -> Op[list[int]]:
    """Release jobs that are leased to this worker and that it does not know of; return their ids.

    Such jobs were claimed or dispatched, and the answer was lost. The worker's credit is revoked
    first. Must run inside a transaction, and only while no claim of this worker is in flight.

    :param held: the leases that the worker knows: prefetched, running or not settled yet. A job is
        released also if the worker knows only another lease of it, from an earlier attempt.
    """
    yield from revoke_credit(worker_id)
    known = [lease for lease in held if lease.worker_id == worker_id]
    parameters = [lease.job_id for lease in known], [lease.lease_no for lease in known]
    rows = yield Query(_SQL["release_unheld"], (worker_id, *parameters))
    yield from cancel_descendants(failed_parents(rows))
    return [job_id for job_id, _, _ in rows]


def forget_worker(worker_id: int) -> Op[None]:
    """Remove the row of a worker that stops, so that others need not wait until it expires.

    Jobs that it had claimed and not started are released.
    """
    yield Query(_SQL["forget_worker"], (worker_id,))


def notify_probe(payload: str) -> Op[None]:
    """Send a notification by which a listener checks that its connection still receives."""
    yield Query(_SQL["notify_probe"], (payload,))


def oldest_transaction() -> Op[int]:
    """Return the lowest number that a running transaction may have."""
    rows = yield Query(_SQL["oldest_transaction"])
    number: int = rows[0][0]
    return number


def next_transaction() -> Op[int]:
    """Return a number above that of every transaction that has written something by now."""
    rows = yield Query(_SQL["next_transaction"])
    number: int = rows[0][0]
    return number


def discard_plans() -> Op[None]:
    """Drop the cached plans of this connection; takes 0.2 ms."""
    yield Query(_SQL["discard_plans"])


@attrs.frozen
class HostWorker:
    """A registered worker of a host, and the seconds since its last heartbeat."""

    id: int
    name: str
    heartbeat_age_seconds: float


def workers_of_host(host: str) -> Op[list[HostWorker]]:
    """Return the registered workers of a host, dead ones included."""
    rows = yield Query(_SQL["workers_of_host"], (host,))
    return [HostWorker(worker_id, name, age) for worker_id, name, age in rows]
