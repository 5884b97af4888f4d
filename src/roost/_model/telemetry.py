"""What the clients and the worker tell an instrumentation, such as `roost.contrib.otel`.

None is installed by default: then ``active`` is ``None``, and nothing here is called. The methods
of an instrumentation don't raise and don't wait.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

import attrs

from roost._model.codec import decode
from roost._model.cron import CronEntry
from roost._model.failures import handler_decision
from roost._model.job import JobInsert, is_default
from roost._model.verdict import Ending, Raised, TimedOut, error_record, qualified_name
from roost.exceptions import JobTimeoutError

CARRIER: Final = "otel"
"""The key of a job's metadata that holds the headers of its trace, such as ``traceparent``.

One key, since a propagator chooses the names of its headers, which must not meet the user's keys.
"""
NO_CARRIER: Final[Mapping[str, str]] = {}
"""The headers of no trace."""
TRACEPARENT: Final = "traceparent"
"""The key of an error record that names the span of its attempt."""
OTHER: Final = "_OTHER"
"""The kind of an error whose class is not known, as OpenTelemetry names it."""


@attrs.frozen
class Sent:
    """What one call of a client enqueues.

    :param queues: the number of jobs for each queue; ``None``: the database chooses the queue.
    :param tasks: the names of the tasks.
    :param is_bulk: whether the call takes several jobs.
    :param carriers: what jobs that have a carrier already hold in it.
    """

    queues: Mapping[str | None, int]
    tasks: Sequence[str]
    is_bulk: bool
    carriers: Sequence[Mapping[str, str]] = ()

    @property
    def jobs(self) -> int:
        """The number of jobs."""
        return sum(self.queues.values())

    @property
    def only_queue(self) -> str | None:
        """The queue, if all jobs have the same."""
        return next(iter(self.queues)) if len(self.queues) == 1 else None

    @property
    def only_task(self) -> str | None:
        """The task, if all jobs have the same."""
        return self.tasks[0] if len(self.tasks) == 1 else None


@attrs.frozen
class Started:
    """An attempt that begins.

    :param wait: seconds from the time at which the job was due to the start.
    :param carrier: what the enqueue has put into the metadata; empty: nothing.
    :param first_span: the ``traceparent`` of the first attempt whose error record is kept.
    """

    job_id: int
    queue: str
    task: str
    attempt: int
    max_attempts: int
    worker_id: int
    wait: float
    carrier: Mapping[str, str]
    first_span: str | None


@attrs.frozen
class Failure:
    """The error of an attempt or of a call.

    :param kind: its class, as ``module.Class``; `OTHER`: not known.
    :param error: as in an error record: the name of the class, and the message if there is one.
    :param trace: the traceback; empty: not known.
    """

    kind: str
    error: str
    trace: str

    @property
    def message(self) -> str:
        """The message without the name of the class."""
        return self.error.partition(": ")[2]


def failure_of(ending: Ending, record: Mapping[str, str]) -> Failure:
    """Return what an instrumentation is told of a failed attempt.

    :param record: the attempt's error record.
    """
    match ending:
        case TimedOut():
            kind = qualified_name(JobTimeoutError)
        case Raised():
            told = handler_decision(ending.error) or ending.error
            kind = ending.kind or qualified_name(type(told))
        case _:
            kind = OTHER
    return Failure(kind, record["error"], record["trace"])


def failure_from(error: BaseException) -> Failure:
    """Return what an instrumentation is told of an error."""
    record = error_record(error)
    told = handler_decision(error) or error
    return Failure(qualified_name(type(told)), record["error"], record["trace"])


class Send(Protocol):
    """A call of a client that enqueues jobs."""

    carrier: Mapping[str, str]
    """Is put into the metadata of each job."""
    ids: Sequence[int | None]
    """The ids of the jobs, for those who know them."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None: ...


class Attempt(Protocol):
    """An attempt that runs."""

    def traceparent(self) -> str | None:
        """Return what names the attempt's span, for an error record."""

    def in_process(self) -> Callable[[], object] | None:
        """Return a picklable function that a handler's own process calls before the handler."""

    def ended(self, outcome: str, failure: Failure | None) -> None:
        """Record the end.

        :param outcome: how it ended, one of `roost._model.tally.Outcome`, or ``"abandoned"``: its
            thread does not end.
        :param failure: the error, if the attempt has an error record; ``None``, too, if the handler
            asked for the retry.
        """


class Instrumentation(Protocol):
    """Records what is enqueued and what runs."""

    def send(self, sent: Sent) -> Send:
        """Begin a call that enqueues jobs."""

    def start(self, started: Started) -> Attempt | None:
        """Begin an attempt, in the context of its task; ``None``: it can't be recorded."""

    def names_span(self, carrier: object) -> bool:
        """Return whether this is a carrier from which a span can be read."""


class _NotSent:
    """Stands for `Send` while no instrumentation is installed."""

    carrier = NO_CARRIER
    ids: Sequence[int | None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __setattr__(self, name: str, value: object) -> None:
        """Keep nothing."""


active: Instrumentation | None = None
"""The installed instrumentation of this process."""
_NOT_SENT = _NotSent()


def install(instrumentation: Instrumentation | None) -> None:
    """Install an instrumentation in this process, in place of another one; ``None``: remove it."""
    global active  # noqa: PLW0603  (one of a process, as the providers of its spans are)
    active = instrumentation


def sending(jobs: Sequence[JobInsert], known: Container[str], *, is_bulk: bool) -> Send:
    """Return the context in which a client enqueues these jobs.

    :param known: the tasks that the client knows. For others, the database may choose the queue of
        a job that names none.
    """
    if active is None or not jobs:
        return _NOT_SENT
    queues: dict[str | None, int] = {}
    tasks: dict[str, None] = {}
    carriers: list[Mapping[str, str]] = []
    for job in jobs:
        task = _plain(job.task)
        queue = None if is_default(job.queue) and task not in known else _plain(job.queue)
        queues[queue] = queues.get(queue, 0) + 1
        tasks[task] = None
        if job.metadata:
            carriers += _carrier_in(job.metadata)
    return active.send(Sent(queues, list(tasks), is_bulk, carriers))


def sending_cron(entry: CronEntry | None) -> Send:
    """Return the context in which a client enqueues the job of a cron entry.

    :param entry: as the client's code declares it; ``None``: only the database knows it.
    """
    if active is None:
        return _NOT_SENT
    if entry is None:
        return active.send(Sent({None: 1}, (), is_bulk=False))
    return active.send(Sent({_plain(entry.queue): 1}, (_plain(entry.task),), is_bulk=False))


def _plain(name: object) -> str:
    """Return a name as a plain ``str``, also of a str enum. An SDK separates series by type."""
    return str.__str__(name) if isinstance(name, str) else "?"


def carrier_of(metadata: str | None) -> Mapping[str, str]:
    """Return the headers that an enqueue has put into the metadata, a JSON text; or none."""
    found = _carrier_in(decode(metadata)) if metadata and f'"{CARRIER}"' in metadata else []
    return found[0] if found else NO_CARRIER


def _carrier_in(metadata: object) -> list[Mapping[str, str]]:
    carrier = metadata.get(CARRIER) if isinstance(metadata, dict) else None
    return [headers_in(carrier)] if isinstance(carrier, dict) else []


def headers_in(carrier: object) -> Mapping[str, str]:
    """Return what can be headers; empty if the carrier is no dict."""
    if not isinstance(carrier, dict):
        return NO_CARRIER
    return {
        name: value
        for name, value in carrier.items()
        if isinstance(name, str) and isinstance(value, str)
    }


def add_carrier(record: dict[str, Any], carrier: Mapping[str, str]) -> dict[str, Any]:
    """Put the headers of a trace into the metadata of an encoded job.

    A carrier that the caller has passed is kept if a span can be read from it. Anything else under
    the key would cut the job off its trace: the headers are added to a dict, and replace the rest.
    """
    if carrier:
        metadata = record.get("metadata") or {}
        own = metadata.get(CARRIER)
        if own is None:
            record["metadata"] = {**metadata, CARRIER: carrier}
        elif active is None or not active.names_span(own):
            headers = {**own, **carrier} if isinstance(own, dict) else carrier
            record["metadata"] = {**metadata, CARRIER: headers}
    return record


def first_span_of(errors: str | None) -> str | None:
    """Return the ``traceparent`` of the first attempt that has left one in the errors, a text."""
    if errors is None or f'"{TRACEPARENT}"' not in errors:
        return None
    records = decode(errors)
    for record in records if isinstance(records, list) else ():
        span = record.get(TRACEPARENT) if isinstance(record, dict) else None
        if isinstance(span, str):
            return span
    return None
