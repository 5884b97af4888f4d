"""Cron entries: which job to enqueue, and when."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

import attrs

from roost._model.codec import EncodingError, encode
from roost._model.functions import location, takes
from roost._model.job import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    JobInsert,
    checked_columns,
)
from roost._model.schedule import Schedule
from roost._model.validate import DEFAULT_MAX_ARGS_BYTES, check_name
from roost._model.verdict import error_record
from roost.exceptions import InvalidSettingError

Misfire: TypeAlias = Literal["skip", "last", "all"]
Overlap: TypeAlias = Literal["allow", "skip"]
CronSource: TypeAlias = Literal["code", "database"]
MakeArgs: TypeAlias = Callable[[datetime], dict[str, Any]]
"""Makes a job's args from its tick, an aware datetime in the entry's time zone."""

MAX_JITTER = 366 * 86_400.0
"""Seconds. Postgres refuses times outside its calendar."""


@attrs.frozen
class CronEntry:
    """A task that is enqueued on a schedule.

    :param name: identifies the entry, in the database too; keep it stable.
    :param expression: five cron fields, or six with seconds last.
    :param task: the registered name of the task.
    :param args: the handler's keyword arguments; or a plain function that returns them for a tick
        (an aware datetime in the entry's time zone). The worker that fires calls it in a thread.
    :param queue: the queue that its jobs wait in.
    :param priority: jobs with a smaller number run first.
    :param max_attempts: attempts after which a failed job is discarded, ≥ 1.
    :param timezone_name: IANA name of the time zone of the expression; ``None``: UTC.
    :param misfire: for ticks that were due while no worker ran: ``"skip"`` them, fire the
        ``"last"`` one, or ``"all"``, the newest hundred at most.
    :param jitter: longest random delay of a job after its tick, in seconds, ≥ 0.
    :param overlap: ``"skip"`` fires nothing while the last tick's job has not ended, and never two
        jobs at once.
    :param run_on_start: whether one more job is enqueued when the first worker that has the entry
        starts: once for all workers, and again after all of them have stopped.
    :raises InvalidSettingError: a value is not valid; the message names it.
    """

    name: str
    expression: str
    task: str
    args: dict[str, Any] | MakeArgs = attrs.field(factory=dict)
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timezone_name: str | None = None
    misfire: Misfire = attrs.field(default="last", kw_only=True)
    jitter: float = attrs.field(default=0.0, kw_only=True)
    overlap: Overlap = attrs.field(default="allow", kw_only=True)
    run_on_start: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        error = InvalidSettingError
        check_name("the name of a cron entry", self.name, error=error)
        checked_columns(self, error=error)
        if self.misfire not in get_args(Misfire):
            raise error(f"misfire must be one of {get_args(Misfire)}, not {self.misfire!r}")
        if self.overlap not in get_args(Overlap):
            raise error(f"overlap must be one of {get_args(Overlap)}, not {self.overlap!r}")
        is_number = isinstance(self.jitter, (int, float)) and not isinstance(self.jitter, bool)
        if not is_number or not 0 <= self.jitter <= MAX_JITTER:
            raise error(f"jitter must be seconds from 0 to {MAX_JITTER:.0f}, not {self.jitter!r}")
        if not isinstance(self.run_on_start, bool):
            raise error(f"run_on_start must be a bool, not {self.run_on_start!r}")
        if not callable(self.args):
            encode_args(self, self.args)
        elif inspect.iscoroutinefunction(self.args):
            raise error(f"args of cron entry {self.name!r} must be a plain function, not async")
        elif not takes(self.args, 1):
            raise error(
                f"args of cron entry {self.name!r} is called with the tick, and "
                f"{location(self.args)} can't be"
            )
        # Last, since it is the slowest check.
        self.schedule()

    def schedule(self) -> Schedule:
        """Return the schedule that computes its ticks."""
        return Schedule(self.expression, self.timezone_name)

    def next_after(self, moment: datetime) -> datetime:
        """Return the first tick after ``moment``, in UTC. A tick at ``moment`` itself is not after.

        For example:

            from datetime import UTC, datetime

            entry = CronEntry("nightly", "0 3 * * *", "report", timezone_name="Europe/Berlin")
            print(entry.next_after(datetime.now(UTC)))

        :param moment: an aware datetime, in any time zone.
        :raises InvalidSettingError: ``moment`` is not an aware datetime.
        """
        if not isinstance(moment, datetime) or moment.utcoffset() is None:
            raise InvalidSettingError(f"moment must be a datetime with a time zone, not {moment!r}")
        return self.schedule().next_after(moment)

    def job(self) -> JobInsert:
        """Return the job that each tick enqueues, without args if a function makes them."""
        return JobInsert(
            self.task,
            {} if callable(self.args) else self.args,
            queue=self.queue,
            priority=self.priority,
            max_attempts=self.max_attempts,
        )


def encode_args(entry: CronEntry, args: object) -> str:
    """Return the args of an entry as JSON text.

    :raises InvalidSettingError: they are no dict, can't be stored, or are too large.
    """
    if not isinstance(args, dict):
        raise InvalidSettingError(f"args must be a dict, not {type(args).__name__}")
    try:
        text = encode(args)
    except EncodingError as refused:
        raise InvalidSettingError(
            f"args of cron entry {entry.name!r} can't be stored: {refused}"
        ) from refused
    size = len(text.encode())
    if size > DEFAULT_MAX_ARGS_BYTES:
        raise InvalidSettingError(
            f"args of cron entry {entry.name!r} are {size:,} bytes of JSON, above "
            f"{DEFAULT_MAX_ARGS_BYTES:,}"
        )
    return text


def make_args(entry: CronEntry, make: MakeArgs, tick: datetime) -> str:
    """Call an entry's function for a tick, and return the args as JSON text.

    :raises InvalidSettingError: the function raised, or its args can't be stored.
    """
    try:
        made = make(tick.astimezone(entry.schedule().zone))
    except Exception as error:
        raise InvalidSettingError(
            f"the args function of cron entry {entry.name!r} raised {error_record(error)['error']}"
        ) from error
    return encode_args(entry, made)


def source_text(make: MakeArgs) -> str:
    """Return what identifies an args function in a declaration: its source, or else its name."""
    try:
        return inspect.getsource(make)
    except (OSError, TypeError):
        return f"{getattr(make, '__module__', '')}.{getattr(make, '__qualname__', type(make))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CronInfo:
    """A cron entry as stored in the database. Its other fields are as in `CronEntry`.

    :param source: ``"code"``: workers declare it; ``"database"``: `AsyncRoost.add_cron` added it.
    :param description: the expression in words, in English.
    :param args: empty if a function makes them; see ``args_from_code``.
    :param args_from_code: whether a function of the code makes the args of each tick.
    :param next_tick_at: when it fires next, unless it is paused or stale.
    :param last_tick_at: the newest tick that was fired.
    :param last_job_id: id of that tick's job.
    :param paused_at: since when it is paused; ``None``: it is not.
    :param stale: whether no running worker declares it any more, or, if its source is the database,
        knows its task and fires entries. So it does not fire.
    """

    name: str
    source: CronSource
    expression: str
    description: str
    timezone_name: str | None
    task: str
    queue: str
    args: dict[str, Any]
    priority: int
    max_attempts: int
    misfire: str
    overlap: str
    jitter: float
    run_on_start: bool
    args_from_code: bool
    next_tick_at: datetime
    last_tick_at: datetime | None
    last_job_id: int | None
    paused_at: datetime | None
    stale: bool
