"""Claims of limited and unlimited tasks: never above a limit, and no room left unused.

Two of the tasks have limits by key. Time passes by moving the recorded starts back. The model keeps
its own count of the running jobs of each task and key, and the age of each start.
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
from roost._ops.claim import ClaimedJob, claim_jobs, claim_limited_jobs
from roost._ops.dispatch import accept_dispatched, grant_credit
from roost._ops.enqueue import insert_job
from roost._ops.limits import count_start_now, mark_limited_jobs, publish_limits
from roost._ops.settle import settle

MAX_CONCURRENCY = {"narrow": 2, "both": 3, "lane": 1, "keyed": 2}
RATE = {"rated": 3, "both": 2, "keyed": 3}
LIMITED = ["both", "keyed", "lane", "narrow", "rated"]
TASKS = [*LIMITED, "free"]
BY_KEY = {"lane", "keyed"}
KEYS = ("a", "b")
GROUPS = [(task, key) for task in TASKS for key in (KEYS if task in BY_KEY else ("",))]
"""The tasks, and the keys of those with limits by key. Each of these has its own limits."""
Group = tuple[str, str]
CHANNEL = "roost_worker"
WINDOW = 61
MINUTE = 60


@attrs.define(eq=False)
class Start:
    """A start, and how many seconds ago it was."""

    group: Group
    age: int = 0


class Limits(RuleBasedStateMachine):
    """Two workers and six tasks; five are limited, two of them by two keys."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.table = JobTable(dsn)
        # A worker gets a dispatched job only if a connection holds the lock of its channel.
        self.listener = JobTable(dsn)
        self.listener.rows("select pg_advisory_lock(hashtextextended($1::text, 0))", CHANNEL)
        self.waiting: Counter[Group] = Counter()
        self.running: dict[Lease, Group] = {}
        self.starts: list[Start] = []
        self.late: dict[Lease, Start] = {}

    @initialize()
    def begin(self) -> None:
        self.table.script(
            "truncate roost.jobs, roost.workers, roost.limits, roost.starts, "
            "roost.ready_keys, roost.key_wakes"
        )
        self.workers = [self.table.add_worker(), self.table.add_worker()]
        self.table.run(
            publish_limits(
                {
                    task: TaskDefaults(
                        rate_per_minute=RATE.get(task),
                        max_concurrency=MAX_CONCURRENCY.get(task),
                        limit_by="key" if task in BY_KEY else None,
                    )
                    for task in TASKS
                }
            )
        )
        self.table.run(mark_limited_jobs())

    @rule(groups=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=6))
    def enqueue(self, groups: list[Group]) -> None:
        self.table.add_all([job_of(group) for group in groups])
        self.waiting.update(groups)

    @rule(worker=st.integers(0, 1), group=st.sampled_from(GROUPS))
    def enqueue_with_credit(self, worker: int, group: Group) -> None:
        self.table.run(grant_credit(self.workers[worker], 1, channel=CHANNEL, tasks=TASKS))
        record = encode_jobs([job_of(group)])
        job_id = self.table.run(insert_job(record, unique_key=None, dispatch=True))
        holder = self.table.column(job_id, "worker_id")
        assert (holder is None) is (group[0] in LIMITED), "a limited job was dispatched directly"
        if holder is None:
            self.waiting[group] += 1
        else:
            given = self.table.run(accept_dispatched(holder, next_credit=None)).job
            assert given is not None
            self.running[given.lease] = group

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
        taken = Counter(group_of(job) for job in (*first.jobs, *rest))
        room = {group: min(self.waiting[group], self.room(group)) for group in GROUPS}
        assert all(taken[group] <= room[group] for group in GROUPS)
        assert taken.total() == min(limit, sum(room.values())), "room was left unused"
        self.waiting -= taken
        for job in (*first.jobs, *rest):
            group = group_of(job)
            self.running[job.lease] = group
            start = Start(group)
            self.starts.append(start)
            if job.task in RATE:
                self.late[job.lease] = start

    @rule(data=st.data(), event=st.sampled_from([Event.COMPLETE, Event.SNOOZE, Event.RELEASE]))
    def end(self, data: st.DataObject, event: Event) -> None:
        if not self.running:
            return
        lease = data.draw(st.sampled_from(sorted(self.running, key=lambda held: held.job_id)))
        group = self.running.pop(lease)
        self.late.pop(lease, None)
        delay = 0.0 if event is Event.SNOOZE else None
        assert not self.table.run(settle([Verdict(lease, event, delay=delay)], error_cap=3)).lost
        if event is not Event.COMPLETE:
            self.waiting[group] += 1

    @rule(seconds=st.sampled_from([5, 30, 70]))
    def time_passes(self, seconds: int) -> None:
        self.table.rows(
            "update roost.starts set started_at = started_at - make_interval(secs => $1::integer)",
            seconds,
        )
        self.table.rows(
            "update roost.ready_keys set ready_at = ready_at - make_interval(secs => $1::integer)",
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
        for group in GROUPS:
            assert running[group] <= MAX_CONCURRENCY.get(group[0], 1_000)
            assert self.recent(group) <= RATE.get(group[0], 1_000)

    def room(self, group: Group) -> int:
        """How many jobs of a task and key may be started now."""
        running = Counter(self.running.values())[group]
        started = self.recent(group)
        task = group[0]
        return min(MAX_CONCURRENCY.get(task, 1_000) - running, RATE.get(task, 1_000) - started)

    def recent(self, group: Group) -> int:
        """How many starts of a task and key a claim counts."""
        starts = [start for start in self.starts if start.group == group and start.age < WINDOW]
        return len(starts)

    def teardown(self) -> None:
        self.table.connection.close()
        self.listener.connection.close()


def job_of(group: Group) -> JobInsert:
    task, key = group
    return JobInsert(task, {"key": key} if key else {})


def group_of(job: ClaimedJob) -> Group:
    key = job.args().get("key", "")
    assert isinstance(key, str)
    return job.task, key
