"""Roost: a background job queue for asyncio and trio whose only infrastructure is Postgres.

The public names, re-exported by hand; everything with a leading underscore may change.
"""

from roost._client.async_api import AsyncRoost
from roost._model.backoff import BackoffStrategy, exponential, fixed, linear
from roost._model.job import Job, JobInsert, JobOutcome
from roost._model.registry import HandlerRegistry, TaskDefaults, job
from roost._model.settings import WorkerSettings
from roost._model.states import JobState
from roost._worker.worker import Worker
from roost.exceptions import (
    ClosedError,
    DatabaseError,
    DatabaseUnavailableError,
    DuplicateTaskError,
    DuplicateUniqueJobError,
    InvalidJobError,
    InvalidSettingError,
    JobFailed,
    JobNotFoundError,
    JobTimeoutError,
    NotInTransactionError,
    RoostError,
    SchemaError,
    SnoozeJob,
    UnknownParentError,
    UnknownTaskError,
    WorkerShutdown,
)

__all__ = [
    "AsyncRoost",
    "BackoffStrategy",
    "ClosedError",
    "DatabaseError",
    "DatabaseUnavailableError",
    "DuplicateTaskError",
    "DuplicateUniqueJobError",
    "HandlerRegistry",
    "InvalidJobError",
    "InvalidSettingError",
    "Job",
    "JobFailed",
    "JobInsert",
    "JobNotFoundError",
    "JobOutcome",
    "JobState",
    "JobTimeoutError",
    "NotInTransactionError",
    "RoostError",
    "SchemaError",
    "SnoozeJob",
    "TaskDefaults",
    "UnknownParentError",
    "UnknownTaskError",
    "Worker",
    "WorkerSettings",
    "WorkerShutdown",
    "exponential",
    "fixed",
    "job",
    "linear",
]
