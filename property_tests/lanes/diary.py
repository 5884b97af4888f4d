"""What handlers did, and what must never be seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import attrs
from property_tests.lanes.threads import Gate
from trio.testing import MockClock

from roost._model.verdict import Lease
from roost._worker.handlers.current import current_attempt
from roost._worker.state import WorkerState

UNWINDING = 0.4
"""Seconds that a handler of "slow to end" goes on after a cancel: fewer than `STALE_AFTER` / 10."""
TASKS = ("quick", "gated", "slow to end", "thread", "narrow", "rated")
UNLIMITED = ("quick", "gated", "slow to end", "thread")
CONCURRENCY = 3
"""Most jobs of "narrow" at once: more than a worker has slots for."""
RATE = 2
"""Most starts of "rated" a minute."""


@attrs.define(eq=False)
class Attempt:
    """One call of a handler.

    :param worker: the worker that called it.
    :param queue: of its job.
    :param gate: for an async handler, `thread_gate` for a plain one.
    :param interrupted: whether a cancel reached it.
    """

    worker: str
    task: str
    lease: Lease
    queue: str
    began: float
    gate: anyio.Event = attrs.field(factory=anyio.Event)
    thread_gate: Gate = attrs.field(factory=Gate)
    interrupted: bool = False

    def open(self) -> None:
        """Let the handler return."""
        self.gate.set()
        self.thread_gate.open()

    def __str__(self) -> str:
        return f"{self.task} {self.lease} by {self.worker} since {self.began:.3f}"


@attrs.define(eq=False)
class Diary:
    """Handlers' starts and ends, checked while they are written.

    :param removed: incarnations whose rows a rule has removed: their workers can't know it yet.
    :param paused: whether ``pause_queue`` has returned.
    :param slots: by worker and queue, how many jobs may run at once; 0: the queue was stopped.
    :param open: whether every gate is open.
    :param wrongs: what must not have happened.
    """

    clock: MockClock
    running: list[Attempt] = attrs.field(factory=list)
    starts: list[tuple[float, str]] = attrs.field(factory=list)
    removed: set[int] = attrs.field(factory=set)
    paused: bool = False
    slots: dict[tuple[str, str], int] = attrs.field(factory=dict)
    open: bool = False
    wrongs: list[str] = attrs.field(factory=list)

    @contextmanager
    def attempt(self, worker: str, task: str, state: WorkerState) -> Iterator[Attempt]:
        """Record a handler's call from its start to its end."""
        claimed = current_attempt().claimed
        attempt = Attempt(worker, task, claimed.lease, claimed.queue, self.clock.current_time())
        self._check_start(attempt, state)
        self.running.append(attempt)
        if self.open:
            attempt.open()
        try:
            yield attempt
        except BaseException:
            attempt.interrupted = True
            raise
        finally:
            self.running.remove(attempt)

    def _check_start(self, new: Attempt, state: WorkerState) -> None:
        now, lease = new.began, new.lease
        if lease.worker_id != state.worker_id:
            self.wrong(f"{new} starts under another incarnation than {state.worker_id}")
        if not state.holds_leases():
            self.wrong(f"{new} starts though the leases have run out")
        for other in self.running:
            if other.lease.job_id != lease.job_id:
                continue
            if other.worker == new.worker:
                self.wrong(f"{new} runs twice at once in one worker: {other}")
            elif other.task != "thread" and other.lease.worker_id not in self.removed:
                self.wrong(f"{new} runs while another worker still runs it: {other}")
        self._check_slots(new, state)
        if self.paused and new.queue == "default" and lease.worker_id not in self.removed:
            self.wrong(f"{new} starts though its queue is paused")
        self.starts.append((now, new.task))
        recent = [at for at, task in self.starts if task == "rated" and at > now - 60]
        if new.task == "rated" and len(recent) > RATE:
            self.wrong(f"{new}: {len(recent)} starts in a minute, at {recent}")

    def _check_slots(self, new: Attempt, state: WorkerState) -> None:
        here = [new, *(other for other in self.running if other.worker == new.worker)]
        if len(here) > state.settings.concurrency:
            self.wrong(f"{new} starts beside {len(here) - 1} others in one worker")
        of_queue = [attempt for attempt in here if attempt.queue == new.queue]
        slots = self.slots[new.worker, new.queue]
        if len(of_queue) > slots:
            self.wrong(f"{new} is number {len(of_queue)} of {new.queue}, which has {slots} slots")

    def wrong(self, what: str) -> None:
        """Note what must not have happened."""
        self.wrongs.append(f"at {self.clock.current_time():.3f}: {what}")

    def of(self, worker: str) -> list[Attempt]:
        """Return the handlers that run in a worker."""
        return [attempt for attempt in self.running if attempt.worker == worker]
