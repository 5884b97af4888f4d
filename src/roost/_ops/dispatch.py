"""Dispatch a job directly to an idle worker, which runs it without a claim.

1. A worker whose claim found nothing grants a credit of one, under a number, in its row.
2. A producer that enqueues one job in a transaction of its own may consume the credit
   (``roost.insert_or_dispatch``). It inserts the job as executing, under a lease of that worker,
   writes its id into the worker's row, and notifies the worker.
3. The worker reads its row and accepts the job. A notification only tells it to read the row, so
   that a forged one does no harm.
4. If a worker does not accept in time, another worker takes the job over, under a new lease.

See docs/explanation/decisions/0007-direct-dispatch.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._ops.query import Op, Query, Row
from roost._sql import statements

_SQL = statements("dispatch")

DISPATCHED, WATCH = "dispatched", "watch"
"""The payloads of a worker's channel.

``dispatched``: read your row. ``watch``: call `take_unaccepted` soon, since a job was dispatched to
another worker."""


@attrs.frozen
class Accepted:
    """What `accept_dispatched` found in the worker's row.

    :param credit: the number of the credit that is outstanding now; ``None``: none.
    :param found: whether a job had been dispatched. If so, the next credit has been granted.
    :param job: that job; ``None``: there was none, or this worker lost its lease.
    """

    credit: int | None
    found: bool
    job: ClaimedJob | None


def grant_credit(
    worker_id: int,
    number: int,
    *,
    channel: str,
    tasks: Sequence[str],
    queues: Sequence[str] | None = None,
) -> Op[bool]:
    """Grant a credit: let a producer dispatch one job of ``tasks`` to this worker.

    :param number: the credit's number, higher than those before.
    :param channel: where the worker listens for the notification.
    :param queues: only jobs of these; ``None``: of all queues that the worker serves.
    :returns: ``False`` if no credit was granted: a dispatched job is to be accepted first, or the
        worker has no row.
    """
    parameters = (worker_id, number, channel, list(tasks), None if queues is None else list(queues))
    return bool((yield Query(_SQL["grant_credit"], parameters)))


def revoke_credit(worker_id: int) -> Op[bool]:
    """Revoke the credit, or refuse the dispatched job; ``False``: there was neither.

    The lease of a refused job stays: give it back with `roost._ops.workers.release_unheld`.
    """
    return bool((yield Query(_SQL["revoke_credit"], (worker_id,))))


def accept_dispatched(worker_id: int, *, next_credit: int | None) -> Op[Accepted]:
    """Accept the job that was dispatched to this worker, if any, and grant the next credit.

    Only while no claim of this worker is in flight.

    :param next_credit: the number of the next credit, for the same tasks, queues and channel;
        ``None``: grant none.
    """
    [[credit, dispatched_job_id, *job]] = yield Query(
        _SQL["accept_dispatched"], (worker_id, next_credit)
    )
    if dispatched_job_id is None:
        return Accepted(credit, found=False, job=None)
    return Accepted(
        next_credit, found=True, job=None if job[0] is None else _job(worker_id, tuple(job))
    )


def take_unaccepted(
    worker_id: int, *, queues: Sequence[str], tasks: Sequence[str], limit: int, after: float
) -> Op[list[ClaimedJob]]:
    """Take over jobs that were dispatched to other workers and not accepted in time.

    :param queues: only jobs of these.
    :param tasks: only jobs of these.
    :param limit: the most jobs.
    :param after: seconds since the dispatch.
    """
    rows = yield Query(
        _SQL["take_unaccepted"], (worker_id, list(queues), list(tasks), limit, after)
    )
    return [_job(worker_id, row) for row in rows]


def _job(worker_id: int, row: Row) -> ClaimedJob:
    return ClaimedJob(Lease(row[0], worker_id, row[1]), *row[2:])
