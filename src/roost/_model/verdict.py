"""What an attempt ended in, decided by pure code.

`judge` turns the ending of an attempt into a `Verdict`; the settle lane writes it. Nothing here
waits, reads a clock or knows of SQL.
"""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple, TypeAlias, assert_never

import attrs

from roost._model.backoff import MAX_DELAY, BackoffStrategy, delay_after
from roost._model.codec import EncodingError, encode, encode_result
from roost._model.interrupts import is_ctrl_c
from roost._model.states import Event, JobState, move
from roost.exceptions import JobTimeoutError, SnoozeJob

MAX_ERROR_CHARS = 1_000
"""Characters of an error's text that a row keeps."""
MAX_TRACE_CHARS = 8_000
"""Characters of a traceback that a row keeps: the last ones, where the error is."""


DEFAULT_MAX_RESULT_BYTES = 16 << 20
"""Bytes of a result's JSON text that are stored, unless a worker is told otherwise."""
MAX_RESULT_BYTES = 200 << 20
"""Bytes that may be allowed at most: ``jsonb`` holds 255 MB."""


class Lease(NamedTuple):
    """The right to finish one claimed attempt; a write that doesn't hold it changes nothing.

    A tuple, as what is made for every job is: it takes half the time of a frozen attrs class.
    """

    job_id: int
    worker_id: int
    lease_no: int


class Returned(NamedTuple):
    """The handler returned ``value``. A tuple, as `Lease` is."""

    value: object


@attrs.frozen
class Raised:
    """The handler raised."""

    error: BaseException


class RemoteError(Exception):
    """A handler's error in another process, of which only the record came back."""

    def __init__(self, record: dict[str, str]) -> None:
        super().__init__(record["error"])
        self.record = record


@attrs.frozen
class TimedOut:
    """The attempt ran longer than ``limit`` seconds."""

    limit: float


@attrs.frozen
class Interrupted:
    """The worker stopped it, or never started it: the attempt doesn't count."""


@attrs.frozen
class CancelRequested:
    """A user's cancel ended it."""


Ending: TypeAlias = Returned | Raised | TimedOut | Interrupted | CancelRequested


class Verdict(NamedTuple):
    """What to write for one lease.

    :param event: the move it makes; see `roost._model.states.MOVES`.
    :param result: the handler's result as JSON text.
    :param delay: seconds until the job is due again; ``None`` leaves its time as it was.
    :param error: ``{"error", "trace"}``, without attempt and time: the database adds them.
    :param completed: whether the handler has written its completion itself, which stands if its
        transaction was committed; if not, this verdict does.
    """

    lease: Lease
    event: Event
    result: str | None = None
    delay: float | None = None
    error: dict[str, str] | None = None
    completed: bool = False

    @property
    def state(self) -> JobState:
        """The state that the job goes to."""
        return move(JobState.EXECUTING, self.event).target

    @property
    def attempt(self) -> int:
        """What the move adds to the count of attempts."""
        return move(JobState.EXECUTING, self.event).attempt


def judge(
    ending: Ending,
    *,
    lease: Lease,
    attempt: int,
    max_attempts: int,
    retry: BackoffStrategy,
    max_result: int = DEFAULT_MAX_RESULT_BYTES,
) -> Verdict:
    """Decide what ``ending`` means for a job in its ``attempt``-th attempt of ``max_attempts``.

    :param max_result: bytes of a result's JSON text; a note replaces a longer one.
    """
    match ending:
        case Returned(value=value):
            result = None if value is None else result_as_json(value, maximum=max_result)
            return Verdict(lease, Event.COMPLETE, result)
        case Raised(error=SnoozeJob(seconds=float() | int() as seconds)) if seconds >= 0:
            return Verdict(lease, Event.SNOOZE, delay=float(min(seconds, MAX_DELAY)))
        case Raised(error=error):
            record = error_record(error)
        case TimedOut(limit=limit):
            record = error_record(JobTimeoutError(f"timed out after {limit:g} s"))
        case Interrupted():
            return Verdict(lease, Event.RELEASE)
        case CancelRequested():
            return Verdict(lease, Event.CANCEL)
        case _:
            assert_never(ending)
    if attempt >= max_attempts:
        return Verdict(lease, Event.DISCARD, error=record)
    return Verdict(lease, Event.RETRY, delay=delay_after(attempt, retry), error=record)


def result_as_json(value: object, *, maximum: int = DEFAULT_MAX_RESULT_BYTES) -> str:
    """Return a result's JSON text; for what has none, or one that is too long, a note that says so.

    The work is done and must not be done again, so a result that can't be stored does not fail the
    job: it is replaced by ``{"roost.unserializable": "<type>: <why>"}``.

    :param maximum: bytes of the text.
    """
    try:
        # Not even made where it is sure to be too long: that blocks the event loop for seconds.
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
        # The code of the user's value ran, and may raise anything.
        if is_ctrl_c(error):
            raise
        why = f"{_kind_of(error)} while it was read"
    return encode({"roost.unserializable": sanitize(f"{_kind_of(value)}: {why}", MAX_ERROR_CHARS)})


def error_record(error: BaseException) -> dict[str, str]:
    """Return ``{"error": "Type: message", "trace": …}``, bounded and storable, whatever raised."""
    if isinstance(error, RemoteError):
        return error.record
    kind = _kind_of(error)
    try:
        message = str.__str__(str(error))  # a plain str, also of a subclass
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
    """Return the name of the value's class, which a metaclass can't change."""
    name: str = type.__dict__["__qualname__"].__get__(type(value))
    return name


def sanitize(text: str, maximum: int, *, keep_end: bool = False) -> str:
    """Return ``text`` without what ``jsonb`` refuses, at most ``maximum`` characters long."""
    if len(text) > maximum:
        text = "…" + text[1 - maximum :] if keep_end else text[: maximum - 1] + "…"
    return (
        text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    )


def drop_payload(verdict: Verdict, why: str) -> Verdict:
    """Return the same verdict without what the database refused to store."""
    note = sanitize(why, MAX_ERROR_CHARS)
    return verdict._replace(
        result=None if verdict.result is None else encode({"roost.unserializable": note}),
        error=None if verdict.error is None else {"error": f"not stored: {note}", "trace": ""},
    )


def settle_record(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as the settle statement takes it."""
    return {
        "id": verdict.lease.job_id,
        "worker_id": verdict.lease.worker_id,
        "lease_no": verdict.lease.lease_no,
        "state": verdict.state,
        "attempt": verdict.attempt,
        "delay": verdict.delay,
        "error": verdict.error,
    }
