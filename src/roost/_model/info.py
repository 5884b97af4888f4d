"""What clients return about queues, workers and ended jobs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic

from typing_extensions import TypeVar

R = TypeVar("R", default=Any)


# A dataclass of the standard library, like all that clients return: pydantic and FastAPI dump it.
@dataclass(frozen=True, kw_only=True, slots=True)
class QueueInfo:
    """What waits and runs in a queue.

    Each number is counted up to 10,000. With more than five queues it is 50,000 divided by their
    number, and 1,000 at least.

    :param paused_at: since when nothing is claimed from it; ``None``: it is not paused.
    :param available: jobs that can start now.
    :param scheduled: jobs whose time has not come.
    :param retryable: failed jobs that wait for their next attempt.
    :param blocked: jobs that wait for their parents.
    :param executing: jobs that run.
    :param prefetched: jobs that a worker has claimed and that wait for a slot of it; in a stream of
        short jobs they are counted as executing.
    :param discarded: jobs that failed for good and are not archived yet.
    :param oldest_due_seconds: how long the oldest job that can start has been due; ``None``: no
        job can start.
    :param capped: whether one of the numbers was not counted to its end, and may be larger.
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
class WorkerInfo:
    """A worker as its last heartbeat left it.

    :param id: of this incarnation; a restarted worker has another.
    :param name: host and process id.
    :param expires_at: when it counts as dead unless it is heard of.
    :param executing: how many jobs it runs.
    :param prefetched: how many it has claimed that wait for a slot, as in `QueueInfo`.
    :param tasks: what it has handlers for.
    :param version: of Roost.
    :param driver: ``psycopg`` or ``asyncpg``.
    :param event_loop: ``asyncio``, ``uvloop`` or ``trio``.
    """

    id: int
    name: str
    queues: list[str]
    concurrency: int
    started_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    executing: int
    prefetched: int
    tasks: list[str]
    version: str | None
    driver: str | None
    event_loop: str | None


@dataclass(frozen=True)
class JobOutcome(Generic[R]):
    """How a job ended.

    Its type parameter is what ``result`` is, for type checkers; say it where you wait, as in
    ``outcome: JobOutcome[int] = await client.wait_for(job_id)``. Otherwise it is ``Any``.

    :param state: ``completed``, ``discarded`` or ``cancelled``.
    :param result: what the handler returned, as JSON gives it back.
    :param errors: one record a failed attempt, oldest first.
    """

    id: int
    state: str
    result: R | None
    errors: list[dict[str, Any]]
