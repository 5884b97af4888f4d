"""The errors that Roost raises, each with a stable ``code``.

Messages may change; codes do not. Only the drivers translate database errors into these.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar


class RoostError(Exception):
    """Base class for all Roost errors. Carries a stable ``code``."""

    code: ClassVar[str] = "roost.error"


class InvalidJobError(RoostError, ValueError):
    """An argument of an enqueue, or of another client verb, can't be stored or is out of its range.

    The message names the argument and what is accepted. The database was not used, so the caller's
    transaction is unharmed.
    """

    code: ClassVar[str] = "roost.invalid-job"


class InvalidSettingError(RoostError, ValueError):
    """A parameter of a worker, client or decorator is out of its range; the message names it."""

    code: ClassVar[str] = "roost.invalid-setting"


class DuplicateTaskError(RoostError, ValueError):
    """A registry already has another function under this task name, or another such cron entry."""

    code: ClassVar[str] = "roost.duplicate-task"


class NotInTransactionError(RoostError, ValueError):
    """``conn=`` got a connection that is in no transaction and commits by itself (autocommit).

    A later rollback would not have undone the call, so nothing was changed. Begin a transaction.
    The methods that enqueue also accept ``transactional=False``.
    """

    code: ClassVar[str] = "roost.not-in-transaction"


class DuplicateUniqueJobError(RoostError):
    """An active job already has the ``unique_key`` of the job that was enqueued or retried.

    Nothing was changed, and the caller's transaction stays usable. A test can create this error
    with a message alone.

    :ivar unique_key: the key.
    :ivar existing_id: id of the active job.
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
    """``depends_on`` names a job that does not exist; nothing was inserted."""

    code: ClassVar[str] = "roost.unknown-parent"


class JobBlockedError(RoostError):
    """`AsyncRoost.run_now` was called for a job that waits for other jobs; nothing was changed.

    Wait for them, or cancel them: that cancels this job too.

    :ivar job_id: the job's id.
    :ivar parents: ids of the jobs that it waits for.
    """

    code: ClassVar[str] = "roost.job-blocked"

    def __init__(self, job_id: int, parents: Sequence[int] = ()) -> None:
        super().__init__(f"job {job_id} can't run now: it waits for the jobs {list(parents)}")
        self.job_id = job_id
        self.parents = list(parents)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job_id, self.parents)


class FilterTooSlowError(RoostError):
    """No index helps to find the jobs of a filter, and to search all would take too long.

    Nothing was changed by this search; batches before it stay. Pass a filter that narrows the
    search: states other than completed and cancelled, queues of waiting jobs, ids, or a time of
    the jobs' end.
    """

    code: ClassVar[str] = "roost.filter-too-slow"


class CronNotFoundError(RoostError):
    """No cron entry has the given name."""

    code: ClassVar[str] = "roost.cron-not-found"


class CronDeclaredError(RoostError):
    """Code declares the cron entry, so it can't be added, replaced or removed at run time.

    Change or remove it in the code, or pause it.
    """

    code: ClassVar[str] = "roost.cron-declared"


class JobFailed(RoostError, RuntimeError):  # noqa: N818  (the name is on the API page)
    """A job ended in ``discarded`` or ``cancelled``.

    `AsyncRoost.wait_for` raises it. An ``after_job`` hook gets it for a job that was cancelled.

    :ivar job_id: the job's id.
    :ivar state: ``discarded`` or ``cancelled``.
    :ivar errors: one record for each failed attempt, oldest first.
    """

    code: ClassVar[str] = "roost.job-failed"

    def __init__(self, job_id: int, state: str, errors: list[dict[str, Any]] | None = None) -> None:
        state = str(getattr(state, "value", state))  # a JobState becomes its text
        last = f": {errors[-1].get('error')}" if errors else ""
        super().__init__(f"job {job_id} was {state}{last}")
        self.job_id = job_id
        self.state = state
        self.errors = errors or []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job_id, self.state, self.errors)


class JobTimeoutError(RoostError, TimeoutError):
    """An attempt exceeded the job's ``timeout_seconds``, or `AsyncRoost.wait_for` its ``timeout``.

    Of an attempt: the job's error record names it and an ``after_job`` hook gets it; the handler is
    cancelled and never sees it. Of `AsyncRoost.wait_for`: the caller gets it and the job goes on.
    """

    code: ClassVar[str] = "roost.job-timeout"


class PauseNotConfirmedError(RoostError, TimeoutError):
    """A queue is paused, but some workers did not confirm it within the timeout.

    They may still start jobs that they had claimed before the pause, and no others. A killed worker
    is among them until its row expires. Call `AsyncRoost.pause_queue` again, or look at the
    heartbeats in `AsyncRoost.list_workers`.

    :ivar queue: the paused queue.
    :ivar workers: names of the workers that did not confirm.
    """

    code: ClassVar[str] = "roost.pause-not-confirmed"

    def __init__(self, message: str, queue: str = "", workers: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.queue = queue
        self.workers = list(workers)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.queue, self.workers)


class SnoozeJob(RoostError):  # noqa: N818  (the name is on the API page)
    """Raise inside a job handler to reschedule the job without counting it as a failure.

    The attempt is not counted and no error is recorded.

    For example:

        raise SnoozeJob(60)  # the rate limit of the API resets within a minute

    :param seconds: seconds until the job is available again, ≥ 0 and finite, or a timedelta.
    :raises TypeError: ``seconds`` has another type.
    :raises ValueError: ``seconds`` is negative, infinite or NaN.

    :ivar seconds: the parameter, in seconds.
    """

    code: ClassVar[str] = "roost.snooze-job"

    def __init__(self, seconds: float | timedelta) -> None:
        self.seconds = _checked_seconds("seconds", seconds)
        super().__init__(f"snoozed for {self.seconds} s")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds,)


class CancelJob(RoostError):  # noqa: N818  (like SnoozeJob)
    """Raise inside a job handler to cancel the running job: its work is no longer wanted.

    The job becomes ``cancelled``. Its error record keeps the reason, and jobs that depend on it are
    cancelled too.

    For example:

        raise CancelJob("the customer has closed the account")

    :param reason: why, for the error record; or an exception, whose class and text are kept.
    :raises TypeError: ``reason`` is neither.

    :ivar reason: the text.
    """

    code: ClassVar[str] = "roost.cancel-job"

    def __init__(self, reason: str | BaseException = "") -> None:
        self.reason = _checked_reason(reason)
        super().__init__(*_as_args(self.reason))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


class DiscardJob(RoostError):  # noqa: N818  (like SnoozeJob)
    """Raise inside a job handler when the job has failed and another attempt can't succeed.

    The job becomes ``discarded`` at once, whatever attempts are left. Its error record keeps the
    reason, and jobs that depend on it are cancelled.

    For example:

        raise DiscardJob("the file is no image")

    :param reason: why, for the error record; or an exception, whose class and text are kept.
    :raises TypeError: ``reason`` is neither.

    :ivar reason: the text.
    """

    code: ClassVar[str] = "roost.discard-job"

    def __init__(self, reason: str | BaseException = "") -> None:
        self.reason = _checked_reason(reason)
        super().__init__(*_as_args(self.reason))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


class RetryJob(RoostError):  # noqa: N818  (like SnoozeJob)
    """Raise inside a job handler to fail this attempt and to say when the next one is due.

    The attempt counts and leaves an error record with the reason. Without attempts left the job is
    discarded. `SnoozeJob` waits without counting the attempt.

    For example:

        raise RetryJob("the service is busy", in_=60)

    :param reason: why, for the error record; or an exception, whose class and text are kept.
    :param in_: seconds until the next attempt, ≥ 0 and finite, or a timedelta; ``None``: as long as
        the retry strategy says.
    :raises TypeError: a parameter has another type.
    :raises ValueError: ``in_`` is negative, infinite or NaN.

    :ivar reason: the text.
    :ivar in_: the parameter, in seconds.
    """

    code: ClassVar[str] = "roost.retry-job"

    def __init__(
        self, reason: str | BaseException = "", *, in_: float | timedelta | None = None
    ) -> None:
        if isinstance(reason, (int, float, timedelta)):
            raise TypeError(f"reason must be text, not {reason!r}: pass a wait as in_={reason!r}")
        self.reason = _checked_reason(reason)
        super().__init__(*_as_args(self.reason))
        self.in_ = None if in_ is None else _checked_seconds("in_", in_)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_retry, (type(self), self.reason, self.in_)


class InvalidArgsError(RoostError, ValueError):
    """A job's args don't fit its handler, so the handler was not called.

    A name has no parameter, a parameter has no value, or the ``args_model`` refuses a value; the
    message says which. The job is discarded at its first attempt, since another one would fail in
    the same way. Enqueue it again with other args; or deploy a handler that takes them, and revive
    the job with `AsyncRoost.retry`. A worker with ``retry_invalid_args=True`` retries such jobs.
    """

    code: ClassVar[str] = "roost.invalid-args"


class UnknownTaskError(RoostError):
    """A function that is enqueued, or a task that is looked up, is not in the registry.

    An enqueue by name never raises it, since a producer needs no handlers. A worker raises nothing
    either: it leaves jobs of tasks that it does not know to other workers, since old and new
    workers run side by side during a deployment.
    """

    code: ClassVar[str] = "roost.unknown-task"


class WorkerShutdown(RoostError):  # noqa: N818  (the name is on the API page)
    """The worker stopped and interrupted the running job, which will run again.

    An ``after_job`` hook gets it as ``error`` and can thereby tell an interrupted job, which has
    used no attempt, from a failed one. A handler never sees it: it sees the event loop's
    cancellation.
    """

    code: ClassVar[str] = "roost.worker-shutdown"


class HandlerProcessError(RoostError):
    """The process of a ``run_in="process"`` handler ended before it sent a result.

    The attempt failed; the message names the exit code or the signal.
    """

    code: ClassVar[str] = "roost.handler-process"


class WorkerCrashedError(RoostError):
    """A part of the worker ended unexpectedly, so the whole worker has stopped in its usual order.

    One cause is code in the same event loop that cancels all of the loop's tasks, or stops the
    loop. The worker's jobs were released for other workers. Restart the process.
    """

    code: ClassVar[str] = "roost.worker-crashed"


class WorkerNotRunningError(RoostError, RuntimeError):
    """Raised by calls that need a running worker, such as ``Worker.start_queue``.

    The worker has not registered yet, is stopping, or has stopped.
    """

    code: ClassVar[str] = "roost.worker-not-running"


class NoCurrentJobError(RoostError, LookupError):
    """`current_job` or `AsyncRoost.complete_current_job` was called outside a job."""

    code: ClassVar[str] = "roost.no-current-job"


class LeaseLostError(RoostError):
    """The worker no longer holds the running job's lease: roll back the job's effects.

    Another worker may run the job again, or it has ended.
    """

    code: ClassVar[str] = "roost.lease-lost"


class ClosedError(RoostError):
    """The client, pool, connection or listener for events is not open, and can't be used."""

    code: ClassVar[str] = "roost.closed"


class DatabaseError(RoostError):
    """Postgres refused a statement.

    :ivar sqlstate: the five-character error code, or ``None``.
    """

    code: ClassVar[str] = "roost.database"

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_database_error, (type(self), self.args[0], self.sqlstate)


class DatabaseUnavailableError(DatabaseError):
    """The database can't be used now; the same call may succeed later.

    The connection was lost, refused or timed out; or the server is restarting, full or read-only;
    or a deadlock or serialization failure undid the statement. It is unknown whether a statement
    that was in flight took effect.
    """

    code: ClassVar[str] = "roost.database-unavailable"


class JobLockedError(DatabaseUnavailableError):
    """Another transaction has locked a job for longer than the verb waits, 10 seconds.

    The job is unchanged. The same call may succeed later. If it does not, find the transaction in
    ``pg_stat_activity``.
    """

    code: ClassVar[str] = "roost.job-locked"


class SchemaError(DatabaseError):
    """The schema ``roost`` is missing, foreign, too old or too new, or the role lacks a privilege.

    Any call can raise it; nothing was changed. ``roost init`` or `AsyncRoost.setup_schema` creates
    the schema or upgrades it; a schema that is too new needs a newer Roost. For a missing privilege
    (``sqlstate`` 42501) the message names the role, the privilege and the object.
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


def _rebuild_retry(cls: type[RetryJob], reason: str, seconds: float | None) -> RetryJob:
    return cls(reason, in_=seconds)


def _checked_reason(reason: object) -> str:
    """Return the reason as text."""
    if isinstance(reason, BaseException):
        kind, text = type(reason).__qualname__, str(reason)
        return f"{kind}: {text}" if text else kind
    if not isinstance(reason, str):
        raise TypeError(f"reason must be text, not {reason!r}")
    return reason


def _as_args(reason: str) -> tuple[str, ...]:
    """Return the arguments of an exception with this reason: none for an empty text."""
    return (reason,) if reason else ()


def _checked_seconds(what: str, wait: object) -> float:
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} must be seconds or a timedelta, not {wait!r}")
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{what} must be finite and ≥ 0, not {wait!r}")
    return seconds
