"""Lease due jobs to a worker, with and without limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import attrs

from roost._model.codec import decode
from roost._model.error_records import decode_errors
from roost._model.job import Job
from roost._model.logs import JobFields
from roost._model.states import JobState
from roost._model.verdict import Lease
from roost._ops.query import Op, Query, Row
from roost._sql import statements
from roost.exceptions import InvalidJobError

_CLAIM = statements("claim")["claim_jobs"]
_LIMITS = statements("limits")
_KEYS = statements("limits_by_key")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


KEYS_LOOKED_AT = 20
"""Limit keys that a claim looks at besides one for each job: some have no room, or no job."""
WAKES_AT_ONCE = 2_000
"""Requests to look at keys that one claim reads at most. The SQL has the same number."""

MAX_CLAIMED_ARGS = 32 << 20
"""The most bytes of args, as ``jsonb`` holds them, that a claim returns.

The SQL has the same number.
"""


class ClaimedJob(NamedTuple):
    """A leased job as the worker keeps it: JSON stays text, and times are microseconds since 1970.

    They are decoded only for handlers that ask. A tuple, because creating a frozen attrs class for
    every job takes four times as long.
    """

    lease: Lease
    queue: str
    task: str
    args_text: str
    priority: int
    attempt: int
    max_attempts: int
    scheduled_at: int
    attempted_at: int
    errors_text: str | None
    unique_key: str | None
    inserted_at: int
    tags: list[str] | None
    timeout_seconds: int | None
    cancel_requested: bool
    depends_on: list[int] | None
    metadata_text: str | None
    prefetch_no: int | None = None

    @property
    def place(self) -> tuple[int, int, int, int]:
        """The place among the worker's prefetched jobs, which start in this order."""
        return self.prefetch_no or 0, self.priority, self.scheduled_at, self.lease.job_id

    @property
    def is_oversized(self) -> bool:
        """Whether the args are too large for the claim to return.

        An enqueue refuses such args, so the row was inserted by hand. ``args_text`` holds their
        size instead, as a JSON string.
        """
        return self.args_text[0] == '"'

    def log_fields(self) -> JobFields:
        """Return the fields that every log record about this job has."""
        return JobFields(
            job_id=self.lease.job_id, task=self.task, queue=self.queue, attempt=self.attempt
        )

    def oversized(self) -> InvalidJobError:
        """Return the error for a job with too large args; it names their size."""
        size = int(self.args_text.strip('"'))
        return InvalidJobError(
            f"args of {size:,} bytes are more than a worker takes ({MAX_CLAIMED_ARGS:,})"
        )

    def args(self) -> dict[str, object]:
        """Return the handler's keyword arguments.

        :raises InvalidJobError: they are too large; see `is_oversized`.
        """
        if self.is_oversized:
            raise self.oversized()
        args: dict[str, object] = decode(self.args_text)
        return args

    def job(self) -> Job:
        """Return the job as users see it, as of its claim."""
        return Job(
            id=self.lease.job_id,
            queue=self.queue,
            task=self.task,
            args={} if self.is_oversized else decode(self.args_text),
            state=JobState.EXECUTING.value,
            priority=self.priority,
            attempt=self.attempt,
            max_attempts=self.max_attempts,
            scheduled_at=as_datetime(self.scheduled_at),
            attempted_at=as_datetime(self.attempted_at),
            completed_at=None,
            cancelled_at=None,
            discarded_at=None,
            errors=decode_errors(self.errors_text),
            unique_key=self.unique_key,
            inserted_at=as_datetime(self.inserted_at),
            tags=self.tags or [],
            timeout_seconds=self.timeout_seconds,
            cancel_requested=self.cancel_requested,
            result=None,
            depends_on=self.depends_on or [],
            metadata=decode(self.metadata_text) if self.metadata_text else {},
        )


@attrs.frozen
class Position:
    """A place in the order of the jobs of one queue and priority: that of a claimed job."""

    queue: str
    priority: int
    scheduled_at: datetime
    job_id: int


@attrs.frozen
class Claimed:
    """The result of a claim.

    :param jobs: the jobs, in running order.
    :param next_due: seconds until the next waiting job is due; ``None`` if there is none, or if the
        claim was full and did not read it.
    :param alive: whether the worker's row still exists; without it nothing can be claimed.
    :param credit: the number of the credit in that row (see `roost._ops.dispatch`), 0 if a producer
        has consumed it or none was granted, ``None`` if the claim did not read it.
    :param complete: whether every statement was answered; if not, more jobs may have been claimed.
    :param for_slots: how many of the first jobs are of limited tasks. These start at once.
    :param waiting: the limited tasks that have waiting jobs, due or not; empty if not looked for.
    :param more: whether limit keys may have due jobs that this claim has not looked at.
    """

    jobs: list[ClaimedJob]
    next_due: float | None
    alive: bool
    credit: int | None = None
    complete: bool = True
    for_slots: int = 0
    waiting: frozenset[str] = frozenset()
    more: bool = False


def as_datetime(microseconds: int) -> datetime:
    """Return the time that is ``microseconds`` after the beginning of 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def claim_jobs(
    *,
    worker_id: int,
    queues: Sequence[str],
    tasks: Sequence[str],
    limit: int,
    after: Iterable[Position] = (),
    slots: int | None = None,
    prefetch_no: int = 0,
    soon: bool = False,
) -> Op[Claimed]:
    """Lease up to ``limit`` due jobs of ``queues`` to a worker; return them in running order.

    Better priorities come first, and in each queue the jobs that are due first. Queues that share a
    priority follow one another in the order of ``queues``, or of ``after``. A caller that passes
    last those that it has served last lets no queue starve.

    Jobs of other tasks than ``tasks`` are left to workers that know them, and jobs that are marked
    as limited to `claim_limited_jobs`.

    :param limit: from 1 to 1000.
    :param after: claim behind these positions, and only in their queues and priorities; empty: in
        all of ``queues``, from their first jobs.
    :param slots: how many of the jobs start at once; default: all. The others are prefetched.
    :param prefetch_no: the number of the claim, higher than that of every earlier claim of the same
        worker.
    :param soon: whether the prefetched jobs start within moments. Then only jobs on their last
        attempt get the number, and the others count as started.
    """
    after = list(after)
    parameters = (
        *(worker_id, list(queues), list(tasks), limit),
        [position.queue for position in after],
        [position.priority for position in after],
        [position.scheduled_at for position in after],
        [position.job_id for position in after],
        *(limit if slots is None else slots, prefetch_no, soon),
    )
    rows = yield Query(_CLAIM, parameters)
    return _claimed(worker_id, rows)


def claim_limited_jobs(
    *,
    worker_id: int,
    queues: Sequence[str],
    limited: Sequence[str],
    tasks: Sequence[str],
    limit: int,
) -> Op[Claimed]:
    """Lease jobs of ``limited`` tasks, within their limits, that are among the first ``limit`` due.

    The first jobs of all queues of a priority come before the second ones. Must run inside a
    transaction: it locks the limit of each of these tasks, for the whole fleet, until the commit.

    :param limited: the limited ones among ``tasks``.
    :param tasks: all tasks that the worker knows.
    :returns: ``next_due`` is the time until a rate leaves room again, or until the next limited job
        is due; 0 if limits have room for due jobs that come behind jobs without a limit.
    """
    rows = yield Query(_LIMITS["lock_limits"], (list(queues), list(limited)))
    if not rows:
        return Claimed([], None, alive=True)
    together = [task for task, by_key in rows if not by_key]
    by_key = [task for task, by_key in rows if by_key]
    ready = _ReadyJobs()
    if by_key:
        ready = yield from _ready_jobs(queues, by_key, limit)
    claimed = Claimed([], None, alive=True)
    if together or ready.ids:
        parameters = (
            *(worker_id, list(queues), together, list(tasks), limit),
            *(ready.ids, ready.keys_of_jobs),
        )
        rows = yield Query(_LIMITS["claim_limited_jobs"], parameters)
        claimed = _claimed(worker_id, rows)
    next_due = claimed.next_due
    if by_key:
        of_keys = set(ready.ids) & {job.lease.job_id for job in claimed.jobs}
        next_ready = yield from _settle_keys(queues, by_key, ready, sorted(of_keys))
        waits = [wait for wait in (next_due, next_ready) if wait is not None]
        next_due = min(waits, default=None)
    return attrs.evolve(
        claimed,
        next_due=next_due,
        for_slots=len(claimed.jobs),
        waiting=frozenset([*together, *by_key]),
        more=ready.more,
    )


@attrs.frozen
class _ReadyJobs:
    """Jobs that their limit keys have room for, and the keys that were looked at.

    :param keys_of_jobs: a JSON object: the key of each job, by id.
    :param more: whether others may be ready, too.
    """

    ids: list[int] = attrs.field(factory=list)
    keys_of_jobs: str = "{}"
    tasks: list[str] = attrs.field(factory=list)
    keys: list[str] = attrs.field(factory=list)
    more: bool = False


def _ready_jobs(queues: Sequence[str], tasks: list[str], limit: int) -> Op[_ReadyJobs]:
    """Find jobs of tasks with limits by key, whose limits this transaction has locked."""
    [(wakes,)] = yield Query(_KEYS["drain_key_wakes"], (tasks,))
    most_keys = limit + KEYS_LOOKED_AT
    parameters = (list(queues), tasks, limit, most_keys)
    [(ids, keys_of_jobs, of_tasks, keys)] = yield Query(_KEYS["ready_jobs"], parameters)
    more = wakes == WAKES_AT_ONCE or len(keys or []) == most_keys
    return _ReadyJobs(
        list(ids or []), keys_of_jobs or "{}", list(of_tasks or []), list(keys or []), more
    )


def _settle_keys(
    queues: Sequence[str], tasks: list[str], ready: _ReadyJobs, claimed: list[int]
) -> Op[float | None]:
    """Set when the keys are looked at again; return the seconds until the first one is ready."""
    if ready.keys:
        parameters = (list(queues), ready.tasks, ready.keys, claimed, ready.ids)
        yield Query(_KEYS["settle_keys"], parameters)
    [(seconds,)] = yield Query(_KEYS["next_ready_key"], (list(queues), tasks))
    return None if seconds is None else float(seconds)


def _claimed(worker_id: int, rows: Sequence[Row]) -> Claimed:
    next_due, credit = rows[0][0], rows[0][1]
    jobs = [
        ClaimedJob(Lease(row[2], worker_id, row[3]), *row[4:]) for row in rows if row[2] is not None
    ]
    return Claimed(jobs, next_due, alive=credit is not None, credit=credit)
