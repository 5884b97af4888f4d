"""What clients return about queues, workers and ended jobs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal

from typing_extensions import TypeVar

R = TypeVar("R", default=Any)


# Dataclasses of the standard library, since pydantic and FastAPI can dump them.
@dataclass(frozen=True, kw_only=True, slots=True)
class QueueInfo:
    """A queue and the number of its jobs in each state.

    Each number is counted up to 10,000. With more than two queues the limit is 20,000 divided by
    their number, but at least 500.

    :param name: the queue's name.
    :param paused_at: since when it is paused; ``None``: it is not.
    :param available: jobs that can start now.
    :param scheduled: jobs whose time has not come.
    :param retryable: failed jobs that wait for their next attempt.
    :param blocked: jobs that wait for a job that they depend on.
    :param executing: running jobs.
    :param prefetched: jobs that a worker has claimed and that wait for a slot. In a stream of short
        jobs they are counted as executing.
    :param discarded: jobs that failed for good and are not archived yet.
    :param oldest_due_seconds: how long the oldest job that can start has been due; ``None``: no job
        can start.
    :param capped: whether a number reached the limit and the true one may be larger.
    """

    name: str
    paused_at: datetime | None
    available: int
    scheduled: int
    retryable: int
    blocked: int
    executing: int
    prefetched: int
    discarded: int
    oldest_due_seconds: float | None
    capped: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitInfo:
    """The limits of a task, and how much of them is in use.

    :param task: the task's name.
    :param max_concurrency: the most jobs at once that applies; ``None``: no such limit.
    :param rate_per_minute: the most starts in a minute that applies; ``None``: no such limit.
    :param declared_max_concurrency: what the code of the worker that started last declares.
    :param declared_rate_per_minute: likewise.
    :param set_max_concurrency: what ``set_limit`` has set; it applies instead of the declared one.
    :param set_rate_per_minute: likewise.
    :param limit_by: the field of args by whose values the limits apply; ``"()"``: a function;
        ``None``: they apply to all jobs of the task together.
    :param executing: jobs of the task that workers hold now, of all keys.
    :param started: starts of the task that were counted in the last minute, of all keys; 0 without
        a rate.
    """

    task: str
    max_concurrency: int | None
    rate_per_minute: int | None
    declared_max_concurrency: int | None
    declared_rate_per_minute: int | None
    set_max_concurrency: int | None
    set_rate_per_minute: int | None
    limit_by: str | None
    executing: int
    started: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerInfo:
    """A worker, as of its last heartbeat.

    :param id: of this run; a restarted worker has another.
    :param name: host and process id.
    :param queues: the queues that it serves.
    :param concurrency: the most jobs that it runs at once, of all queues.
    :param started_at: when it registered.
    :param heartbeat_at: its last heartbeat.
    :param heartbeat_interval: seconds between two heartbeats; ``None``: not known.
    :param expires_at: when it is considered dead without another heartbeat.
    :param executing: jobs that it runs now, by their rows.
    :param prefetched: jobs that it has claimed and that wait for a slot, as in `QueueInfo`.
    :param tasks: the tasks that it has handlers for.
    :param version: of Roost.
    :param driver: ``psycopg`` or ``asyncpg``.
    :param event_loop: ``asyncio``, ``uvloop`` or ``trio``.
    :param host: the name of its host.
    :param pid: its process id there.
    :param running: jobs in its slots at the last heartbeat, by its own count.
    :param waiting: claimed jobs that waited for a slot then.
    :param loop_lag: by how many seconds its event loop was late at most, between the last two
        heartbeats. It is measured twice a second.
    :param slots: the slots of each queue; ``None``: its queues share all of them.
    """

    id: int
    name: str
    queues: list[str]
    concurrency: int
    started_at: datetime
    heartbeat_at: datetime
    heartbeat_interval: float | None
    expires_at: datetime
    executing: int
    prefetched: int
    tasks: list[str]
    version: str | None
    driver: str | None
    event_loop: str | None
    host: str | None
    pid: int | None
    running: int
    waiting: int
    loop_lag: float
    slots: dict[str, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskInfo:
    """A task that a worker has, or had, a handler for.

    :param name: the task's name.
    :param options: what its ``@job`` declares of ``queue``, ``priority``, ``max_attempts``,
        ``tags`` and ``timeout_seconds``; what is missing has the usual default.
    :param args_schema: the JSON Schema of its args, from ``args_model`` or the annotations of its
        function; ``None``: they don't give one.
    :param max_concurrency: the most jobs at once that applies; ``None``: no such limit.
    :param rate_per_minute: the most starts in a minute that applies; ``None``: no such limit.
    :param limit_by: as in `LimitInfo`.
    :param workers: how many living workers have a handler for it.
    :param queues: the queues that these workers serve.
    """

    name: str
    options: dict[str, Any]
    args_schema: dict[str, Any] | None
    max_concurrency: int | None
    rate_per_minute: int | None
    limit_by: str | None
    workers: int
    queues: list[str]


@dataclass(frozen=True)
class JobOutcome(Generic[R]):
    """How a job ended.

    Its type parameter is the type of ``result`` for type checkers; write it where you wait:
    ``outcome: JobOutcome[int] = await client.wait_for(job_id)``. The default is ``Any``.

    :param id: the job's id.
    :param state: ``completed``, ``discarded`` or ``cancelled``.
    :param result: what the handler returned, after a round trip through JSON.
    :param errors: one record for each failed attempt, oldest first.
    """

    id: int
    state: str
    result: R | None
    errors: list[dict[str, Any]]


WorkerPhase = Literal["not started", "starting", "running", "stopping", "ended", "crashed"]
"""How far a call of `Worker.run` is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerHealth:
    """Whether a worker is alive and ready, from what it knows; see `Worker.health`.

    Ages are in seconds; ``None``: it has not happened yet.

    :param live: ``False``: only a restart of the process helps. A database that is away does not
        make it ``False``.
    :param ready: whether the worker would start a due job now.
    :param phase: ``"not started"``, ``"starting"``, ``"running"``, ``"stopping"``, ``"ended"`` or
        ``"crashed"``.
    :param reasons: why it is not alive or not ready, as sentences. Empty: it is ready.
    :param warnings: what is wrong although it works.
    :param worker_id: its id in ``roost.workers``; ``None``: it does not run.
    :param running: jobs that run.
    :param slots: the most jobs that may run at once.
    :param prefetched: claimed jobs that wait for a slot.
    :param unwritten: ended jobs whose results are not written yet.
    :param listening: whether notifications of new jobs arrive.
    :param heartbeat_age_seconds: since the last heartbeat that was written.
    :param claim_age_seconds: since the last answer to a claim of jobs. No job is claimed while all
        slots are taken.
    :param loop_age_seconds: since the worker's timer last ran, which it does every half second.
    """

    live: bool
    ready: bool
    phase: WorkerPhase
    reasons: list[str]
    warnings: list[str]
    worker_id: int | None
    running: int
    slots: int
    prefetched: int
    unwritten: int
    listening: bool
    heartbeat_age_seconds: float | None
    claim_age_seconds: float | None
    loop_age_seconds: float | None
