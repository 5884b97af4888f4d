"""The state that all verbs share, and the changes that several of them make."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from property_tests.oracle.rows import ArchivedRow, HoldRow, JobRow, QueueRow, WorkerRow
from property_tests.words import Dispatched, Grant

from roost._model.verdict import Lease
from roost.exceptions import JobNotFoundError

START = datetime(2030, 1, 1, tzinfo=UTC)

WAITING = ("available", "retryable")
ACTIVE = (*WAITING, "executing")
FAILED = ("discarded", "cancelled")
KINDS = (
    *("available", "scheduled", "retryable", "blocked", "executing", "prefetched", "discarded"),
)
OUTCOME = ("id", "state", "result", "errors")
MANY = 1_000
SOON = 60
"""Seconds. A job due within this time is announced: the notified worker claims again in time."""


@attrs.define
class Held:
    """The rows that another transaction has locked. A call passes over them if it can.

    :param jobs: ids of locked jobs.
    :param workers: ids of workers whose rows can't be removed.
    :param changed_workers: ids of workers whose rows can't be changed either: it changed them.
    :param keys: unique keys of the jobs that it has changed: each may be free or taken.
    """

    jobs: set[int] = attrs.field(factory=set)
    workers: set[int] = attrs.field(factory=set)
    changed_workers: set[int] = attrs.field(factory=set)
    keys: set[str | None] = attrs.field(factory=set)


class Waits(Exception):  # noqa: N818  (no error: the call would go on later)
    """The call can't pass over a locked row. It waits, and has changed nothing."""


class Tables:
    """The tables, the clock, and the changes to rows that several verbs make.

    ``notified`` collects the notifications that a verb must send: queues with a job that can be
    claimed now or soon, ``cancel <id>:<lease number>``, ``finished <id>`` and ``pause <queue>``.
    ``dispatched`` collects the notifications on workers' own channels.
    """

    def __init__(self) -> None:
        self.now = START
        self.jobs: dict[int, JobRow] = {}
        self.workers: dict[int, WorkerRow] = {}
        self.archive: dict[int, ArchivedRow] = {}
        self.queues: dict[str, QueueRow] = {}
        self.holds: dict[str, HoldRow] = {}
        self.dependencies: set[tuple[int, int]] = set()
        self.notified: set[str] = set()
        self.dispatched: list[Dispatched] = []
        self.last_job = 0
        self.last_worker = 0
        self._held = Held()
        # What this call has locked: the workers, and the jobs that it has not changed.
        self._locks = Held()

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return every table by name, its rows in the order of their ids."""
        return {
            "jobs": [attrs.asdict(row) for _, row in sorted(self.jobs.items())],
            "jobs_archive": [attrs.asdict(row) for _, row in sorted(self.archive.items())],
            "unique_holds": [attrs.asdict(row) for _, row in sorted(self.holds.items())],
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
            if row.state == "executing" and (lease := lease_of(row)) is not None
        ]

    def expired_workers(self) -> list[int]:
        """Return the ids of expired workers."""
        return [worker.id for worker in self.workers.values() if worker.expires_at < self.now]

    def orphans(self) -> list[JobRow]:
        """Return the executing jobs whose worker has no row, in the order of their ids."""
        return [
            row
            for _, row in sorted(self.jobs.items())
            if row.state == "executing" and row.worker_id not in self.workers
        ]

    def prefetched(self) -> list[JobRow]:
        """Return the executing jobs that were claimed to wait for a slot."""
        rows = [row for _, row in sorted(self.jobs.items()) if row.state == "executing"]
        return [row for row in rows if row.prefetch_no is not None]

    def pass_time(self, *, seconds: int) -> None:
        """Let the clock run."""
        self.now += timedelta(seconds=seconds)

    def reconnect(self) -> None:
        """Do nothing: a reconnect changes no table."""

    def _holder(self, unique_key: str | None) -> int | None:
        """Return the active job that holds a key, else the first that has given it up."""
        users = [row.id for row in self._users(unique_key) if not gave_up_key(row)]
        return next(iter(users), self._started_user(unique_key))

    def _started_user(self, unique_key: str | None) -> int | None:
        """Return the first active job that has given this key up at its first claim."""
        users = [row.id for row in self._users(unique_key) if gave_up_key(row)]
        return min(users, default=None)

    def _users(self, unique_key: str | None) -> list[JobRow]:
        """Return the active jobs that have this key."""
        return [
            row
            for row in self.jobs.values()
            if unique_key is not None and row.unique_key == unique_key and row.state in ACTIVE
        ]

    def _lock_to_change(self, worker_id: int) -> WorkerRow | None:
        """Lock a worker's row for an update and return it, if there is one."""
        if worker_id in self._held.changed_workers:
            raise Waits
        if worker_id in self.workers:
            self._locks.changed_workers.add(worker_id)
        return self.workers.get(worker_id)

    def _revoke_credit(self, worker_id: int) -> bool:
        """Clear a worker's credit and dispatched job; ``False``: it has neither."""
        found = self.workers.get(worker_id)
        if found is None or (found.credit is None and found.dispatched_job_id is None):
            return False
        worker = self._lock_to_change(worker_id)
        assert worker is not None
        worker.credit = worker.dispatched_job_id = None
        return True

    def _paused_at(self, queue: str) -> datetime | None:
        return self.queues[queue].paused_at if queue in self.queues else None

    def _find(self, job_id: int) -> JobRow:
        row = self.jobs.get(job_id) or self.archive.get(job_id)
        if row is None:
            raise JobNotFoundError(f"no job has the id {job_id}")
        return row

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        tables = copy.deepcopy((self.jobs, self.workers, self.dependencies, self.notified))
        try:
            yield
        except Waits:
            self.jobs, self.workers, self.dependencies, self.notified = tables
            raise

    # The consequences of a parent's end for its children

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
        # A parent that has not failed is about to be deleted.
        what = parent.state if parent.state in FAILED else "deleted"
        self._record(row, f"ParentFailed: job {parent.id} was {what}", "", MANY)
        row.pending_parents = 0
        self._cancel(row)

    # Changes to a row that several verbs make

    def _fail(self, row: JobRow, error: str, trace: str, wait: int, error_cap: int) -> None:
        if row.attempt >= row.max_attempts:
            self._discard(row, error, trace, error_cap)
            return
        self._record(row, error, trace, error_cap, **self._attempt(row))
        if row.cancel_requested:
            self._cancel(row)
        else:
            row.state = "retryable"
            row.scheduled_at = self._in(wait)
            self._wake(row, within=SOON)

    def _discard(self, row: JobRow, error: str, trace: str, error_cap: int) -> None:
        self._record(row, error, trace, error_cap, **self._attempt(row))
        row.state = "discarded"
        row.discarded_at = self.now
        self._announce(row)

    def _attempt(self, row: JobRow) -> dict[str, object]:
        """Return the fields of an error record that describe the attempt."""
        worker = self.workers.get(row.worker_id or 0)
        return {
            "started_at": row.attempted_at,
            "worker_id": row.worker_id,
            "worker": worker.name if worker else None,
        }

    def _record(
        self, row: JobRow, error: str, trace: str, error_cap: int, **attempt: object
    ) -> None:
        record = {"attempt": row.attempt, "at": self.now, "error": error, "trace": trace, **attempt}
        row.errors = [*(row.errors or []), record][-error_cap:]

    def _release(self, row: JobRow, in_seconds: int | None = None) -> None:
        row.attempt -= 1
        if row.cancel_requested:
            self._cancel(row)
            return
        row.state = "available"
        if in_seconds is not None:
            row.scheduled_at = self._in(in_seconds)
        self._wake(row, within=SOON)

    def _cancel(self, row: JobRow) -> None:
        row.state = "cancelled"
        row.cancelled_at = self.now
        self._announce(row)

    def _announce(self, row: JobRow) -> None:
        if row.awaited:
            self.notified.add(f"finished {row.id}")

    def _wake(self, row: JobRow, *, within: int = 0) -> None:
        if row.pending_parents == 0 and row.scheduled_at <= self._in(within):
            self._notify(row.queue)

    def _wake_after_lock(self, row: JobRow) -> None:
        """Notify again after a waiting row was locked: a claim may have passed over it."""
        if row.state in WAITING:
            self._wake(row)

    def _notify(self, queue: str) -> None:
        """Notify of a job if a worker of the queue wants notifications."""
        if self._wanting_notify(queue):
            self.notified.add(queue)

    def _wanting_notify(self, queue: str) -> list[WorkerRow]:
        return [worker for worker in self._serving(queue) if worker.wants_notify]

    def _serving(self, queue: str) -> list[WorkerRow]:
        return [
            worker
            for worker in self.workers.values()
            if worker.expires_at > self.now and queue in worker.queues
        ]

    def _in(self, seconds: int) -> datetime:
        return self.now + timedelta(seconds=seconds)

    def _view(self, row: JobRow) -> dict[str, Any]:
        hidden = (
            "worker_id",
            "lease_no",
            "pending_parents",
            "has_children",
            "limited",
            "limit_key",
            "awaited",
            "prefetch_no",
            "unique_waiting",
            "archived_at",
        )
        view = {name: value for name, value in attrs.asdict(row).items() if name not in hidden}
        for name, empty in (("errors", []), ("tags", []), ("depends_on", []), ("metadata", {})):
            view[name] = view[name] or empty
        return view


def gave_up_key(row: JobRow) -> bool:
    """Return whether a job no longer holds its key, since it has started."""
    return row.unique_waiting and row.lease_no > 0


def lease_of(row: JobRow) -> Lease | None:
    """Return the lease of the last claim."""
    return None if row.worker_id is None else Lease(row.id, row.worker_id, row.lease_no)


def place_of(row: JobRow) -> list[int]:
    """Return a prefetched job's position in the start order of its worker."""
    since_1970 = row.scheduled_at - datetime(1970, 1, 1, tzinfo=UTC)
    return [row.prefetch_no or 0, row.priority, since_1970 // timedelta(microseconds=1), row.id]
