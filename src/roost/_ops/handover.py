"""Hand a job to a worker that waits for one, without a claim.

A worker that has looked and found nothing offers to be given one job, under a number. An enqueue in
a transaction of its own may take the offer (``roost.insert_or_hand_over``): it inserts its job as
executing, under a lease of that worker, and sends it along in the notification. So one commit is
flushed between the enqueue and the handler's start instead of two. See decision 7.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import attrs

from roost._model.codec import decode
from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("handover")

FIRST_LEASE = 1
"""The lease number, and the attempt, of a job that was handed over when it was inserted."""


@attrs.frozen
class Handed:
    """A notification that an offer was taken.

    :param number: the offer's.
    :param job: what was handed over; ``None``: it did not fit and has to be read.
    """

    worker_id: int
    number: int
    job: ClaimedJob | None


def make_offer(worker_id: int, number: int, *, channel: str, tasks: Sequence[str]) -> Op[None]:
    """Offer to run one job of ``tasks``, which will be announced on ``channel``."""
    yield Query(_SQL["make_offer"], (worker_id, number, channel, list(tasks)))


def withdraw_offer(worker_id: int) -> Op[bool]:
    """Take the offer back; ``False``: somebody has taken it, or there was none."""
    return bool((yield Query(_SQL["withdraw_offer"], (worker_id,))))


def find_handed(worker_id: int, *, held: Collection[Lease]) -> Op[list[ClaimedJob]]:
    """Return the jobs that this worker was given and has not heard of.

    Only while no claim of this worker is in flight.

    :param held: the leases that the worker knows: waiting, running or not settled yet.
    """
    known = [lease.job_id for lease in held if lease[1:] == (worker_id, FIRST_LEASE)]
    rows = yield Query(_SQL["find_handed"], (worker_id, known))
    return [_job(worker_id, row) for row in rows]


def read_handed(payload: str) -> Handed:
    """Read a notification.

    :raises ValueError: it is not one of ours.
    """
    worker_id, number, *job = decode(payload)
    return Handed(worker_id, number, _job(worker_id, job) if job else None)


def _job(worker_id: int, fields: Sequence[Any]) -> ClaimedJob:
    """Return a job that was just inserted: it has no errors and no parents."""
    (
        job_id,
        queue,
        task,
        args,
        priority,
        max_attempts,
        scheduled_at,
        inserted_at,
        unique_key,
        tags,
        timeout_seconds,
        metadata,
        cancel_requested,
    ) = fields
    return ClaimedJob(
        lease=Lease(job_id, worker_id, FIRST_LEASE),
        queue=queue,
        task=task,
        args_text=args,
        priority=priority,
        attempt=FIRST_LEASE,
        max_attempts=max_attempts,
        scheduled_at=scheduled_at,
        attempted_at=inserted_at,
        errors_text=None,
        unique_key=unique_key,
        inserted_at=inserted_at,
        tags=tags,
        timeout_seconds=timeout_seconds,
        cancel_requested=cancel_requested,
        depends_on=None,
        metadata_text=metadata,
    )
