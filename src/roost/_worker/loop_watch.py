"""Log which job blocks the event loop, and for how long.

A blocking handler delays all jobs of its worker and the heartbeat. In the end other workers rescue
the jobs, and their log can only name a dead worker. A thread does the checks, so a job costs
nothing.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from time import monotonic
from types import FrameType

import anyio
import attrs

from roost._model.logs import StructuredLogger
from roost._worker.loop_lag import LoopLag
from roost._worker.running_job import RunningJob
from roost._worker.slots import Slots

logger = StructuredLogger("roost.worker.loop")

INTERVAL = 0.1
"""Seconds between two wake-ups of the loop's task, and between two checks of the thread.

A block that is 2 intervals longer than `MAX_BLOCKED` is seen for sure.
"""
MAX_BLOCKED = 1.0
"""Seconds without a wake-up, beyond `INTERVAL`, after which the loop counts as blocked."""
REPEAT_FACTOR = 10.0
"""The warning is repeated when the block has lasted this many times longer."""
SUSPENDED_SHARE = 0.1
"""Share of processor time between two checks, below which the process was suspended."""
MAX_REMEMBERED = 1_000
"""Jobs of which the watch remembers that it has named them; it names each job once."""
MAX_FRAMES = 25
_WAITING = ("selectors.py", "_io_epoll.py", "_io_kqueue.py", "runners.py")
"""The files in which an idle loop waits."""


@attrs.frozen
class _Block:
    """A block of the loop.

    :param since: the loop's last wake-up, by ``time.monotonic``.
    :param job: the job that blocks it; ``None``: unknown.
    """

    since: float
    job: RunningJob | None


class LoopWatch:
    """Watches the loop of one worker while `run` runs."""

    def __init__(self, slots: Slots, lag: LoopLag) -> None:
        self._slots = slots
        self._lag = lag
        self._turned_at = monotonic()
        self._thread_id = 0
        self._over = threading.Event()
        self._block: _Block | None = None
        self._logged: deque[int] = deque(maxlen=MAX_REMEMBERED)

    @property
    def turned_at(self) -> float:
        """When the loop last ran `run`, by ``time.monotonic``."""
        return self._turned_at

    async def run(self) -> None:
        """Record that the loop runs, every `INTERVAL`, until cancelled."""
        self._thread_id = threading.get_ident()
        self._turned_at = monotonic()
        watch = threading.Thread(target=self._watch, name="roost loop watch", daemon=True)
        try:
            watch.start()
        except RuntimeError as error:  # too many threads
            logger.warning("the event loop is not watched: %(error)s", error=str(error))
        try:
            while True:
                await anyio.sleep(INTERVAL)
                self._lag.record(monotonic() - self._turned_at - INTERVAL)
                block, self._block = self._block, None
                if block is not None:
                    self._report_end(block)
                self._turned_at = monotonic()
        finally:
            self._over.set()

    def _watch(self) -> None:
        """In the thread: check whether the loop has run, and log a block."""
        checked_at, used, report_after = monotonic(), time.process_time(), MAX_BLOCKED
        while not self._over.wait(INTERVAL):
            now, now_used, turned_at = monotonic(), time.process_time(), self._turned_at
            slept, used_meanwhile = now - checked_at, now_used - used
            checked_at, used = now, now_used
            if slept > MAX_BLOCKED / 2 and used_meanwhile < SUSPENDED_SHARE * slept:
                continue  # the process was suspended or got no processor time
            blocked = now - turned_at - INTERVAL
            if blocked <= MAX_BLOCKED:
                report_after = MAX_BLOCKED
            elif blocked > report_after:
                report_after = REPEAT_FACTOR * blocked
                self._report(turned_at, blocked)

    def _report(self, turned_at: float, seconds: float) -> None:
        frames = list(_frames(sys._current_frames().get(self._thread_id)))  # noqa: SLF001  (the documented way)
        at, job = _blocking_job(frames)
        if not frames or (job is None and frames[0].f_code.co_filename.endswith(_WAITING)):
            return  # the loop waits for the processor, not for an application's code
        if self._block is not None and self._block.since == turned_at:
            stack = None  # logged before
        else:
            stack = "".join(_stack(frames[:at]))
        job_id = None if job is None else job.claimed.lease.job_id
        if stack is not None and job_id in self._logged:
            return  # it blocks again, maybe in another attempt
        self._block = _Block(turned_at, job)
        if job is None:
            logger.warning(
                "event loop is blocked for %(seconds).1f s so far, not by a job's own task; jobs "
                "that run: %(jobs)s",
                trace=stack,
                seconds=seconds,
                jobs=[running.claimed.lease.job_id for running in self._slots],
            )
            return
        self._logged.append(job.claimed.lease.job_id)
        logger.warning(
            "event loop is blocked for %(seconds).1f s so far by job %(job_id)d (%(task)s), which "
            "holds up all jobs of this worker and its heartbeat",
            trace=stack,
            seconds=seconds,
            **job.claimed.log_fields(),
        )

    def _report_end(self, block: _Block) -> None:
        """In the loop: log how long the block lasted."""
        seconds = monotonic() - block.since - INTERVAL
        if block.job is None:
            logger.warning("event loop was blocked for %(seconds).1f s", seconds=seconds)
        else:
            logger.warning(
                "event loop was blocked for %(seconds).1f s by job %(job_id)d (%(task)s)",
                seconds=seconds,
                **block.job.claimed.log_fields(),
            )


def _frames(innermost: FrameType | None) -> Iterator[FrameType]:
    while innermost is not None:
        yield innermost
        innermost = innermost.f_back


def _blocking_job(frames: list[FrameType]) -> tuple[int, RunningJob | None]:
    """Return how many frames are the handler's, and the job whose task they belong to."""
    for at, frame in enumerate(frames):
        if frame.f_globals.get("__name__", "").startswith("roost._worker."):
            for value in frame.f_locals.values():
                if isinstance(value, RunningJob):
                    return at, value
    return len(frames), None


def _stack(frames: list[FrameType]) -> list[str]:
    shown = [(frame, frame.f_lineno) for frame in reversed(frames[:MAX_FRAMES])]
    return ["Stack (most recent call last):\n", *traceback.StackSummary.extract(shown).format()]
