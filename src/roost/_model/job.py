"""A job as users see it: the row, what they submit, and how it ended."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic

import attrs
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeVar

R = TypeVar("R", default=Any)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""When a `Job` that a test makes is due, unless the test says otherwise."""


class _DefaultText(str):
    """A signature's default that can be told from the same value given on purpose."""

    __slots__ = ()


class _DefaultInt(int):
    """A signature's default that can be told from the same value given on purpose."""

    __slots__ = ()


DEFAULT_QUEUE: Final[str] = _DefaultText("default")
DEFAULT_PRIORITY: Final[int] = _DefaultInt(0)
DEFAULT_MAX_ATTEMPTS: Final[int] = _DefaultInt(20)


def is_default(value: object) -> bool:
    """Say whether ``value`` is a signature's default, and not an equal value that was passed."""
    return isinstance(value, (_DefaultText, _DefaultInt))


class Job(BaseModel):
    """A row of ``roost.jobs``: a read-only view, made by Roost.

    Times are aware datetimes in UTC. ``errors`` holds one record a failed attempt, oldest first:
    ``{"attempt": 1, "at": "…", "started_at": "…", "worker_id": 7, "worker": "host:pid",
    "error": "ValueError: …", "trace": "…"}``.

    A test of yours can make one: ``Job(id=1, task="send")``. The defaults are for that; a job from
    the database has all its fields.
    """

    model_config = ConfigDict(frozen=True)

    id: int
    queue: str = "default"
    task: str
    args: dict[str, Any] = Field(default_factory=dict)
    state: str = "available"
    priority: int = 0
    attempt: int = 0
    max_attempts: int = 20
    scheduled_at: datetime = EPOCH
    attempted_at: datetime | None = None
    completed_at: datetime | None = None
    cancelled_at: datetime | None = None
    discarded_at: datetime | None = None
    errors: list[dict[str, Any]] = Field(default_factory=list)
    unique_key: str | None = None
    inserted_at: datetime = EPOCH
    tags: list[str] = Field(default_factory=list)
    timeout_seconds: int | None = None
    cancel_requested: bool = False
    result: Any | None = None
    depends_on: list[int] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)


# Not frozen: to make one would take three times as long, a third of a bulk's row in the client (2.9
# instead of 1.0 µs on a slow machine, November 2026).
@attrs.define
class JobInsert:
    """One job to enqueue, for `AsyncRoost.enqueue_many`.

    :param task: the registered name of the task.
    :param args: the handler's keyword arguments: a dict, or a pydantic model.
    :param queue: where it waits.
    :param priority: smaller runs first.
    :param max_attempts: how often it may be started before it is discarded, ≥ 1.
    :param scheduled_at: not before this time (aware); ``None``: now, by the database's clock.
    :param unique_key: at most one active job has a given key.
    :param tags: words to find it by.
    :param timeout_seconds: how long one attempt may run, whole seconds ≥ 1; ``None``: no limit.
    :param depends_on: ids of jobs that must be completed first.
    :param metadata: JSON that isn't handler input: trace ids, tenant ids.

    A task's own defaults (``@job(...)``) fill what is not passed here.
    """

    task: str
    args: dict[str, Any] | BaseModel | None = None
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    scheduled_at: datetime | None = None
    unique_key: str | None = None
    tags: list[str] | None = None
    timeout_seconds: int | None = None
    depends_on: list[int] | None = None
    metadata: dict[str, Any] | None = None


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
