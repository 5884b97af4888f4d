"""Every error that Roost raises on purpose, each with a stable ``code``.

Messages may change; codes do not. Driver errors become these in the driver and nowhere else.
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class RoostError(Exception):
    """Base class for all Roost errors. Carries a stable ``code``."""

    code: ClassVar[str] = "roost.error"


class InvalidJobError(RoostError, ValueError):
    """An argument of an enqueue can't be stored.

    Raised before the database, and so the caller's transaction, is touched. The message names the
    argument and what is accepted.
    """

    code: ClassVar[str] = "roost.invalid-job"


class InvalidSettingError(RoostError, ValueError):
    """A parameter of a worker, client or decorator is out of its range; the message names it."""

    code: ClassVar[str] = "roost.invalid-setting"


class DuplicateTaskError(RoostError, ValueError):
    """Two different functions were registered under one task name in one registry."""

    code: ClassVar[str] = "roost.duplicate-task"


class NotInTransactionError(RoostError, ValueError):
    """``conn=`` got a connection in autocommit mode and in no transaction.

    The job would be there at once, whatever happens next. Nothing was inserted.
    """

    code: ClassVar[str] = "roost.not-in-transaction"


class DuplicateUniqueJobError(RoostError):
    """An enqueue, or a retry, conflicts with an active job that has the same ``unique_key``.

    Nothing was changed, and the caller's transaction stays usable. ``existing_id`` is the active
    job's id. One that you make, in a test, needs no more than a message.
    """

    code: ClassVar[str] = "roost.duplicate-unique-job"

    def __init__(self, message: str = "", *, unique_key: str = "", existing_id: int = 0) -> None:
        super().__init__(message or f"job {existing_id} is active with unique_key {unique_key!r}")
        self.unique_key = unique_key
        self.existing_id = existing_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_duplicate, (type(self), self.args[0], self.unique_key, self.existing_id)


class JobNotFoundError(RoostError):
    """No job has the given id, neither live nor archived."""

    code: ClassVar[str] = "roost.job-not-found"


class UnknownParentError(JobNotFoundError):
    """``depends_on`` names a job that does not exist. Nothing was inserted."""

    code: ClassVar[str] = "roost.unknown-parent"


class CronNotFoundError(RoostError):
    """No cron entry has the given name."""

    code: ClassVar[str] = "roost.cron-not-found"


class JobFailed(RoostError, RuntimeError):  # noqa: N818  (the name is on the API page)
    """A job ended in ``discarded`` or ``cancelled``.

    `AsyncRoost.wait_for` raises it, and an ``after_job`` hook gets it for a job that was cancelled.
    """

    code: ClassVar[str] = "roost.job-failed"

    def __init__(self, job_id: int, state: str, errors: list[dict[str, Any]] | None = None) -> None:
        state = str(getattr(state, "value", state))  # of a JobState, its text
        last = f": {errors[-1].get('error')}" if errors else ""
        super().__init__(f"job {job_id} was {state}{last}")
        self.job_id = job_id
        self.state = state
        self.errors = errors or []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job_id, self.state, self.errors)


class JobTimeoutError(RoostError, TimeoutError):
    """An attempt took longer than the job's ``timeout_seconds``, or a wait longer than its timeout.

    The error record of an attempt names it, and an ``after_job`` hook gets it; a handler never sees
    it, for it is cancelled. `AsyncRoost.wait_for` raises it; the job goes on.
    """

    code: ClassVar[str] = "roost.job-timeout"


class PauseNotConfirmedError(RoostError, TimeoutError):
    """A queue is paused, but living workers have not confirmed it within the timeout.

    They may still start jobs that they had claimed before, and nothing else. A worker that was
    killed counts as living until its row expires. Wait and call `pause_queue` again, or see in
    `list_workers` whether they are heard of. ``queue`` and ``workers`` (names) say which.
    """

    code: ClassVar[str] = "roost.pause-not-confirmed"

    def __init__(self, message: str, queue: str = "", workers: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.queue = queue
        self.workers = list(workers)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.queue, self.workers)


class SnoozeJob(RoostError):  # noqa: N818  (the name is on the API page)
    """Raise inside a handler to reschedule the job without counting it as a failure.

    The attempt is given back, and no error is recorded.

    :param seconds: how long to wait until the job is available again, ≥ 0 and finite.
    :raises ValueError: ``seconds`` is negative, infinite or NaN.
    """

    code: ClassVar[str] = "roost.snooze-job"

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds must be finite and ≥ 0, not {seconds!r}")
        super().__init__(f"snoozed for {seconds} s")
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds,)


class UnknownTaskError(RoostError):
    """A task name, or a function, is not in the registry.

    An enqueue by function raises it; one by name does not, for a producer needs no handlers. A
    worker that meets a job of a task that it does not know leaves it to workers that know it, and
    raises nothing: while a new version is deployed, both kinds of workers run.
    """

    code: ClassVar[str] = "roost.unknown-task"


class WorkerShutdown(RoostError):  # noqa: N818  (the name is on the API page)
    """The worker stopped while the job ran, and interrupted it.

    Roost makes it inside; a handler sees its loop's cancellation, never this. An ``after_job`` hook
    gets it as ``error``, so that it can tell an interrupted job, which will run again and has used
    no attempt, from one that failed.
    """

    code: ClassVar[str] = "roost.worker-shutdown"


class HandlerProcessError(RoostError):
    """The process of a ``run_in="process"`` handler ended, or broke off, before it answered.

    The attempt failed by it; the message names the exit code or the signal.
    """

    code: ClassVar[str] = "roost.handler-process"


class WorkerCrashedError(RoostError):
    """A part of a worker ended though nothing had stopped it; the worker has stopped in order.

    For instance when code in the same event loop cancels all tasks of the loop, or stops it. Start
    the process anew; its jobs were handed back.
    """

    code: ClassVar[str] = "roost.worker-crashed"


class NoCurrentJobError(RoostError, LookupError):
    """`current_job` was called outside a job."""

    code: ClassVar[str] = "roost.no-current-job"


class LeaseLostError(RoostError):
    """The running job is somebody else's by now, or has ended: don't commit its effects."""

    code: ClassVar[str] = "roost.lease-lost"


class ClosedError(RoostError):
    """The client, pool or connection was closed and can't be used again."""

    code: ClassVar[str] = "roost.closed"


class DatabaseError(RoostError):
    """Postgres refused a statement. ``sqlstate`` is its five-character code, if it gave one."""

    code: ClassVar[str] = "roost.database"

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_database_error, (type(self), self.args[0], self.sqlstate)


class DatabaseUnavailableError(DatabaseError):
    """The same call may succeed later: the connection was lost, refused or timed out, the server is
    restarting, full or read-only, or a deadlock or serialization failure undid the statement.

    Whether a statement that was in flight took effect is unknown.
    """

    code: ClassVar[str] = "roost.database-unavailable"


class SchemaError(DatabaseError):
    """The schema is missing, not Roost's, too old or too new, or the role lacks a right in it.

    Any call raises it. ``roost init`` or `AsyncRoost.setup_schema` makes the schema and brings it
    up to date; one that is too new needs a newer Roost. For a missing right (``sqlstate`` 42501)
    the message names the role, the right and the object. Nothing was changed.
    """

    code: ClassVar[str] = "roost.schema"


def _rebuild_database_error(
    cls: type[DatabaseError], message: str, sqlstate: str | None
) -> DatabaseError:
    return cls(message, sqlstate=sqlstate)


def _rebuild_duplicate(
    cls: type[DuplicateUniqueJobError], message: str, unique_key: str, existing_id: int
) -> DuplicateUniqueJobError:
    return cls(message, unique_key=unique_key, existing_id=existing_id)
