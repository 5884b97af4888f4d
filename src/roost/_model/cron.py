"""Cron entries: which job to enqueue, and when."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

import attrs

from roost._model.codec import EncodingError, encode
from roost._model.job import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    JobInsert,
    checked_columns,
)
from roost._model.schedule import Schedule
from roost._model.validate import DEFAULT_MAX_ARGS_BYTES, check_name
from roost.exceptions import InvalidSettingError

Misfire: TypeAlias = Literal["skip", "last", "all"]
Overlap: TypeAlias = Literal["allow", "skip"]

MAX_JITTER = 366 * 86_400.0
"""Seconds. Postgres refuses times outside its calendar."""


@attrs.frozen
class CronEntry:
    """A task that is enqueued on a schedule.

    :param name: identifies the entry, in the database too; keep it stable.
    :param expression: five cron fields, or six with seconds last.
    :param task: the registered name of the task.
    :param args: the handler's keyword arguments.
    :param queue: the queue that its jobs wait in.
    :param priority: jobs with a smaller number run first.
    :param max_attempts: attempts after which a failed job is discarded, ≥ 1.
    :param timezone_name: IANA name of the time zone of the expression; ``None``: UTC.
    :param misfire: for ticks that were due while no worker ran: ``"skip"`` them, fire the
        ``"last"`` one, or ``"all"``, the newest hundred at most.
    :param jitter: longest random delay of a job after its tick, in seconds, ≥ 0.
    :param overlap: ``"skip"`` fires nothing while the last tick's job has not ended, and never two
        jobs at once.
    :raises InvalidSettingError: a value is not valid; the message names it.
    """

    name: str
    expression: str
    task: str
    args: dict[str, Any] = attrs.field(factory=dict)
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timezone_name: str | None = None
    misfire: Misfire = attrs.field(default="last", kw_only=True)
    jitter: float = attrs.field(default=0.0, kw_only=True)
    overlap: Overlap = attrs.field(default="allow", kw_only=True)

    def __attrs_post_init__(self) -> None:
        error = InvalidSettingError
        check_name("the name of a cron entry", self.name, error=error)
        checked_columns(self, error=error)
        if self.misfire not in get_args(Misfire):
            raise error(f"misfire must be one of {get_args(Misfire)}, not {self.misfire!r}")
        if self.overlap not in get_args(Overlap):
            raise error(f"overlap must be one of {get_args(Overlap)}, not {self.overlap!r}")
        if not isinstance(self.jitter, (int, float)) or not 0 <= self.jitter <= MAX_JITTER:
            raise error(f"jitter must be seconds from 0 to {MAX_JITTER:.0f}, not {self.jitter!r}")
        if not isinstance(self.args, dict):
            raise error(f"args must be a dict, not {type(self.args).__name__}")
        try:
            size = len(encode(self.args).encode())
        except EncodingError as refused:
            raise error(f"args of cron entry {self.name!r} can't be stored: {refused}") from refused
        if size > DEFAULT_MAX_ARGS_BYTES:
            raise error(
                f"args of cron entry {self.name!r} are {size:,} bytes of JSON, above "
                f"{DEFAULT_MAX_ARGS_BYTES:,}"
            )
        # Last, since it is the slowest check.
        self.schedule()

    def schedule(self) -> Schedule:
        """Return the schedule that computes its ticks."""
        return Schedule(self.expression, self.timezone_name)

    def job(self) -> JobInsert:
        """Return the job that each tick enqueues."""
        return JobInsert(
            self.task,
            self.args,
            queue=self.queue,
            priority=self.priority,
            max_attempts=self.max_attempts,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CronInfo:
    """A cron entry as stored in the database. Its other fields are as in `CronEntry`.

    :param next_tick_at: when it fires next, unless it is paused or stale.
    :param last_tick_at: the newest tick that was fired.
    :param last_job_id: id of that tick's job.
    :param paused_at: since when it is paused; ``None``: it is not.
    :param stale: whether no running worker declares it any more, so that it does not fire.
    """

    name: str
    expression: str
    timezone_name: str | None
    task: str
    queue: str
    args: dict[str, Any]
    priority: int
    max_attempts: int
    misfire: str
    overlap: str
    jitter: float
    next_tick_at: datetime
    last_tick_at: datetime | None
    last_job_id: int | None
    paused_at: datetime | None
    stale: bool
