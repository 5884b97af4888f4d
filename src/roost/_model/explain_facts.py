"""What a job's start depends on, as one statement reads it; see ``_sql/explain.sql``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

import attrs


def _utc(value: str | datetime) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.astimezone(UTC)


_time: Any = attrs.field(converter=_utc)
_optional_time: Any = attrs.field(converter=attrs.converters.optional(_utc), default=None)


@attrs.frozen(kw_only=True)
class JobFacts:
    """The job's row.

    :param ended_at: the latest time at which it ended.
    :param last_error: the beginning of its newest error record.
    """

    id: int
    state: str
    queue: str
    task: str
    scheduled_at: datetime = _time
    attempted_at: datetime | None = _optional_time
    ended_at: datetime | None = _optional_time
    attempt: int = 0
    max_attempts: int = 20
    worker_id: int | None = None
    pending_parents: int = 0
    cancel_requested: bool = False
    limit_key: str | None = None
    archived: bool = False
    last_error: str | None = None


@attrs.frozen(kw_only=True)
class HolderFacts:
    """The worker that holds an executing job.

    :param heartbeat_interval: seconds between two heartbeats; ``None``: not known.
    :param stopping: whether it starts no more jobs.
    :param unstarted: whether the job waits there for a slot.
    """

    id: int
    name: str
    heartbeat_at: datetime = _time
    expires_at: datetime = _time
    heartbeat_interval: float | None = None
    stopping: bool = False
    unstarted: bool = False


@attrs.frozen(kw_only=True)
class WorkerFacts:
    """A living worker that serves the job's queue.

    :param own_slots: the slots of that queue; ``None``: it shares those of the worker.
    :param knows: whether it has a handler for the job's task.
    :param has_paused: whether it has confirmed a pause of the queue.
    :param stopping: whether it starts no more jobs.
    :param poll_interval: seconds after which it looks for jobs without a notification.
    :param running: jobs in its slots.
    :param of_queue: those of the job's queue.
    """

    id: int
    name: str
    concurrency: int
    own_slots: int | None = None
    knows: bool = True
    has_paused: bool = False
    stopping: bool = False
    poll_interval: float | None = None
    running: int = 0
    of_queue: int = 0

    @property
    def slots(self) -> int:
        """The most jobs of the queue at once."""
        if self.own_slots is None:
            return self.concurrency
        return min(self.own_slots, self.concurrency)

    @property
    def free_slots(self) -> int:
        """How many jobs of the queue it could start now."""
        free = self.concurrency - self.running
        if self.own_slots is not None:
            free = min(free, self.own_slots - self.of_queue)
        return max(free, 0)


@attrs.frozen(kw_only=True)
class LimitFacts:
    """The limits of the job's task, and what is in use of them, for the job's key if it has one.

    :param started: starts that count for the rate now.
    :param room_at: when one start less counts than the rate allows.
    """

    max_concurrency: int | None = None
    rate_per_minute: int | None = None
    set_max_concurrency: int | None = None
    set_rate_per_minute: int | None = None
    limit_by: str | None = None
    executing: int = 0
    executing_ids: Sequence[int] = ()
    started: int = 0
    room_at: datetime | None = _optional_time


@attrs.frozen(kw_only=True)
class Facts:
    """All of it, as of ``now`` by the database's clock.

    :param parents: the states of jobs that it waits for, by id; not all, if they are many.
    :param worker: the worker that holds it; ``None``: the job does not execute, or its worker has
        no row any more.
    :param living_workers: how many workers are alive, whatever they serve.
    :param served_queues: what they serve, if none serves the job's queue.
    :param workers: those that serve the job's queue.
    :param in_front: due jobs of its queue that start before it, up to 1,000. Of other tasks with
        limits it has as many as these let start now.
    :param task_in_front: the same of limited jobs, of its task and limit key.
    :param limit: ``None``: the job's task has none.
    """

    now: datetime = _time
    job: JobFacts
    paused_at: datetime | None = _optional_time
    parents: Mapping[int, str] = attrs.field(factory=dict)
    worker: HolderFacts | None = None
    living_workers: int = 0
    served_queues: Sequence[str] = ()
    workers: Sequence[WorkerFacts] = ()
    in_front: int = 0
    task_in_front: int = 0
    limit: LimitFacts | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the facts of the JSON object that the statement returns."""
        worker, limit = record["worker"], record["limit"]
        return cls(
            now=record["now"],
            job=JobFacts(**record["job"]),
            paused_at=record["paused_at"],
            parents={parent["id"]: parent["state"] for parent in record["parents"] or ()},
            worker=None if worker is None else HolderFacts(**worker),
            living_workers=record["living_workers"],
            served_queues=record["served_queues"] or (),
            workers=[WorkerFacts(**each) for each in record["workers"] or ()],
            in_front=record["in_front"],
            task_in_front=record["task_in_front"],
            limit=None if limit is None else LimitFacts(**limit),
        )
