"""What `explain` returns."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class ExplanationReason(StrEnum):
    """What keeps a job from running, or what it does instead.

    - ``ended``: it has completed, failed for good, or was cancelled.
    - ``running``: a worker runs it.
    - ``prefetched``: a worker has claimed it, and it waits there for a slot.
    - ``cancel_requested``: it still runs, although its cancel was requested.
    - ``worker_silent``: the worker that holds it has missed its heartbeats.
    - ``worker_dead``: the worker that holds it is dead; other workers will rescue it.
    - ``blocked``: it waits for jobs that it depends on.
    - ``scheduled``: it is due later.
    - ``retry_scheduled``: it has failed, and its next attempt is due later.
    - ``queue_paused``: its queue is paused.
    - ``no_worker``: no living worker serves its queue.
    - ``unknown_task``: none of the workers that serve its queue has a handler for its task.
    - ``workers_stopping``: all workers that could run it are being stopped, and start no more jobs.
    - ``concurrency_limit``: as many jobs of its task run as its limit allows.
    - ``rate_limit``: as many jobs of its task have started in the last minute as its limit allows.
    - ``slots_taken``: all slots of the workers that could run it are taken.
    - ``starts_soon``: nothing keeps it from starting.
    """

    ENDED = "ended"
    RUNNING = "running"
    PREFETCHED = "prefetched"
    CANCEL_REQUESTED = "cancel_requested"
    WORKER_SILENT = "worker_silent"
    WORKER_DEAD = "worker_dead"
    BLOCKED = "blocked"
    SCHEDULED = "scheduled"
    RETRY_SCHEDULED = "retry_scheduled"
    QUEUE_PAUSED = "queue_paused"
    NO_WORKER = "no_worker"
    UNKNOWN_TASK = "unknown_task"
    WORKERS_STOPPING = "workers_stopping"
    CONCURRENCY_LIMIT = "concurrency_limit"
    RATE_LIMIT = "rate_limit"
    SLOTS_TAKEN = "slots_taken"
    STARTS_SOON = "starts_soon"


# A dataclass of the standard library, since pydantic and FastAPI can dump it.
@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a job does not run, or what it does instead.

    :param job_id: the job's id.
    :param state: its state.
    :param reason: what keeps it from running.
    :param message: the same as a sentence with names, numbers and times.
    :param data: the facts behind it, as JSON values; times are ISO 8601 texts in UTC.
    :param expected_at: when this reason ends; ``None``: nothing says when.
    :param also: other reasons that keep the job from running, too, in their order.
    """

    job_id: int
    state: str
    reason: ExplanationReason
    message: str
    data: dict[str, Any]
    expected_at: datetime | None = None
    also: list["Explanation"] = field(default_factory=list)
