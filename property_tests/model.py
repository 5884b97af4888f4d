"""The oracle: what Roost's tables must hold and its operations answer, in plain Python.

It has the verbs of `property_tests.real.Real`, with the same parameters and the same answers. No
SQL, no Hypothesis, and nothing of Roost but words: leases and error classes. What is decided here
is decided anew.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

import attrs
from property_tests.rows import ArchivedRow, JobRow, QueueRow, WorkerRow
from property_tests.words import (
    Call,
    Cancel,
    Claim,
    End,
    Ending,
    Fail,
    Grant,
    NewJob,
    Release,
    Settled,
    Snooze,
    Succeed,
    TimeOut,
)

from roost._model.verdict import Lease
from roost.exceptions import DuplicateUniqueJobError, JobNotFoundError, UnknownParentError

START = datetime(2030, 1, 1, tzinfo=UTC)

WAITING = ("available", "retryable")
ACTIVE = (*WAITING, "executing")
FAILED = ("discarded", "cancelled")
KINDS = ("available", "scheduled", "retryable", "blocked", "executing")
OUTCOME = ("id", "state", "result", "errors")
MANY = 1_000
SOON = 60
"""Seconds: who hears of a job that is due within them looks again in time."""


@attrs.define
class Held:
    """What another transaction has locked: rows to pass over where that is possible."""

    jobs: set[int] = attrs.field(factory=set)
    workers: set[int] = attrs.field(factory=set)


class Waits(Exception):  # noqa: N818  (no error: the call would go on later)
    """The call can't pass over what another transaction holds: it waits, and has done nothing."""


class Model:
    """The tables, the clock and the verbs.

    ``woken`` collects whom a verb must notify: queues where a job can be claimed now or soon, and
    ``cancel <id>:<lease number>``, ``finished <id>``.
    """

    def __init__(self) -> None:
        self.now = START
        self.jobs: dict[int, JobRow] = {}
        self.workers: dict[int, WorkerRow] = {}
        self.archive: dict[int, ArchivedRow] = {}
        self.queues: dict[str, QueueRow] = {}
        self.dependencies: set[tuple[int, int]] = set()
        self.woken: set[str] = set()
        self.last_job = 0
        self.last_worker = 0
        self._held = Held()
        # What this call has locked without changing it.
        self._locks = Held()

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return every table by name, its rows in the order of their ids."""
        return {
            "jobs": [attrs.asdict(row) for _, row in sorted(self.jobs.items())],
            "jobs_archive": [attrs.asdict(row) for _, row in sorted(self.archive.items())],
            "queues": [attrs.asdict(row) for _, row in sorted(self.queues.items())],
            "workers": [attrs.asdict(row) for _, row in sorted(self.workers.items())],
            "dependencies": [
                {"parent_id": parent, "child_id": child}
                for parent, child in sorted(self.dependencies)
            ],
        }

    def held(self) -> list[Grant]:
        """Return the leases that hold, in the order of their jobs' ids."""
        return [
            Grant(lease, row.attempt, row.max_attempts)
            for _, row in sorted(self.jobs.items())
            if row.state == "executing" and (lease := _lease(row)) is not None
        ]

    def pass_time(self, *, seconds: int) -> None:
        """Let the clock run."""
        self.now += timedelta(seconds=seconds)

    def reconnect(self) -> None:
        """Do nothing: all there is stays."""

    # Enqueue

    def enqueue(self, *, job: NewJob) -> int:
        """Add a job and return its id."""
        parents = self._find_parents([job])
        self.last_job += 1  # the sequence gives out a number before a duplicate is noticed
        holder = self._is_kept_out_by(job)
        if holder is not None:
            raise DuplicateUniqueJobError(str(job.unique_key), holder)
        self._lock_parents(parents)
        self._insert(job, self.last_job)
        return self.last_job

    def enqueue_in_sql(self, *, job: NewJob) -> int | None:
        """Add a job without parents by the function in the database; ``None``: it is kept out."""
        self.last_job += 1
        if self._holder(job.unique_key) is not None:
            return None
        self._insert(job, self.last_job)
        return self.last_job

    def enqueue_many(self, *, jobs: Sequence[NewJob]) -> list[int]:
        """Add the jobs whose key is free; return their ids."""
        self._lock_parents(self._find_parents(jobs))
        added = []
        for job in jobs:
            self.last_job += 1
            if self._is_kept_out_by(job) is None:
                self._insert(job, self.last_job)
                added.append(self.last_job)
        return added

    def enqueue_and_roll_back(self, *, jobs: Sequence[NewJob]) -> None:
        """Leave nothing but used numbers."""
        self._find_parents(jobs)
        self.last_job += len(jobs)

    def _find_parents(self, jobs: Sequence[NewJob]) -> list[int]:
        parents = sorted({parent for job in jobs for parent in job.depends_on or []})
        missing = [
            job_id for job_id in parents if job_id not in self.jobs and job_id not in self.archive
        ]
        if missing:
            raise UnknownParentError(f"depends_on names jobs that don't exist: {missing}")
        return parents

    def _lock_parents(self, parents: Sequence[int]) -> None:
        for job_id in parents:
            if job_id in self.jobs:
                self._locks.jobs.add(job_id)
                if self.jobs[job_id].state in ACTIVE:
                    self.jobs[job_id].has_children = True

    def _holder(self, unique_key: str | None) -> int | None:
        for row in self.jobs.values():
            if unique_key is not None and row.unique_key == unique_key and row.state in ACTIVE:
                return row.id
        return None

    def _is_kept_out_by(self, job: NewJob) -> int | None:
        # The child of a failed parent never becomes active.
        return None if self._failed_parent(job) else self._holder(job.unique_key)

    def _failed_parent(self, job: NewJob) -> JobRow | None:
        parents = [self._find(job_id) for job_id in sorted(job.depends_on or [])]
        return next((row for row in parents if row.state in FAILED), None)

    def _insert(self, job: NewJob, job_id: int) -> None:
        self.jobs[job_id] = row = JobRow(
            id=job_id,
            scheduled_at=self._in(job.due_in or 0),
            inserted_at=self.now,
            priority=job.priority,
            max_attempts=job.max_attempts,
            timeout_seconds=job.timeout_seconds,
            queue=job.queue,
            task=job.task,
            unique_key=job.unique_key,
            args=job.args,
            metadata=job.metadata or None,
            tags=job.tags or None,
            depends_on=job.depends_on or None,
        )
        failed = self._failed_parent(job)
        if failed is not None:
            self._parent_failed(row, failed)
            return
        for parent in set(job.depends_on or []):
            if parent in self.jobs and self.jobs[parent].state in ACTIVE:
                self.dependencies.add((parent, job_id))
                row.pending_parents += 1
        self._wake(row, within=SOON)

    # Claim

    def claim(
        self, *, worker_id: int, queues: Sequence[str], tasks: Sequence[str], limit: int
    ) -> Claim:
        """Lease due jobs to a worker that has a row, in running order."""
        alive = worker_id in self.workers
        if alive:
            self._locks.workers.add(worker_id)
        picked = self._pick(queues, tasks, limit) if alive else []
        for row in picked:
            row.state = "executing"
            row.attempt += 1
            row.lease_no += 1
            row.worker_id = worker_id
            row.attempted_at = self.now
        return Claim(
            grants=[
                Grant(Lease(row.id, worker_id, row.lease_no), row.attempt, row.max_attempts)
                for row in picked
            ],
            jobs=[self._view(row) for row in picked],
            next_due=self._next_due(queues) if len(picked) < limit else None,
            alive=alive,
        )

    def _pick(self, queues: Sequence[str], tasks: Sequence[str], limit: int) -> list[JobRow]:
        due = [
            row
            for row in sorted(self.jobs.values(), key=_running_order)
            if self._could_run(row, queues) and row.task in tasks and row.scheduled_at <= self.now
        ]
        # Beside another claim: what it would take alone and is not held, then others head by head.
        due[limit:] = sorted(due[limit:], key=lambda row: (row.priority, row.queue))
        picked = [row for row in due if row.id not in self._held.jobs][:limit]
        return sorted(picked, key=_running_order)

    def _next_due(self, queues: Sequence[str]) -> float | None:
        waits = [
            (row.scheduled_at - self.now).total_seconds()
            for row in self.jobs.values()
            if self._could_run(row, queues) and row.scheduled_at > self.now
        ]
        return min(waits, default=None)

    def _could_run(self, row: JobRow, queues: Sequence[str]) -> bool:
        waits = row.state in WAITING and row.pending_parents == 0
        return waits and row.queue in queues and self._paused_at(row.queue) is None

    def _paused_at(self, queue: str) -> datetime | None:
        return self.queues[queue].paused_at if queue in self.queues else None

    # Settle

    def settle(self, *, ends: Sequence[End], error_cap: int) -> Settled:
        """End the attempts whose lease holds, together with what follows for their children."""
        held = [end for end in ends if self._is_held(end.grant.lease)]
        lost = {end.grant.lease for end in ends} - {end.grant.lease for end in held}
        parents = [end for end in held if self.jobs[end.grant.lease.job_id].has_children]
        busy = self._end_all([end for end in held if end not in parents], error_cap)
        try:
            with self._all_or_nothing():
                busy |= self._end_all(parents, error_cap)
        except Waits:
            busy |= {end.grant.lease for end in parents}
        return Settled(lost, busy)

    def _is_held(self, lease: Lease) -> bool:
        row = self.jobs.get(lease.job_id)
        return row is not None and row.state == "executing" and _lease(row) == lease

    def _end_all(self, ends: Sequence[End], error_cap: int) -> set[Lease]:
        """End attempts, and return the leases of rows that another transaction holds."""
        busy = {end.grant.lease for end in ends if end.grant.lease.job_id in self._held.jobs}
        rows = []
        for end in ends:
            if end.grant.lease not in busy:
                row = self.jobs[end.grant.lease.job_id]
                self._end(row, end.ending, error_cap)
                rows.append(row)
        self._release_children([row.id for row in rows if row.state == "completed"])
        self._cancel_descendants([row.id for row in rows if row.state in FAILED])
        return busy

    def _end(self, row: JobRow, ending: Ending, error_cap: int) -> None:
        match ending:
            case Succeed(result=result):
                row.state = "completed"
                row.completed_at = self.now
                row.result = result
                self._announce(row)
            case Fail(text=text, retry_in=wait):
                self._fail(row, f"ValueError: {text}", f"ValueError: {text}\n", wait, error_cap)
            case TimeOut(limit=limit, retry_in=wait):
                text = f"JobTimeoutError: timed out after {limit} s"
                self._fail(row, text, f"roost.exceptions.{text}\n", wait, error_cap)
            case Snooze(seconds=seconds):
                self._give_back(row, in_seconds=seconds)
            case Release():
                self._give_back(row)
            case Cancel():
                self._cancel(row)
            case _:
                assert_never(ending)

    # Control

    def cancel(self, *, job_id: int) -> bool:
        """Cancel what waits, ask what runs to stop; ``False``: it had ended."""
        row = self._find(job_id)
        if row.state == "executing":
            row.cancel_requested = True
            self.woken.add(f"cancel {job_id}:{row.lease_no}")
        elif row.state in WAITING:
            row.pending_parents = 0
            self._cancel(row)
            self._cancel_descendants([job_id])
        else:
            return False
        return True

    def cancel_requests(self, *, worker_id: int) -> set[tuple[int, int]]:
        """Return the jobs, with their lease numbers, that a worker should stop."""
        return {
            (row.id, row.lease_no)
            for row in self.jobs.values()
            if row.worker_id == worker_id and row.state == "executing" and row.cancel_requested
        }

    def retry(self, *, job_id: int) -> bool:
        """Make a job that has ended, or waits to be retried, available now."""
        if job_id in self.archive:
            columns = attrs.asdict(self.archive.pop(job_id))
            del columns["archived_at"]
            # The archive is the end of these.
            columns |= {"cancel_requested": False, "has_children": False}
            self.jobs[job_id] = JobRow(**columns)
        row = self._find(job_id)
        holder = self._holder(row.unique_key)
        if holder not in (None, job_id):
            raise DuplicateUniqueJobError(str(row.unique_key), holder)
        return self._revive(row)

    def requeue_discarded(self, *, queue: str | None) -> int:
        """Make discarded jobs available, the oldest of each unique key; return how many."""
        revived = 0
        asked: set[str | None] = set()
        for _, row in sorted(self.jobs.items()):
            if row.state == "discarded" and queue in (None, row.queue):
                first = row.unique_key is None or row.unique_key not in asked
                asked.add(row.unique_key)
                if first and self._holder(row.unique_key) is None:
                    revived += self._revive(row)
        return revived

    def _revive(self, row: JobRow) -> bool:
        if row.state not in (*FAILED, "completed", "retryable"):
            return False
        row.state = "available"
        row.scheduled_at = self.now
        row.completed_at = row.cancelled_at = row.discarded_at = None
        row.cancel_requested = False
        row.pending_parents = 0
        row.result = None
        row.max_attempts = max(row.max_attempts, row.attempt + 1)
        self._wake(row)
        return True

    def pause(self, *, queue: str) -> None:
        """Let nothing be claimed from ``queue``."""
        self.queues[queue] = QueueRow(name=queue, paused_at=self._paused_at(queue) or self.now)

    def resume(self, *, queue: str) -> None:
        """Undo `pause`."""
        if self._paused_at(queue) is not None:
            self.queues[queue].paused_at = None
            self.woken.add(queue)

    # Workers

    def register(self, *, name: str, queues: Sequence[str], stale_after: int) -> int:
        """Add a worker and return its id, which no other ever had."""
        self.last_worker += 1
        self.workers[self.last_worker] = WorkerRow(
            id=self.last_worker,
            name=name,
            queues=list(queues),
            concurrency=4,
            started_at=self.now,
            heartbeat_at=self.now,
            expires_at=self._in(stale_after),
        )
        return self.last_worker

    def renew(self, *, worker_id: int, stale_after: int) -> bool:
        """Put off a worker's expiry; ``False``: it has no row."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return False
        worker.heartbeat_at = self.now
        worker.expires_at = self._in(stale_after)
        return True

    def forget(self, *, worker_id: int) -> None:
        """Remove the row of a worker that ends."""
        self.workers.pop(worker_id, None)

    def expire(self) -> set[str]:
        """Remove the workers that are silent for too long; return their names."""
        dead = [
            worker
            for worker in self.workers.values()
            if worker.expires_at < self.now and worker.id not in self._held.workers
        ]
        for worker in dead:
            del self.workers[worker.id]
        return {worker.name for worker in dead}

    def rescue(self, *, limit: int, error_cap: int) -> dict[int, str]:
        """Take back executing jobs whose worker has no row; return their ids and new states."""
        orphans = [
            row
            for row in sorted(self.jobs.values(), key=lambda row: row.id)
            if row.state == "executing" and row.worker_id not in self.workers
            if row.id not in self._held.jobs
        ]
        for row in orphans[:limit]:
            text = f"WorkerCrash: worker {row.worker_id} died while it ran this job"
            if row.cancel_requested:
                self._record(row, text, "", error_cap)
                self._cancel(row)
            else:
                self._fail(row, text, "", 0, error_cap)
        self._cancel_descendants([row.id for row in orphans[:limit] if row.state in FAILED])
        return {row.id: row.state for row in orphans[:limit]}

    def release_unheld(self, *, worker_id: int, held: Collection[int]) -> list[int]:
        """Give back what the worker leases and does not know of; return the ids."""
        unheld = [
            row
            for row in sorted(self.jobs.values(), key=lambda row: row.id)
            if row.state == "executing" and row.worker_id == worker_id and row.id not in held
        ]
        for row in unheld:
            self._give_back(row)
            self.woken.add(row.queue)  # also after a cancel: it is rare, and waking does no harm
        self._cancel_descendants([row.id for row in unheld if row.state in FAILED])
        return [row.id for row in unheld]

    def archive_jobs(self, *, after: int) -> int:
        """Move the jobs that ended more than ``after`` seconds ago; return how many."""
        old = [row for row in self.jobs.values() if self._ended_before(row, after)]
        for row in old:
            del self.jobs[row.id]
            row.awaited = False
            self.archive[row.id] = ArchivedRow(**attrs.asdict(row), archived_at=self.now)
        return len(old)

    def forget_results(self, *, after: int) -> int:
        """Drop the results of what was completed more than ``after`` seconds ago.

        Returns the larger number: of live jobs, or of archived ones.
        """
        counts = []
        for table in (self.jobs, self.archive):
            rows = [row for row in table.values() if row.result is not None]
            old = [row for row in rows if self._ended_before(row, after)]
            for row in old:
                row.result = None
            counts.append(len(old))
        return max(counts)

    def _ended_before(self, row: JobRow, after: int) -> bool:
        ended_at = row.completed_at or row.cancelled_at or row.discarded_at
        return ended_at is not None and ended_at < self._in(-after)

    # Inspect

    def look(self, *, job_id: int) -> dict[str, Any]:
        """Return a job as a `roost.Job` shows it."""
        return self._view(self._find(job_id))

    def _find(self, job_id: int) -> JobRow:
        row = self.jobs.get(job_id) or self.archive.get(job_id)
        if row is None:
            raise JobNotFoundError(f"no job has the id {job_id}")
        return row

    def await_outcome(self, *, job_id: int) -> dict[str, Any] | None:
        """Return how a job ended; ``None``: it has not, and its end will be announced."""
        row = self._find(job_id)
        row.awaited = row.awaited or row.state in ACTIVE
        if row.state in ACTIVE:
            return None
        return {name: value for name, value in self._view(row).items() if name in OUTCOME}

    def list_queues(self) -> dict[str, dict[str, Any]]:
        """Return the queues that are known, with what waits and runs in each."""
        unfinished = [row for row in self.jobs.values() if row.state in ACTIVE]
        serving = {queue for worker in self.workers.values() for queue in worker.queues}
        names = {row.queue for row in unfinished} | self.queues.keys() | serving
        return {
            name: {
                "paused_at": self._paused_at(name),
                **dict.fromkeys(KINDS, 0),
                **Counter(self._kind(row) for row in unfinished if row.queue == name),
            }
            for name in names
        }

    def _kind(self, row: JobRow) -> str:
        if row.pending_parents:
            return "blocked"
        return "scheduled" if row.state in WAITING and row.scheduled_at > self.now else row.state

    def list_workers(self) -> dict[int, int]:
        """Return how many jobs each worker that has a row holds."""
        held = Counter(row.worker_id for row in self.jobs.values() if row.state == "executing")
        return {worker_id: held[worker_id] for worker_id in self.workers}

    def count(self, *, queues: Sequence[str]) -> dict[str, int]:
        """Count the jobs of ``queues`` in each state that any is in."""
        states = [row.state for row in self.jobs.values() if row.queue in queues]
        return {state: states.count(state) for state in set(states)}

    # Two calls at once

    def both_at_once(
        self, *, first: Call, then: Call, first_commits: bool
    ) -> tuple[object, object]:
        """Make ``then`` while ``first`` has written and not committed; return both answers.

        ``then`` sees nothing of ``first`` and passes over what it holds; where it can't do that, it
        answers "waits".
        """
        beside = copy.deepcopy(self)
        try:
            answer = beside.say(first)
        finally:
            self.last_job = beside.last_job  # a sequence knows no rollback
        changed = {
            job_id: row for job_id, row in beside.jobs.items() if row != self.jobs.get(job_id)
        }
        self._held = Held(beside._locks.jobs | changed.keys(), beside._locks.workers)
        other_answer: object = "waits"
        before = self.dependencies.copy()
        with suppress(Waits), self._all_or_nothing():
            other_answer = self.say(then)
        self._held = Held()
        if first_commits:
            self.jobs |= changed
            self.dependencies -= before - beside.dependencies
            self.dependencies |= beside.dependencies - before
            self.woken |= beside.woken
        return answer, other_answer

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        tables = copy.deepcopy((self.jobs, self.workers, self.dependencies, self.woken))
        try:
            yield
        except Waits:
            self.jobs, self.workers, self.dependencies, self.woken = tables
            raise

    def say(self, call: Call) -> object:
        """Do what ``call`` says."""
        self._locks = Held()
        answer: object = getattr(self, call.verb)(**call.parameters)
        return answer

    # What the end of a parent means for its children

    def _release_children(self, parents: Sequence[int]) -> None:
        for child, of in self._take_children(parents):
            child.pending_parents -= len(of)
            self._wake(child, within=SOON)

    def _cancel_descendants(self, parents: Sequence[int]) -> None:
        while parents:
            children = self._take_children(parents)
            for child, of in children:
                self._parent_failed(child, self.jobs[min(of)])
            parents = [child.id for child, _ in children if child.has_children]

    def _take_children(self, parents: Sequence[int]) -> list[tuple[JobRow, list[int]]]:
        """Remove the dependencies on ``parents``; return each child with those it had."""
        children: dict[int, list[int]] = {}
        for parent, child in sorted(self.dependencies):
            if parent in parents:
                self.dependencies.remove((parent, child))
                children.setdefault(child, []).append(parent)
        waiting = [
            (self.jobs[child], of)
            for child, of in children.items()
            if child in self.jobs and self.jobs[child].pending_parents
        ]
        if any(child.id in self._held.jobs for child, _ in waiting):
            raise Waits
        return waiting

    def _parent_failed(self, row: JobRow, parent: JobRow) -> None:
        self._record(row, f"ParentFailed: job {parent.id} was {parent.state}", "", MANY)
        row.pending_parents = 0
        self._cancel(row)

    # What several verbs do to a row

    def _fail(self, row: JobRow, error: str, trace: str, wait: int, error_cap: int) -> None:
        self._record(row, error, trace, error_cap)
        if row.attempt >= row.max_attempts:
            row.state = "discarded"
            row.discarded_at = self.now
            self._announce(row)
        elif row.cancel_requested:
            self._cancel(row)
        else:
            row.state = "retryable"
            row.scheduled_at = self._in(wait)
            self._wake(row)

    def _record(self, row: JobRow, error: str, trace: str, error_cap: int) -> None:
        record = {"attempt": row.attempt, "at": self.now, "error": error, "trace": trace}
        row.errors = [*(row.errors or []), record][-error_cap:]

    def _give_back(self, row: JobRow, in_seconds: int | None = None) -> None:
        row.attempt -= 1
        if row.cancel_requested:
            self._cancel(row)
            return
        row.state = "available"
        if in_seconds is not None:
            row.scheduled_at = self._in(in_seconds)
        self._wake(row)

    def _cancel(self, row: JobRow) -> None:
        row.state = "cancelled"
        row.cancelled_at = self.now
        self._announce(row)

    def _announce(self, row: JobRow) -> None:
        if row.awaited:
            self.woken.add(f"finished {row.id}")

    def _wake(self, row: JobRow, *, within: int = 0) -> None:
        if row.pending_parents == 0 and row.scheduled_at <= self._in(within):
            self.woken.add(row.queue)

    def _in(self, seconds: int) -> datetime:
        return self.now + timedelta(seconds=seconds)

    def _view(self, row: JobRow) -> dict[str, Any]:
        hidden = (
            "worker_id",
            "lease_no",
            "pending_parents",
            "has_children",
            "limited",
            "awaited",
            "archived_at",
        )
        view = {name: value for name, value in attrs.asdict(row).items() if name not in hidden}
        for name, empty in (("errors", []), ("tags", []), ("depends_on", []), ("metadata", {})):
            view[name] = view[name] or empty
        return view


def _running_order(row: JobRow) -> tuple[int, datetime, int]:
    return row.priority, row.scheduled_at, row.id


def _lease(row: JobRow) -> Lease | None:
    return None if row.worker_id is None else Lease(row.id, row.worker_id, row.lease_no)
