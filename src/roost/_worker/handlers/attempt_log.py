"""Log each attempt that did not complete: one line, with the traceback of its error.

An error in a log handler or filter does not change the job.
"""

from __future__ import annotations

import contextlib
import logging
from time import monotonic

from roost._model.logs import StructuredLogger
from roost._model.states import Event
from roost._model.verdict import Ending, Raised, TimedOut, Verdict
from roost._worker.running_job import RunningJob

logger = StructuredLogger("roost.worker.attempts")


def log_unsuccessful(running: RunningJob, ending: Ending, verdict: Verdict) -> None:
    """Log an attempt whose verdict is not its completion.

    A failure that is retried is a warning, and a final failure an error. A cancelled and a released
    attempt are logged at level INFO. A snooze is not logged: the handler asked for it.
    """
    match verdict.event:
        case Event.RETRY:
            _log_failure(
                logging.WARNING,
                "job %(job_id)d (%(task)s) %(ending)s, will be retried in %(delay).1f s: "
                "%(error)s; queue %(queue)s, attempt %(attempt)d of %(max_attempts)d, after "
                "%(seconds).3f s",
                *(running, ending, verdict),
                delay=verdict.delay,
            )
        case Event.DISCARD:
            _log_failure(
                logging.ERROR,
                "job %(job_id)d (%(task)s) %(ending)s and is discarded: %(error)s; queue "
                "%(queue)s, attempt %(attempt)d of %(max_attempts)d, after %(seconds).3f s",
                *(running, ending, verdict),
            )
        case Event.CANCEL if verdict.error is not None:
            _log_failure(
                logging.INFO,
                "job %(job_id)d (%(task)s) was cancelled by its handler: %(error)s; queue "
                "%(queue)s, attempt %(attempt)d of %(max_attempts)d, after %(seconds).3f s",
                *(running, ending, verdict),
            )
        case Event.CANCEL:
            _log(
                logging.INFO,
                "job %(job_id)d (%(task)s) was cancelled; queue %(queue)s, attempt %(attempt)d of "
                "%(max_attempts)d, after %(seconds).3f s",
                running,
            )
        case Event.RELEASE:
            _log(
                logging.INFO,
                "job %(job_id)d (%(task)s) was interrupted and is released; queue %(queue)s, "
                "attempt %(attempt)d of %(max_attempts)d does not count, after %(seconds).3f s",
                running,
            )
        case _:
            pass


def log_lease_lost(running: RunningJob) -> None:
    """Log an attempt that was stopped because other workers may run the job now."""
    _log(
        logging.WARNING,
        "job %(job_id)d (%(task)s) was stopped, its lease is lost; queue %(queue)s, attempt "
        "%(attempt)d of %(max_attempts)d, after %(seconds).3f s",
        running,
    )


def _log_failure(
    level: int,
    message: str,
    running: RunningJob,
    ending: Ending,
    verdict: Verdict,
    **data: object,
) -> None:
    record = verdict.error or {"error": "", "trace": ""}
    _log(
        level,
        message,
        running,
        error=ending.error if isinstance(ending, Raised) else None,
        trace=record["trace"],
        data={
            **data,
            "ending": "timed out" if isinstance(ending, TimedOut) else "failed",
            "error": record["error"],
        },
    )


def _log(
    level: int,
    message: str,
    running: RunningJob,
    *,
    error: BaseException | None = None,
    trace: str = "",
    data: dict[str, object] | None = None,
) -> None:
    if not logger.is_enabled_for(level):
        return
    claimed = running.claimed
    # A log filter of the application may raise any error. The worker continues.
    with contextlib.suppress(Exception):
        logger.log(
            level,
            message,
            exc_info=error,
            trace=trace if error is not None else None,
            **claimed.log_fields(),
            max_attempts=claimed.max_attempts,
            seconds=monotonic() - running.started_at,
            **(data or {}),
        )
