"""What `Job.progress` and `Job.update_metadata` call in a worker, and the last write of an attempt.

The metadata lane does the writing.
"""

from __future__ import annotations

import math
import threading
from functools import partial
from time import monotonic

import anyio
import anyio.from_thread
import anyio.lowlevel

from roost._drivers.shield import shielded
from roost._model.logs import StructuredLogger
from roost._worker.handlers.current import current
from roost._worker.metadata import AttemptMetadata, lease_lost
from roost._worker.running_job import UNINTERRUPTIBLE_GRACE, Reason, RunningJob
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError, LeaseLostError, NoCurrentJobError, RoostError

logger = StructuredLogger("roost.worker.metadata")

PROGRESS_TIMEOUT = 1.0
"""Seconds that `Job.progress` waits for its write at most."""
WRITE_TIMEOUT = 10.0
"""Seconds that `Job.update_metadata` waits for its write at most."""
LAST_WRITE_TIMEOUT = 5.0
"""Seconds that an ended attempt waits for its last write at most."""


class WorkerMetadataWriter:
    """Records changes for the metadata lane. Created in the worker's event loop."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._token = anyio.lowlevel.current_token()
        self._thread = threading.get_ident()

    async def write_progress(self, job_id: int, changes: dict[str, str]) -> None:
        """Write the changes; return at once if a write was made a moment ago."""
        one, number = self._record_anywhere(job_id, changes, soon=False)
        is_due = one.due_at <= monotonic() and not self._state.metadata.failures
        if is_due and self._is_here():
            with anyio.move_on_after(PROGRESS_TIMEOUT):
                await one.wait_written(number)

    async def write(self, job_id: int, changes: dict[str, str]) -> None:
        """Write the changes and return when they are written."""
        one, number = self._record_anywhere(job_id, changes, soon=True)
        if not self._is_here():
            return  # another event loop, in a thread of the handler's: it can't wait for this one
        with anyio.move_on_after(WRITE_TIMEOUT):
            await one.wait_written(number)
            return
        raise DatabaseUnavailableError(
            f"the metadata of job {job_id} is not written after {WRITE_TIMEOUT:g} s"
        )

    def write_nowait(self, job_id: int, changes: dict[str, str]) -> None:
        """Have the changes written soon. May be called from any thread of the job."""
        self._record_anywhere(job_id, changes, soon=False)

    def _is_here(self) -> bool:
        return threading.get_ident() == self._thread

    def _record_anywhere(
        self, job_id: int, changes: dict[str, str], *, soon: bool
    ) -> tuple[AttemptMetadata, int]:
        running = current.get(None)
        if not isinstance(running, RunningJob) or running.claimed.lease.job_id != job_id:
            raise NoCurrentJobError(
                f"job {job_id} is not the one that runs here: only its own handler can change its "
                "metadata"
            )
        record = partial(record_changes, running, self._state, changes, soon=soon)
        if self._is_here():
            return record()
        try:
            return anyio.from_thread.run_sync(record, token=self._token)
        except RuntimeError:  # the event loop has ended before the thread
            raise lease_lost(running.claimed.lease) from None


def record_changes(
    running: RunningJob, state: WorkerState, changes: dict[str, str], *, soon: bool
) -> tuple[AttemptMetadata, int]:
    """Record changes of a running job's metadata in the event loop's thread; see `Job.progress`.

    :param soon: see `AttemptMetadata.record`.
    """
    claimed = running.claimed
    if running.reason is Reason.LEASE_LOST or state.slots.get(claimed.lease) is not running:
        raise lease_lost(claimed.lease)
    if running.metadata is None:
        running.metadata = AttemptMetadata.of(claimed, max_bytes=state.registry.max_args_bytes)
    number = running.metadata.record(changes, soon=soon)
    state.metadata.add(running.metadata)
    state.metadata_wake.set()
    return running.metadata, number


async def write_rest(running: RunningJob, state: WorkerState) -> None:
    """Write what an ended attempt has changed and not written yet; then refuse further changes.

    Waits `LAST_WRITE_TIMEOUT` at most, and a second while the worker stops. What is not written
    then is dropped, with a warning.
    """
    one = running.metadata
    if one is None:
        return
    running.handler_ended = True  # a cancel comes too late
    try:
        if one.written < one.recorded:
            one.due_at = -math.inf
            state.metadata_wake.set()
            timeout = UNINTERRUPTIBLE_GRACE if running.is_stopping else LAST_WRITE_TIMEOUT
            with shielded(timeout):
                await one.wait_written(one.recorded)
    except LeaseLostError:
        pass  # the settle finds that too, and logs it
    except RoostError as error:
        _report(running, str(error))
    else:
        if one.written < one.recorded:
            _report(running, "the database has not answered")
    finally:
        one.closed = True
        state.metadata.remove(one)


def _report(running: RunningJob, why: str) -> None:
    logger.warning(
        "the last metadata of job %(job_id)d (%(task)s) is not written: %(why)s",
        **running.claimed.log_fields(),
        why=why,
    )
