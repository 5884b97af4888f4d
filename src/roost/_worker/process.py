"""Run a handler in a worker process, for work that needs a CPU of its own or must be killable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_process

from roost._model.codec import decode
from roost._model.job import Job
from roost._model.verdict import Ending, Raised, RemoteError, Returned, error_record, result_as_json
from roost._worker.current import current
from roost.exceptions import SnoozeJob


async def call_in_process(
    func: Callable[..., Any], args: dict[str, Any], *, job: Job, processes: anyio.CapacityLimiter
) -> Ending:
    """Call ``func`` in a process of anyio's pool and return its ending.

    A cancel kills the process. One that dies by itself is the attempt's failure.
    """
    try:
        outcome = await anyio.to_process.run_sync(
            _run, func, args, job, cancellable=True, limiter=processes
        )
    except Exception as error:  # noqa: BLE001  (it died, or could not find or be sent the function)
        return Raised(error)
    match outcome:
        case str():
            return Returned(decode(outcome))
        case dict():
            return Raised(RemoteError(outcome))
        case _:
            return Raised(SnoozeJob(outcome))


def _run(func: Callable[..., Any], args: dict[str, Any], job: Job) -> str | dict[str, str] | float:
    """In the process: what comes back is plain text and numbers, whatever the handler made."""
    current.set(job)
    try:
        return result_as_json(func(**args))
    except SnoozeJob as snooze:
        return snooze.seconds
    except BaseException as error:  # noqa: BLE001  (SystemExit would end the process unanswered)
        return error_record(error)
