"""The columns of a job: the row, the job to enqueue, a task's defaults, and a check for each.

To add a column, add it here, to `AsyncRoost.enqueue` and to the comparison in `encoding`; to
``@job`` and ``@cron`` too, if a task can have a default for it; and in ``_sql`` and ``_ops``. Tests
compare these lists. The encoding, the merging of defaults and the blocking client read the lists of
this file.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypedDict, cast

import attrs
from pydantic import BaseModel, ConfigDict, Field

from roost._model.job_metadata import (
    MetadataWriter,
    encoded_changes,
    metadata_writer,
    progress_changes,
)
from roost._model.limits import LimitBy, check_limit_by, check_limits
from roost._model.unique import Seconds, UniqueBy, UniqueWhile
from roost._model.validate import (
    MAX_INT,
    MAX_KEY,
    check_dict,
    check_ids,
    check_int,
    check_name,
    check_tags,
    check_time,
)
from roost.exceptions import InvalidJobError, InvalidSettingError, NoCurrentJobError, RoostError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""The times of a `Job` that a test creates without them."""


class _DefaultText(str):
    """A signature's default, distinct from an equal value that a caller passed."""

    __slots__ = ()


class _DefaultInt(int):
    """A signature's default, distinct from an equal value that a caller passed."""

    __slots__ = ()


DEFAULT_QUEUE: Final[str] = _DefaultText("default")
DEFAULT_PRIORITY: Final[int] = _DefaultInt(0)
DEFAULT_MAX_ATTEMPTS: Final[int] = _DefaultInt(20)
DEFAULT_UNIQUE_WHILE: Final[UniqueWhile] = cast("UniqueWhile", _DefaultText("active"))


def default_number(value: int) -> int:
    """Return a number that `is_default` knows from an equal one that was passed."""
    return _DefaultInt(value)


def is_default(value: object) -> bool:
    """Return whether ``value`` is a signature's default, not an equal value that was passed."""
    return isinstance(value, (_DefaultText, _DefaultInt))


class Job(BaseModel):
    """A row of ``roost.jobs``, as a read-only view.

    Times are aware datetimes in UTC. ``errors`` has one record for each failed attempt, oldest
    first:
    ``{"attempt": 1, "at": "…", "started_at": "…", "worker_id": 7, "worker": "host:pid",
    "error": "ValueError: …", "trace": "…"}``.

    The running job's handler can write into its row with `progress` and `update_metadata`.

    The defaults are for tests, which can write ``Job(id=1, task="send")``. A job from the database
    has all fields.
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

    async def progress(
        self, value: float, *, total: float | None = None, message: str | None = None
    ) -> None:
        """Show in the running job's row how far its work is.

        For example:

            @job("import_rows")
            async def import_rows(count: int) -> None:
                for n in range(count):
                    await current_job().progress(n + 1, total=count, message="importing")

        Until the next call ``metadata["progress"]`` of the row is
        ``{"value": 3, "total": 10, "message": "importing"}``. Call it as often as you like: a job
        is written at most four times a second, with the newest values, and always once more
        before its end. A call returns when its values are written, or at once if another write
        was made a moment ago. While the database does not answer, the call does not wait for it.

        Works in the job's own handler and hooks. From a handler's thread or process call
        `progress_nowait`. A cancel of the call leaves the row as it was, or changed whole; the
        values may still be written.

        :param value: how much is done, in a unit of your own; finite.
        :param total: the value at the end, if it is known; finite.
        :param message: what is being done.
        :raises InvalidJobError: a value can't be stored, or args and metadata together exceed the
            registry's ``max_args_bytes``.
        :raises LeaseLostError: the worker no longer holds the job: stop the work.
        :raises NoCurrentJobError: the job is not the one that runs here.
        """
        await _writer(self.id).write_progress(self.id, progress_changes(value, total, message))

    def progress_nowait(
        self, value: float, *, total: float | None = None, message: str | None = None
    ) -> None:
        """Do what `progress` does, and return at once: the values are written a moment later.

        For handlers in threads and processes; it works in coroutines too. From a process, values
        that the worker refuses are only logged.
        """
        _writer(self.id).write_nowait(self.id, progress_changes(value, total, message))

    async def update_metadata(self, changes: dict[str, Any]) -> None:
        """Set top-level keys of the running job's metadata, and keep the other keys.

        For example:

            @job("import_pages")
            async def import_pages() -> None:
                for page in range(current_job().metadata.get("page", 0), 10):
                    await current_job().update_metadata({"page": page + 1})

        The next attempt finds the values in ``current_job().metadata``. The call returns when they
        are written. Don't await it inside a transaction of your own that has locked the job's row:
        the write waits for the end of that transaction. A cancel is as for `progress`.

        :param changes: the keys to set, with JSON values; a value replaces the old one as a whole.
        :raises InvalidJobError: as for `progress`; or ``changes`` is not a dict.
        :raises LeaseLostError: the worker no longer holds the job; nothing was changed.
        :raises NoCurrentJobError: the job is not the one that runs here.
        :raises DatabaseUnavailableError: not written within 10 s; it may still be written.
        """
        await _writer(self.id).write(self.id, encoded_changes(changes))

    def update_metadata_nowait(self, changes: dict[str, Any]) -> None:
        """Do what `update_metadata` does, and return at once, as `progress_nowait` does."""
        _writer(self.id).write_nowait(self.id, encoded_changes(changes))


def _writer(job_id: int) -> MetadataWriter:
    try:
        return metadata_writer.get()
    except LookupError:
        raise NoCurrentJobError(
            f"job {job_id} does not run here: only its own handler can change its metadata"
        ) from None


# Not frozen: frozen, it takes three times as long to create (2.9 instead of 1.0 µs on a slow
# machine, November 2026), which is a third of the client's time for a row of a bulk.
@attrs.define
class JobInsert:
    """One job to enqueue, for `AsyncRoost.enqueue_many`.

    The task's own defaults (``@job(...)``) apply to what is not passed here.

    :param task: the registered name of the task.
    :param args: the handler's keyword arguments: a dict, or a pydantic model.
    :param queue: the queue that it waits in.
    :param priority: jobs with a smaller number run first.
    :param max_attempts: attempts after which a failed job is discarded, ≥ 1.
    :param scheduled_at: time before which it does not run (aware); ``None``: now, by the database's
        clock.
    :param schedule_in: seconds, or a timedelta, from now by the database's clock, instead of
        ``scheduled_at``.
    :param unique_key: a key that only one active job can have.
    :param unique_by: makes the key of the task and of ``"args"``, ``"args.<field>"`` or
        ``"queue"``, one or several.
    :param unique_while: ``"active"``, or ``"waiting"``: one may wait while one runs.
    :param unique_for: seconds, or a timedelta, for which the job keeps the key from its enqueue on,
        also when it has ended.
    :param tags: words to find it by.
    :param timeout_seconds: longest time of one attempt, whole seconds ≥ 1; ``None``: no limit.
    :param depends_on: ids of jobs that must complete first.
    :param metadata: JSON that is not handler input, such as trace ids and tenant ids.
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
    schedule_in: Seconds | None = None
    unique_by: UniqueBy | None = None
    unique_while: UniqueWhile = DEFAULT_UNIQUE_WHILE
    unique_for: Seconds | None = None


class CallOptions(TypedDict, total=False):
    """What `TaskCall.options` takes: the fields of `JobInsert` except task and args."""

    queue: str
    priority: int
    max_attempts: int
    scheduled_at: datetime | None
    unique_key: str | None
    tags: list[str] | None
    timeout_seconds: int | None
    depends_on: list[int] | None
    metadata: dict[str, Any] | None
    schedule_in: Seconds | None
    unique_by: UniqueBy | None
    unique_while: UniqueWhile
    unique_for: Seconds | None


@attrs.frozen
class TaskDefaults:
    """Per-task enqueue defaults declared on ``@job(...)``.

    The first five (``queue`` … ``timeout_seconds``) are merged into ``enqueue`` calls; explicit
    keywords always win. The limits (``rate_per_minute``, ``max_concurrency``) apply over all
    workers, to each value of ``limit_by`` by itself; the claim enforces them.

    :raises InvalidSettingError: a value is out of its range; the message names it.
    """

    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    tags: tuple[str, ...] | None = None
    timeout_seconds: int | None = None
    rate_per_minute: int | None = None
    max_concurrency: int | None = None
    limit_by: LimitBy | None = None

    def __attrs_post_init__(self) -> None:
        checked_columns(self, error=InvalidSettingError)
        check_limits(self.rate_per_minute, self.max_concurrency)
        check_limit_by(self.limit_by)


def _int_from(minimum: int) -> Callable[[str, object, type[RoostError]], None]:
    def check(what: str, value: object, error: type[RoostError]) -> None:
        # A plain int of most jobs costs no second call.
        if type(value) is not int or not minimum <= value <= MAX_INT:
            check_int(what, value, error, minimum=minimum)

    return check


_CHECKS: Final[dict[str, Callable[..., None]]] = {
    "task": check_name,
    "queue": check_name,
    "priority": _int_from(-MAX_INT),
    "max_attempts": _int_from(1),
    "scheduled_at": check_time,
    "tags": check_tags,
    "unique_key": partial(check_name, maximum=MAX_KEY),
    "timeout_seconds": _int_from(1),
    "depends_on": check_ids,
    "metadata": check_dict,
}
"""The check of each column: called with the column's name, the value and the error to raise."""


def check_column(name: str, value: object) -> None:
    """Refuse a value that can't be stored in the column ``name``.

    :raises InvalidJobError: see above; the message names the column.
    """
    _CHECKS[name](name, value, InvalidJobError)


def checked_columns(
    of: attrs.AttrsInstance, *, error: type[RoostError] = InvalidJobError
) -> dict[str, Any]:
    """Return the values of columns that are not null, by their names.

    Empty lists and dicts are stored as null.

    :param of: an attrs object some of whose fields are columns. A field's default is accepted as
        it is: most columns of most jobs have it, and this runs for each job.
    :raises RoostError: of the class ``error``: a value can't be stored; the message names the
        column.
    """
    read, columns = _columns_of(type(of))
    found = {}
    for (name, default, stored, check), value in zip(columns, read(of), strict=True):
        if value is default:
            if stored is not None:
                found[name] = stored
        else:
            check(name, value, error)
            if value or value == 0:
                found[name] = value
    return found


_Columns: TypeAlias = tuple[tuple[str, object, object, Callable[..., None]], ...]


@cache
def _columns_of(
    kind: type[attrs.AttrsInstance],
) -> tuple[Callable[[object], tuple[Any, ...]], _Columns]:
    """Return a getter of the columns of an attrs class, and for each column its name, its default,
    the default as a plain str or int (which is encoded faster), and its check.
    """
    fields = [field for field in attrs.fields(kind) if field.name in _CHECKS]
    columns = tuple(
        (field.name, field.default, _plain(field.default), _CHECKS[field.name]) for field in fields
    )
    return attrgetter(*(field.name for field in fields)), columns


def _plain(default: object) -> object:
    if isinstance(default, _DefaultText):
        return str(default)
    return int(default) if isinstance(default, _DefaultInt) else default
