"""The public names. `roost` shows them as its own, and imports this module when one is used."""

from roost._client.async_api import AsyncRoost
from roost._client.sync_api import Roost
from roost._drivers.borrowed.custom import register_connection_adapter
from roost._model.backoff import BackoffStrategy, exponential, fixed, linear
from roost._model.cron import CronEntry, CronInfo
from roost._model.decorators import cron, job
from roost._model.doctor.finding import Finding, FindingLevel
from roost._model.events import JobEvent
from roost._model.explanation import Explanation, ExplanationReason
from roost._model.hooks import Hooks
from roost._model.info import JobOutcome, LimitInfo, QueueInfo, TaskInfo, WorkerHealth, WorkerInfo
from roost._model.job import Job, JobInsert, TaskDefaults
from roost._model.job_changes import JobChanges
from roost._model.job_filter import JobFilter
from roost._model.lifespan import State
from roost._model.overview import Overview, Percentiles, Throughput, Windows
from roost._model.registry import HandlerRegistry
from roost._model.settings import WorkerSettings
from roost._model.states import JobState
from roost._model.task_call import TaskCall, call
from roost._model.version import roost_version
from roost._worker.handlers.current import current_job, current_state
from roost._worker.handlers.log_filter import JobLogFilter
from roost._worker.worker import Worker
from roost.exceptions import (
    CancelJob,
    ClosedError,
    CronDeclaredError,
    CronNotFoundError,
    DatabaseError,
    DatabaseUnavailableError,
    DiscardJob,
    DuplicateTaskError,
    DuplicateUniqueJobError,
    FilterTooSlowError,
    HandlerProcessError,
    InvalidArgsError,
    InvalidJobError,
    InvalidSettingError,
    JobBlockedError,
    JobFailed,
    JobLockedError,
    JobNotFoundError,
    JobTimeoutError,
    LeaseLostError,
    NoCurrentJobError,
    NotInTransactionError,
    PauseNotConfirmedError,
    RetryJob,
    RoostError,
    SchemaError,
    SnoozeJob,
    UnknownParentError,
    UnknownTaskError,
    WorkerCrashedError,
    WorkerNotRunningError,
    WorkerShutdown,
)

__version__ = roost_version()

__all__ = [
    "AsyncRoost",
    "BackoffStrategy",
    "CancelJob",
    "ClosedError",
    "CronDeclaredError",
    "CronEntry",
    "CronInfo",
    "CronNotFoundError",
    "DatabaseError",
    "DatabaseUnavailableError",
    "DiscardJob",
    "DuplicateTaskError",
    "DuplicateUniqueJobError",
    "Explanation",
    "ExplanationReason",
    "FilterTooSlowError",
    "Finding",
    "FindingLevel",
    "HandlerProcessError",
    "HandlerRegistry",
    "Hooks",
    "InvalidArgsError",
    "InvalidJobError",
    "InvalidSettingError",
    "Job",
    "JobBlockedError",
    "JobChanges",
    "JobEvent",
    "JobFailed",
    "JobFilter",
    "JobInsert",
    "JobLockedError",
    "JobLogFilter",
    "JobNotFoundError",
    "JobOutcome",
    "JobState",
    "JobTimeoutError",
    "LeaseLostError",
    "LimitInfo",
    "NoCurrentJobError",
    "NotInTransactionError",
    "Overview",
    "PauseNotConfirmedError",
    "Percentiles",
    "QueueInfo",
    "RetryJob",
    "Roost",
    "RoostError",
    "SchemaError",
    "SnoozeJob",
    "State",
    "TaskCall",
    "TaskDefaults",
    "TaskInfo",
    "Throughput",
    "UnknownParentError",
    "UnknownTaskError",
    "Windows",
    "Worker",
    "WorkerCrashedError",
    "WorkerHealth",
    "WorkerInfo",
    "WorkerNotRunningError",
    "WorkerSettings",
    "WorkerShutdown",
    "call",
    "cron",
    "current_job",
    "current_state",
    "exponential",
    "fixed",
    "job",
    "linear",
    "register_connection_adapter",
]

# Tracebacks, help and pickles show `roost.Job`, wherever it is defined, as with anyio and httpx.
# The price: `inspect.getsource` no longer finds classes (functions, yes). String annotations of
# these classes would be looked up here, so their modules don't use `from __future__`'s.
for _name in __all__:
    globals()[_name].__module__ = __package__
del _name
