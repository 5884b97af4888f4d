"""Claims of limited and unlimited tasks: never above a limit, and no room left unused.

Time passes by moving the recorded starts back. The model keeps its own count of the running jobs of
each task, and the age of each start.
"""

from __future__ import annotations

from collections import Counter

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.support.job_table import JobTable

from roost import JobInsert, TaskDefaults
from roost._model.encoding import encode_jobs
from roost._model.states import Event
from roost._model.verdict import Lease, Verdict
from roost._ops.claim import claim_jobs, claim_limited_jobs
from roost._ops.dispatch import accept_dispatched, grant_credit
from roost._ops.enqueue import insert_job
from roost._ops.limits import count_start_now, mark_limited_jobs, publish_limits
from roost._ops.settle import settle

MAX_CONCURRENCY = {"narrow": 2, "both": 3}
RATE = {"rated": 3, "both": 2}
LIMITED = ["both", "narrow", "rated"]
TASKS = [*LIMITED, "free"]
CHANNEL = "roost_worker"
WINDOW = 61
MINUTE = 60


@attrs.define(eq=False)
class Start:
    """A start, and how many seconds ago it was."""

    task: str
    age: int = 0


class Limits(RuleBasedStateMachine):
    """Two workers and four tasks, of which three are limited."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.table = JobTable(dsn)
        # A worker gets a dispatched job only if a connection holds the lock of its channel.
        self.listener = JobTable(dsn)
        self.listener.rows("select pg_advisory_lock(hashtextextended($1::text, 0))", CHANNEL)
        self.waiting: Counter[str] = Counter()
        self.running: dict[Lease, str] = {}
        self.starts: list[Start] = []
        self.late: dict[Lease, Start] = {}

    @initialize()
    def begin(self) -> None:
        self.table.script("truncate roost.jobs, roost.workers, roost.limits, roost.starts")
        self.workers = [self.table.add_worker(), self.table.add_worker()]
        self.table.run(
            publish_limits(
                {
                    task: TaskDefaults(
                        rate_per_minute=RATE.get(task), max_concurrency=MAX_CONCURRENCY.get(task)
                    )
                    for task in TASKS
                }
            )
        )
        self.table.run(mark_limited_jobs())

    @rule(tasks=st.lists(st.sampled_from(TASKS), min_size=1, max_size=6))
    def enqueue(self, tasks: list[str]) -> None:
        self.table.add_all([JobInsert(task) for task in tasks])
        self.waiting.update(tasks)

    @rule(worker=st.integers(0, 1), task=st.sampled_from(TASKS))
    def enqueue_with_credit(self, worker: int, task: str) -> None:
        self.table.run(grant_credit(self.workers[worker], 1, channel=CHANNEL, tasks=TASKS))
        record = encode_jobs([JobInsert(task)])
        job_id = self.table.run(insert_job(record, unique_key=None, dispatch=True))
        holder = self.table.column(job_id, "worker_id")
        assert (holder is None) is (task in LIMITED), "a limited job was dispatched directly"
        if holder is None:
            self.waiting[task] += 1
        else:
            given = self.table.run(accept_dispatched(holder, next_credit=None)).job
            assert given is not None
            self.running[given.lease] = task

    @rule(worker=st.integers(0, 1), limit=st.integers(1, 8))
    def claim(self, worker: int, limit: int) -> None:
        worker_id = self.workers[worker]
        with self.table.connection.transaction():
            first = self.table.run(
                claim_limited_jobs(
                    worker_id=worker_id,
                    queues=["default"],
                    limited=LIMITED,
                    tasks=["free"],
                    limit=limit,
                )
            )
        left = limit - len(first.jobs)
        rest = []
        if left:
            claim = claim_jobs(worker_id=worker_id, queues=["default"], tasks=["free"], limit=left)
            rest = self.table.run(claim).jobs
        taken = Counter(job.task for job in (*first.jobs, *rest))
        room = {task: min(self.waiting[task], self.room(task)) for task in TASKS}
        assert all(taken[task] <= room[task] for task in TASKS)
        assert taken.total() == min(limit, sum(room.values())), "room was left unused"
        self.waiting -= taken
        for job in (*first.jobs, *rest):
            self.running[job.lease] = job.task
            start = Start(job.task)
            self.starts.append(start)
            if job.task in RATE:
                self.late[job.lease] = start

    @rule(data=st.data(), event=st.sampled_from([Event.COMPLETE, Event.SNOOZE, Event.RELEASE]))
    def end(self, data: st.DataObject, event: Event) -> None:
        if not self.running:
            return
        lease = data.draw(st.sampled_from(sorted(self.running, key=lambda held: held.job_id)))
        task = self.running.pop(lease)
        self.late.pop(lease, None)
        delay = 0.0 if event is Event.SNOOZE else None
        assert not self.table.run(settle([Verdict(lease, event, delay=delay)], error_cap=3)).lost
        if event is not Event.COMPLETE:
            self.waiting[task] += 1

    @rule(seconds=st.sampled_from([5, 30, 70]))
    def time_passes(self, seconds: int) -> None:
        self.table.rows(
            "update roost.starts set started_at = started_at - make_interval(secs => $1::integer)",
            seconds,
        )
        self.table.rows(
            "update roost.jobs "
            "set attempted_at = attempted_at - make_interval(secs => $1::integer)",
            seconds,
        )
        for start in self.starts:
            start.age += seconds

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def start_late(self, data: st.DataObject) -> None:
        """Call the handler now, not when the job was claimed."""
        lease = data.draw(st.sampled_from(sorted(self.late, key=lambda held: held.job_id)))
        start = self.late.pop(lease)
        assert self.table.run(count_start_now(lease)) is (start.age < MINUTE)
        if start.age < MINUTE:
            start.age = 0

    @invariant()
    def nothing_is_above_its_limit(self) -> None:
        running = Counter(self.running.values())
        assert all(running[task] <= most for task, most in MAX_CONCURRENCY.items())
        for task, most in RATE.items():
            assert self.recent(task) <= most

    def room(self, task: str) -> int:
        """How many jobs of a task may be started now."""
        running = Counter(self.running.values())[task]
        started = self.recent(task)
        return min(MAX_CONCURRENCY.get(task, 1_000) - running, RATE.get(task, 1_000) - started)

    def recent(self, task: str) -> int:
        """How many starts of a task a claim counts."""
        return len([start for start in self.starts if start.task == task and start.age < WINDOW])

    def teardown(self) -> None:
        self.table.connection.close()
        self.listener.connection.close()
