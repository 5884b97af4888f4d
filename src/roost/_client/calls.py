"""A database call of a client, and those that enqueue jobs or wait for them.

Each function checks the arguments and returns the call to make. Both clients run these calls; they
differ only in how they wait. The other verbs are in ``reading_calls``, ``admin_calls`` and
``steering_calls``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from roost._client.enqueued import EnqueuedJobs, counted
from roost._drivers.base import CALL_TIMEOUT
from roost._model.encoding import Batch, encode_batch, encode_jobs
from roost._model.info import JobOutcome
from roost._model.job import JobInsert, is_default
from roost._model.registry import HandlerRegistry, with_defaults
from roost._model.states import JobState
from roost._model.task_call import TaskCall
from roost._model.unique import (
    BulkOnConflict,
    OnConflict,
    check_on_conflict,
    has_unique_options,
)
from roost._model.validate import MAX_ID
from roost._model.verdict import result_as_json
from roost._ops import read, schema
from roost._ops.enqueue import (
    insert_batch,
    insert_dependent,
    insert_homogeneous,
    insert_job,
    insert_returning_ids,
    insert_unique,
)
from roost._ops.query import Op
from roost._ops.settle import complete_now
from roost._worker.handlers.current import current_attempt
from roost.exceptions import (
    InvalidJobError,
    InvalidSettingError,
    JobFailed,
    JobNotFoundError,
    JobTimeoutError,
)

T = TypeVar("T")

BULK_TIMEOUT = 3_600.0
"""Seconds for a verb that changes any number of jobs in batches."""
UNDO_TIMEOUT = 5.0
"""Seconds to undo a call in the caller's transaction after a cancel, an interrupt or a deadline."""


@attrs.frozen
class DatabaseCall(Generic[T]):
    """An operation and how to run it.

    :param in_transaction: whether its statements are committed together.
    :param timeout: seconds for the whole operation.
    :param undo: for a change of several statements in the caller's transaction: undoes what is done
        of it if the operation is not run to its end.
    :param enqueues: what to count as enqueued when it has succeeded.
    """

    operation: Op[T]
    in_transaction: bool = False
    timeout: float = CALL_TIMEOUT
    undo: Callable[[], Op[None]] | None = None
    enqueues: EnqueuedJobs | None = None


def setup_schema() -> DatabaseCall[object]:
    """Apply the missing migrations."""
    return DatabaseCall(schema.apply(), in_transaction=True, timeout=schema.MIGRATION_TIMEOUT)


Task: TypeAlias = str | Callable[..., Any] | TaskCall[Any]
"""A task as ``enqueue`` accepts it: its name, its function, or a call of it."""


def name_of(registry: HandlerRegistry, task: Task) -> str:
    """Return the name of a task that is given as a name, a function or a call.

    :raises UnknownTaskError: a function is not in the registry.
    """
    if isinstance(task, TaskCall):
        task = task.func
    return registry.name_of(task) if callable(task) else task


def job_insert(registry: HandlerRegistry, task: Task, job: JobInsert) -> JobInsert:
    """Return the job with all options that it has in Python.

    :param job: has the options that the caller passed. Missing ones are taken from ``task``, if it
        is a call, and then from the task's defaults.
    """
    if isinstance(task, TaskCall):
        job = _fill_from_call(job, task)
    return _with_task_defaults(registry, job)


def enqueue(
    registry: HandlerRegistry,
    job: JobInsert,
    *,
    on_conflict: OnConflict,
    in_own_transaction: bool,
    carrier: Mapping[str, str],
) -> DatabaseCall[int]:
    """Insert one job.

    :param job: as `job_insert` returns it.
    :param on_conflict: what to do if another job has the key.
    :param in_own_transaction: whether the job is committed at once, so that it may be dispatched to
        a waiting worker.
    :param carrier: the headers of the job's trace, for its metadata.
    """
    check_on_conflict(on_conflict, [job], bulk=False, default="raise")
    record = encode_jobs([job], registry, carrier=carrier)
    parents = job.depends_on or ()
    if on_conflict == "replace" or has_unique_options(job):
        insert = _insert_unique(record, on_conflict, fills=job.task not in registry)
        return DatabaseCall(
            insert, in_transaction=bool(parents), enqueues={(job.queue, job.task): 1}
        )
    operation = insert_job(
        record,
        unique_key=job.unique_key,
        has_parents=bool(parents),
        dispatch=in_own_transaction and not parents,
        fills=job.task not in registry,
        return_holder=on_conflict == "return",
    )
    return DatabaseCall(
        operation, in_transaction=bool(parents), enqueues={(job.queue, job.task): 1}
    )


def _insert_unique(record: str, on_conflict: OnConflict, *, fills: bool) -> Op[int]:
    [job_id] = yield from insert_unique(record, on_conflict, fills=fills)
    assert job_id is not None, "only on_conflict='skip' leaves a job out"  # noqa: S101
    return job_id


def job_inserts(registry: HandlerRegistry, jobs: Iterable[JobInsert | Task]) -> list[JobInsert]:
    """Return several jobs with all options that they have in Python.

    :raises InvalidJobError: it is a single job, or an element is none.
    """
    return [
        _with_task_defaults(
            registry, job if isinstance(job, JobInsert) else _job_insert(registry, job)
        )
        for job in _as_list(jobs)
    ]


def _as_list(jobs: Iterable[JobInsert | Task]) -> list[JobInsert | Task]:
    one = isinstance(jobs, (str, JobInsert, TaskCall)) or not isinstance(jobs, Iterable)
    found = [] if one else list(jobs)
    for job in found:
        one = one or not (isinstance(job, (str, JobInsert, TaskCall)) or callable(job))
    if one:
        raise InvalidJobError("several jobs must be a list of JobInsert, calls, functions or names")
    return found


def enqueue_many(
    registry: HandlerRegistry,
    jobs: Sequence[JobInsert],
    *,
    on_conflict: BulkOnConflict,
    carrier: Mapping[str, str],
) -> DatabaseCall[Sequence[int | None]] | None:
    """Insert several jobs, all or none; ``None`` if ``jobs`` is empty."""
    bulk = _encode_bulk(registry, jobs, on_conflict, carrier)
    if bulk is None:
        return None
    text = bulk.batch.text
    if bulk.has_unique_options:
        operation: Op[Sequence[int | None]] = insert_unique(text, on_conflict, fills=bulk.fills)
    elif bulk.has_parents:
        operation = insert_dependent(text, fills=bulk.fills)
    else:
        operation = insert_batch(bulk.batch, fills=bulk.fills)
    return DatabaseCall(operation, in_transaction=bulk.has_parents, enqueues=bulk.enqueues)


def enqueue_all(
    registry: HandlerRegistry,
    jobs: Sequence[JobInsert],
    *,
    on_conflict: BulkOnConflict,
    carrier: Mapping[str, str],
) -> DatabaseCall[list[int | None]] | None:
    """Insert several jobs, all or none, and return the id of each."""
    bulk = _encode_bulk(registry, jobs, on_conflict, carrier)
    if bulk is None:
        return None
    text = bulk.batch.text
    if bulk.has_unique_options:
        operation = insert_unique(text, on_conflict, fills=bulk.fills)
    elif bulk.batch.homogeneous:
        keys = [job.unique_key for job in bulk.inserts]
        operation = insert_homogeneous(text, keys=keys, fills=bulk.fills)
    else:
        operation = insert_returning_ids(text, fills=bulk.fills)
    return DatabaseCall(operation, in_transaction=bulk.has_parents, enqueues=bulk.enqueues)


@attrs.frozen
class _Bulk:
    """Several jobs, encoded, and which insert they need.

    :param fills: whether the registry lacks the task of one of the jobs.
    """

    inserts: Sequence[JobInsert]
    batch: Batch
    has_parents: bool
    has_unique_options: bool
    fills: bool

    @property
    def enqueues(self) -> EnqueuedJobs:
        return counted(self.inserts, alike=self.batch.homogeneous)


def _encode_bulk(
    registry: HandlerRegistry,
    inserts: Sequence[JobInsert],
    on_conflict: BulkOnConflict,
    carrier: Mapping[str, str],
) -> _Bulk | None:
    check_on_conflict(on_conflict, inserts, bulk=True, default="skip")
    if not inserts:
        return None
    if on_conflict == "skip":
        batch = encode_batch(inserts, registry, carrier=carrier)
        unique = not batch.homogeneous and any(map(has_unique_options, inserts))
    else:
        batch = Batch(encode_jobs(inserts, registry, carrier=carrier), homogeneous=False)
        unique = True
    has_parents = any(job.depends_on for job in inserts)
    fills = _has_unknown_task(registry, inserts)
    return _Bulk(inserts, batch, has_parents, unique, fills)


def _has_unknown_task(registry: HandlerRegistry, jobs: Iterable[JobInsert]) -> bool:
    """Say whether the registry lacks the task of one of the jobs."""
    tasks = {job.task for job in jobs if isinstance(job.task, str)}
    return any(task not in registry for task in tasks)


def _job_insert(registry: HandlerRegistry, task: Task) -> JobInsert:
    job = JobInsert(name_of(registry, task))
    return _fill_from_call(job, task) if isinstance(task, TaskCall) else job


def _fill_from_call(job: JobInsert, call: TaskCall[Any]) -> JobInsert:
    """Return the job with the call's args, and its options where ``job`` has none."""
    if job.args is not None:
        raise InvalidJobError("a call has its arguments already; args must not be passed")
    options: dict[str, Any] = {
        name: value for name, value in call.overrides.items() if _is_unset(getattr(job, name))
    }
    return attrs.evolve(job, args=call.args, **options)


def _is_unset(value: object) -> bool:
    return value is None or is_default(value)


def _with_task_defaults(registry: HandlerRegistry, job: JobInsert) -> JobInsert:
    if callable(job.task):
        job = attrs.evolve(job, task=registry.name_of(job.task))
    return with_defaults(job, registry)


def complete_current(result: object) -> DatabaseCall[None]:
    """Complete the job that the calling code is part of, if its lease still holds."""
    attempt = current_attempt()
    text = result_as_json(result)

    def complete() -> Op[None]:
        yield from complete_now(attempt.claimed.lease, text)
        attempt.completed = True

    return DatabaseCall(complete())


def checked_id(job_id: int) -> int:
    """Return the id if it can be one.

    :raises InvalidJobError: it is not an int.
    :raises JobNotFoundError: it is out of the range of ids.
    """
    if not isinstance(job_id, int) or isinstance(job_id, bool):
        raise InvalidJobError(f"a job's id must be an int, not {job_id!r}")
    if not -MAX_ID <= job_id <= MAX_ID:
        raise JobNotFoundError(f"no job has the id {job_id}")
    return job_id


def await_outcome(job_id: int, *, timeout: float = CALL_TIMEOUT) -> DatabaseCall[JobOutcome | None]:
    """Read how a job ended, or request a notification when it ends."""
    return DatabaseCall(read.await_outcome(checked_id(job_id)), timeout=timeout)


def check_wait(timeout: float | None, poll_interval: float) -> None:
    """Check the parameters of a wait.

    :raises InvalidSettingError: a number of seconds is out of its range.
    """
    if timeout is not None and not timeout >= 0:
        raise InvalidSettingError(f"timeout must be seconds ≥ 0 or None, not {timeout!r}")
    if not 0 < poll_interval < float("inf"):
        raise InvalidSettingError(
            f"poll_interval must be finite seconds > 0, not {poll_interval!r}"
        )


def check_outcome(
    job_id: int, outcome: JobOutcome | None, timeout: float | None, *, raise_on_failure: bool
) -> JobOutcome:
    """Return the outcome of a wait, or raise its error.

    :param outcome: ``None``: the job did not end within ``timeout``.
    :raises JobTimeoutError: see ``outcome``.
    :raises JobFailed: the job was discarded or cancelled, and ``raise_on_failure`` is set.
    """
    if outcome is None:
        raise JobTimeoutError(f"job {job_id} has not ended within {timeout:g} s")
    if raise_on_failure and outcome.state != JobState.COMPLETED:
        raise JobFailed(job_id, outcome.state, outcome.errors)
    return outcome
