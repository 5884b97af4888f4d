"""Hand a job to a worker that waits for one, without a claim.

A worker that has looked and found nothing offers to be given one job, under a number. An enqueue in
a transaction of its own may take the offer (``roost.insert_or_dispatch``): it inserts its job as
executing, under a lease of that worker, names it in the worker's row, and notifies the worker. The
worker accepts it from its row: nothing is believed that a notification says. See decision 7.

A job that is not accepted soon is taken over by another worker, under a lease of its own.
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
"""What a worker's channel says: read your row; look soon for jobs that others don't accept."""


@attrs.frozen
class Accepted:
    """What the worker's row said.

    :param credit: the number of the outstanding credit; ``None``: none is outstanding.
    :param found: whether a job had been dispatched; if so the next credit has been granted.
    :param job: that job; ``None``: none, or its lease is over.
    """

    credit: int | None
    found: bool
    job: ClaimedJob | None


def grant_credit(worker_id: int, number: int, *, channel: str, tasks: Sequence[str]) -> Op[bool]:
    """Offer to run one job of ``tasks``, which will be announced on ``channel``.

    ``False``: no offer is made, for a job was handed over that is to be accepted first, or the
    worker has no row.
    """
    return bool((yield Query(_SQL["grant_credit"], (worker_id, number, channel, list(tasks)))))


def revoke_credit(worker_id: int) -> Op[bool]:
    """Take the offer back, or refuse what was handed over; ``False``: there was neither."""
    return bool((yield Query(_SQL["revoke_credit"], (worker_id,))))


def accept_dispatched(worker_id: int, *, next_credit: int | None) -> Op[Accepted]:
    """Accept the job that was handed to this worker, if there is one, and make the next offer.

    Only while no claim of this worker is in flight.

    :param next_credit: its number, for the same tasks and channel; ``None``: make none.
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
    """Take over jobs that were handed to other workers and not accepted for ``after`` seconds."""
    rows = yield Query(
        _SQL["take_unaccepted"], (worker_id, list(queues), list(tasks), limit, after)
    )
    return [_job(worker_id, row) for row in rows]


def _job(worker_id: int, row: Row) -> ClaimedJob:
    return ClaimedJob(Lease(row[0], worker_id, row[1]), *row[2:])
