"""Decide what the ending of an attempt means for its job.

`judge` turns an `Ending` into a `Verdict`, which the settle lane writes. Nothing here waits, reads
a clock or knows SQL.
"""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple, TypeAlias, assert_never

import attrs

from roost._model.backoff import MAX_DELAY, BackoffStrategy, delay_after
from roost._model.codec import EncodingError, encode, encode_result
from roost._model.failures import NO_RULES, FailureRules, handler_decision
from roost._model.interrupts import is_ctrl_c
from roost._model.states import Event, JobState, move
from roost._model.tally import Sample
from roost.exceptions import CancelJob, DiscardJob, JobTimeoutError, RetryJob, SnoozeJob

MAX_ERROR_CHARS = 1_000
"""Most characters of an error's text that are stored."""
MAX_TRACE_CHARS = 8_000
"""Most characters of a traceback that are stored: the last ones, where the error is."""
STARTED_AT = "started_at"
"""The key of an error record for the time at which the attempt started."""

DEFAULT_MAX_RESULT_BYTES = 16 << 20
"""Default of a worker's ``max_result_bytes``."""
MAX_RESULT_BYTES = 200 << 20
"""Largest value of ``max_result_bytes``; ``jsonb`` holds 255 MB."""


class Lease(NamedTuple):
    """The right to finish one claimed attempt. A write without a valid lease changes nothing.

    A named tuple: one is created for every job, in half the time of a frozen attrs class.
    """

    job_id: int
    worker_id: int
    lease_no: int


class Returned(NamedTuple):
    """The handler returned ``value``. A named tuple, for the same reason as `Lease`."""

    value: object


@attrs.frozen
class Raised:
    """The handler raised, or it could not be called.

    :param record: the error's record; ``None``: it is still to be made.
    :param permanent: whether another attempt would be useless; ``None``: the task's rules decide.
    :param kind: the class of the error in another process, as of `qualified_name`.
    """

    error: BaseException
    record: dict[str, str] | None = None
    permanent: bool | None = None
    kind: str | None = None


class RemoteError(Exception):
    """An error of a handler in another process, known by its text only."""


@attrs.frozen
class TimedOut:
    """The attempt ran longer than ``limit`` seconds."""

    limit: float


@attrs.frozen
class Interrupted:
    """The worker interrupted the attempt or never started it; it is not counted."""


@attrs.frozen
class CancelRequested:
    """The attempt was cancelled by a user."""


Ending: TypeAlias = Returned | Raised | TimedOut | Interrupted | CancelRequested


class Verdict(NamedTuple):
    """What to write for one lease.

    :param event: the event of the move; see `roost._model.states.MOVES`.
    :param result: the handler's result as JSON text.
    :param delay: seconds until the job is due again; ``None``: its time is unchanged.
    :param error: ``{"error", "trace"}``; the database adds attempt, times and worker. Its
        `STARTED_AT` replaces the time of the claim.
    :param completed: whether the handler has completed the job in a transaction of its own. If that
        was committed, it decides; otherwise this verdict does.
    :param sample: what is counted of the attempt when this is written; ``None``: it never started.
    """

    lease: Lease
    event: Event
    result: str | None = None
    delay: float | None = None
    error: dict[str, str] | None = None
    completed: bool = False
    sample: Sample | None = None

    @property
    def state(self) -> JobState:
        """The job's state after the move."""
        return move(JobState.EXECUTING, self.event).target

    @property
    def attempt(self) -> int:
        """The change of the job's ``attempt``."""
        return move(JobState.EXECUTING, self.event).attempt


def judge(
    ending: Ending,
    *,
    lease: Lease,
    attempt: int,
    max_attempts: int,
    retry: BackoffStrategy,
    rules: FailureRules = NO_RULES,
    max_result: int = DEFAULT_MAX_RESULT_BYTES,
) -> Verdict:
    """Return the verdict on an attempt.

    :param ending: how the attempt ended.
    :param attempt: its number, from 1.
    :param max_attempts: a job that fails in this attempt, or a later one, is discarded.
    :param retry: says how long a failed job waits.
    :param rules: which errors are retried, unless the handler decides.
    :param max_result: longest JSON text of a result, in bytes; a longer one is replaced by a note.
    """
    match ending:
        case Returned(value=value):
            result = None if value is None else result_as_json(value, maximum=max_result)
            return Verdict(lease, Event.COMPLETE, result)
        case Interrupted():
            return Verdict(lease, Event.RELEASE)
        case CancelRequested():
            return Verdict(lease, Event.CANCEL)
        case TimedOut(limit=limit):
            failure = Raised(JobTimeoutError(f"timed out after {limit:g} s"))
        case Raised():
            failure = ending
        case _:
            assert_never(ending)
    event, wait = _event_of(failure, rules)
    if event is Event.SNOOZE:
        return Verdict(lease, event, delay=wait)
    record = failure.record or error_record(failure.error)
    if event is Event.RETRY and attempt < max_attempts:
        wait = delay_after(attempt, retry) if wait is None else wait
        return Verdict(lease, event, delay=wait, error=record)
    return Verdict(lease, Event.DISCARD if event is Event.RETRY else event, error=record)


def _event_of(failure: Raised, rules: FailureRules) -> tuple[Event, float | None]:
    """Return what an error means for its job while attempts are left.

    With the seconds that the handler wants the job to wait, if it said so. The constructors refuse
    unusable values, but the attributes can be set.
    """
    error, permanent = failure.error, failure.permanent
    match None if permanent else handler_decision(error):
        case SnoozeJob(seconds=float() | int() as seconds) if seconds >= 0:
            return Event.SNOOZE, float(min(seconds, MAX_DELAY))
        case RetryJob(in_=float() | int() as seconds) if seconds >= 0:
            return Event.RETRY, float(min(seconds, MAX_DELAY))
        case SnoozeJob() | RetryJob():
            return Event.RETRY, None
        case CancelJob():
            return Event.CANCEL, None
        case DiscardJob():
            return Event.DISCARD, None
        case None:
            permanent = rules.is_permanent(error) if permanent is None else permanent
            return Event.DISCARD if permanent else Event.RETRY, None


def result_as_json(value: object, *, maximum: int = DEFAULT_MAX_RESULT_BYTES) -> str:
    """Return a result's JSON text, or that of a note if it can't be stored or is too long.

    The work is done and must not be repeated, so the job does not fail. The note is
    ``{"roost.unserializable": "<type>: <why>"}``.

    :param maximum: longest text, in bytes.
    """
    try:
        # A text that is certainly too long is not encoded: that blocks the event loop for seconds.
        size = len(value) if type(value) in (str, list, dict) else 0  # type: ignore[arg-type]
        if size <= maximum:
            text = encode_result(value)
            if len(text) <= maximum and (4 * len(text) <= maximum or len(text.encode()) <= maximum):
                return text
            size = len(text)
        why = f"its JSON text of at least {size:,} bytes exceeds max_result_bytes ({maximum:,})"
    except EncodingError as error:
        why = str(error)
    except BaseException as error:
        # User-defined code ran and may raise anything.
        if is_ctrl_c(error):
            raise
        why = f"reading it raised {_kind_of(error)}"
    return encode({"roost.unserializable": sanitize(f"{_kind_of(value)}: {why}", MAX_ERROR_CHARS)})


def error_record(error: BaseException) -> dict[str, str]:
    """Return ``{"error": "Type: message", "trace": …}`` of an error, bounded and storable.

    If the handler's decision is alone in a group, as a task group raises it, ``error`` is that of
    the decision, with its reason.
    """
    told = handler_decision(error) or error
    kind = _kind_of(told)
    try:
        message = str.__str__(str(told))  # a plain str, also of a subclass
    except BaseException as failure:  # a user's __str__ may raise anything
        if is_ctrl_c(failure):
            raise
        message = "<its __str__ failed>"
    try:
        trace = "".join(traceback.format_exception(error))
    except BaseException as failure:  # as above
        if is_ctrl_c(failure):
            raise
        trace = "<its traceback can't be printed>"
    return {
        "error": sanitize(f"{kind}: {message}" if message else kind, MAX_ERROR_CHARS),
        "trace": sanitize(trace, MAX_TRACE_CHARS, keep_end=True),
    }


def _kind_of(value: object) -> str:
    """Return the name of the value's class, even if a metaclass overrides it."""
    name: str = type.__dict__["__qualname__"].__get__(type(value))
    return name


def qualified_name(kind: type) -> str:
    """Return ``module.Class``, without the module for built-in classes.

    It can be stored, even if the class has a strange name or module.
    """
    name = type.__dict__["__qualname__"].__get__(kind)
    try:
        module = type.__dict__["__module__"].__get__(kind)
    except AttributeError:  # it was deleted
        module = None
    if isinstance(module, str) and module != "builtins":
        name = f"{module}.{name}"
    return sanitize(name, MAX_ERROR_CHARS)


def sanitize(text: str, maximum: int, *, keep_end: bool = False) -> str:
    """Return ``text`` without characters that ``jsonb`` refuses, cut to ``maximum`` characters."""
    if len(text) > maximum:
        text = "…" + text[1 - maximum :] if keep_end else text[: maximum - 1] + "…"
    return (
        text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    )


def drop_payload(verdict: Verdict, why: str) -> Verdict:
    """Return the verdict with notes for the result and the error that the database refused."""
    note = sanitize(why, MAX_ERROR_CHARS)
    return verdict._replace(
        result=None if verdict.result is None else encode({"roost.unserializable": note}),
        error=None if verdict.error is None else _replaced(verdict.error, note),
    )


def _replaced(record: dict[str, str], note: str) -> dict[str, str]:
    """Return a note for an error record, with the time of the start that Roost has put into it."""
    started = {STARTED_AT: record[STARTED_AT]} if STARTED_AT in record else {}
    return {"error": f"not stored: {note}", "trace": ""} | started


def settle_record(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as the settle statement reads it."""
    return {
        "id": verdict.lease.job_id,
        "worker_id": verdict.lease.worker_id,
        "lease_no": verdict.lease.lease_no,
        "state": verdict.state,
        "attempt": verdict.attempt,
        "delay": verdict.delay,
        "error": verdict.error,
    }
