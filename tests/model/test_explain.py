"""Any facts about a job lead to one reason, said in one plain sentence."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost import Explanation, ExplanationReason, JobState
from roost._model.explain import explain
from roost._model.explain_facts import Facts, HolderFacts, JobFacts, LimitFacts, WorkerFacts

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
BUSY = WorkerFacts(id=1, name="web:1", concurrency=4, running=4)
FREE = WorkerFacts(id=2, name="web:2", concurrency=4, running=3, poll_interval=0.5)
R = ExplanationReason


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def facts(*, workers: Any = (FREE,), job: dict[str, Any] | None = None, **others: Any) -> Facts:
    """Return the facts of a due job that a free worker knows, changed as given."""
    row: dict[str, Any] = {
        "id": 7, "state": "available", "queue": "mail", "task": "send", "scheduled_at": after(-2),
    }  # fmt: skip
    return Facts(now=NOW, job=JobFacts(**row | (job or {})), workers=workers, **others)


def holder(*, heartbeat: float = -5, expires: float = 295, unstarted: bool = False) -> HolderFacts:
    return HolderFacts(
        id=3, name="web:3", heartbeat_at=after(heartbeat), expires_at=after(expires),
        unstarted=unstarted,
    )  # fmt: skip


EXECUTING = {"state": "executing", "attempt": 1, "worker_id": 3, "attempted_at": after(-185)}
LIMIT = LimitFacts(
    max_concurrency=2, rate_per_minute=60, set_max_concurrency=2, executing=2, executing_ids=[5, 6]
)

SENTENCES: list[tuple[Facts, ExplanationReason, str]] = [
    (
        facts(),
        R.STARTS_SOON,
        (
            "It should start at once: worker web:2 (id 2) has a free slot, and no due job of its "
            "queue is in front of it; without notifications workers look every 500ms."
        ),
    ),
    (
        facts(job={"scheduled_at": after(-95)}),
        R.STARTS_SOON,
        (
            "It should run: worker web:2 (id 2) has a free slot, but it has been due for 1m35s: "
            "another transaction may have locked its row, or the worker has no working connection; "
            "see its log."
        ),
    ),
    (
        facts(job={"state": "completed", "ended_at": after(0)}),
        R.ENDED,
        "It completed at 2026-11-30 12:00:00 UTC.",
    ),
    (
        facts(
            job={
                "state": "discarded", "ended_at": after(0), "attempt": 3, "max_attempts": 3,
                "last_error": "ValueError: no.\nmore", "archived": True,
            }
        ),
        R.ENDED,
        (
            "It failed for good with attempt 3 of 3 at 2026-11-30 12:00:00 UTC, and is archived: "
            "ValueError: no."
        ),
    ),
    (facts(job={"state": "cancelled"}), R.ENDED, "It was cancelled."),
    (
        facts(job=EXECUTING, worker=holder()),
        R.RUNNING,
        (
            "It has been running on worker web:3 (id 3) since 2026-11-30 11:56:55 UTC, for 3m5s, "
            "attempt 1 of 20; the worker's last heartbeat was 5s ago."
        ),
    ),
    (
        facts(job=EXECUTING, worker=holder(unstarted=True)),
        R.PREFETCHED,
        "Worker web:3 (id 3) has claimed it, and it waits there for a free slot.",
    ),
    (
        facts(job=EXECUTING | {"cancel_requested": True}, worker=holder()),
        R.CANCEL_REQUESTED,
        "Its cancel was requested, and its handler has not ended yet on worker web:3 (id 3).",
    ),
    (
        facts(job=EXECUTING, worker=holder(heartbeat=-200, expires=100), living_workers=1),
        R.WORKER_SILENT,
        (
            "Its worker web:3 (id 3) has sent no heartbeat for 3m20s; if it sends none, it is "
            "considered dead from 2026-11-30 12:01:40 UTC on, and no other worker is alive that "
            "could rescue the job: start one."
        ),
    ),
    (
        facts(
            job=EXECUTING,
            worker=attrs.evolve(holder(heartbeat=-46, expires=254), heartbeat_interval=15.0),
            living_workers=2,
        ),
        R.WORKER_SILENT,
        (
            "Its worker web:3 (id 3) has sent no heartbeat for 46s; if it sends none, other "
            "workers rescue the job from 2026-11-30 12:04:14 UTC on."
        ),
    ),
    (
        facts(job=EXECUTING, worker=holder(heartbeat=-200, expires=100), living_workers=2),
        R.WORKER_SILENT,
        (
            "Its worker web:3 (id 3) has sent no heartbeat for 3m20s; if it sends none, other "
            "workers rescue the job from 2026-11-30 12:01:40 UTC on."
        ),
    ),
    (
        facts(job=EXECUTING, worker=holder(heartbeat=-310, expires=-10), living_workers=2),
        R.WORKER_DEAD,
        (
            "Its worker web:3 (id 3) is dead: it has sent no heartbeat for 5m10s; another "
            "worker "
            "rescues the job by about 2026-11-30 12:00:20 UTC, if workers look every 30s, as by "
            "default."
        ),
    ),
    (
        facts(job=EXECUTING, worker=holder(heartbeat=-360, expires=-60), living_workers=1),
        R.WORKER_DEAD,
        (
            "Its worker web:3 (id 3) is dead: it has sent no heartbeat for 6m; another "
            "worker "
            "rescues the job by about 2026-11-30 12:00:30 UTC, if workers look every 30s, as by "
            "default."
        ),
    ),
    (
        facts(job=EXECUTING),
        R.WORKER_DEAD,
        (
            "Its worker (id 3) is gone without ending it; no worker is alive that could rescue the "
            "job: start one."
        ),
    ),
    (
        facts(job={"pending_parents": 1}, parents={3: "executing"}),
        R.BLOCKED,
        "It waits for 1 job that it depends on: 3 (executing).",
    ),
    (
        facts(job={"pending_parents": 3}, parents={3: "executing", 4: "available"}),
        R.BLOCKED,
        "It waits for 3 jobs that it depends on: 3 (executing), 4 (available), ….",
    ),
    (
        facts(job={"scheduled_at": after(90_000)}),
        R.SCHEDULED,
        "It is due at 2026-12-01 13:00:00 UTC, in 1d1h.",
    ),
    (
        facts(
            job={
                "state": "retryable", "scheduled_at": after(30), "attempt": 2,
                "last_error": "ValueError: no",
            }
        ),
        R.RETRY_SCHEDULED,
        (
            "Attempt 2 of 20 failed: ValueError: no; the next one is due at 2026-11-30 12:00:30 "
            "UTC, in 30s."
        ),
    ),
    (
        facts(paused_at=after(-60), workers=[attrs.evolve(FREE, has_paused=True)]),
        R.QUEUE_PAUSED,
        "Queue 'mail' has been paused since 2026-11-30 11:59:00 UTC.",
    ),
    (
        facts(paused_at=after(-60)),
        R.QUEUE_PAUSED,
        (
            "Queue 'mail' has been paused since 2026-11-30 11:59:00 UTC; 1 worker of it may not "
            "have noticed."
        ),
    ),
    (
        facts(workers=[]),
        R.NO_WORKER,
        "No living worker serves queue 'mail': no worker is alive.",
    ),
    (
        facts(workers=[], living_workers=2, served_queues=["default", "web"]),
        R.NO_WORKER,
        "No living worker serves queue 'mail': the living workers serve 'default', 'web'.",
    ),
    (
        facts(workers=[attrs.evolve(FREE, knows=False)]),
        R.UNKNOWN_TASK,
        "The only living worker of queue 'mail' has no handler for task 'send'.",
    ),
    (
        facts(workers=[attrs.evolve(FREE, knows=False)] * 2),
        R.UNKNOWN_TASK,
        "None of the 2 living workers of queue 'mail' has a handler for task 'send'.",
    ),
    (
        facts(workers=[attrs.evolve(FREE, stopping=True), attrs.evolve(FREE, knows=False)]),
        R.WORKERS_STOPPING,
        "The only worker that could run it is being stopped, and starts no more jobs.",
    ),
    (
        facts(workers=[attrs.evolve(FREE, stopping=True)] * 2),
        R.WORKERS_STOPPING,
        "All 2 workers that could run it are being stopped, and start no more jobs.",
    ),
    (
        facts(limit=LIMIT),
        R.CONCURRENCY_LIMIT,
        "Task 'send' may run 2 jobs at once (by set_limit), and 2 run now: 5, 6.",
    ),
    (
        facts(
            limit=attrs.evolve(LIMIT, limit_by="tenant", set_max_concurrency=None, executing=30),
            job={"limit_key": "acme"},
        ),
        R.CONCURRENCY_LIMIT,
        "Task 'send' with limit key 'acme' may run 2 jobs at once, and 30 run now: 5, 6, ….",
    ),
    (
        facts(limit=attrs.evolve(LIMIT, executing=1, started=60, room_at=after(9))),
        R.RATE_LIMIT,
        (
            "Task 'send' may start 60 jobs a minute, and has started 60; there is room again at "
            "2026-11-30 12:00:09 UTC."
        ),
    ),
    (
        facts(workers=[BUSY], in_front=1),
        R.SLOTS_TAKEN,
        (
            "All 4 slots of the 1 worker that could run it are taken, and 1 due job of its queue "
            "is in front of it."
        ),
    ),
    (
        facts(workers=[BUSY, attrs.evolve(FREE, knows=False)], in_front=1_000),
        R.SLOTS_TAKEN,
        (
            "All 4 slots of the 1 worker that could run it are taken, and 1000 or more due jobs "
            "of its queue are in front of it."
        ),
    ),
    (
        facts(workers=[attrs.evolve(FREE, own_slots=1, of_queue=1)]),
        R.SLOTS_TAKEN,
        (
            "The only slot of the 1 worker that could run it is taken, and no due job of its queue "
            "is in front of it."
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "reason", "message"), SENTENCES, ids=[each[1].value for each in SENTENCES]
)
def test_each_reason_is_said_with_its_names_numbers_and_times(
    given: Facts, reason: ExplanationReason, message: str
) -> None:
    found = explain(given)
    assert (found.reason, found.message) == (reason, message)
    assert (found.job_id, found.state, found.also) == (7, given.job.state, [])


def test_the_sentences_cover_all_reasons() -> None:
    assert {reason for _, reason, _ in SENTENCES} == set(ExplanationReason)


def test_the_time_at_which_a_reason_ends_is_told() -> None:
    ends = {reason: explain(given).expected_at for given, reason, _ in SENTENCES}
    assert {reason for reason, at in ends.items() if at is not None} == {
        R.STARTS_SOON, R.WORKER_SILENT, R.SCHEDULED, R.RETRY_SCHEDULED, R.RATE_LIMIT,
    }  # fmt: skip
    assert explain(facts(job=EXECUTING, living_workers=1)).expected_at == after(30)
    assert ends[R.RATE_LIMIT] == after(9)
    assert explain(facts()).expected_at == after(0.5)
    # A worker of an older version has not told how often it looks.
    older = explain(facts(workers=[attrs.evolve(FREE, poll_interval=None)]))
    assert older.expected_at == after(1)
    assert older.message.endswith("in front of it.")


def test_a_running_jobs_worker_that_is_being_stopped_is_told() -> None:
    worker = attrs.evolve(holder(), stopping=True)
    found = explain(facts(job=EXECUTING, worker=worker))
    assert found.message.endswith("heartbeat was 5s ago, and it is being stopped.")


def test_the_first_reason_comes_first_and_the_others_are_told_too() -> None:
    found = explain(
        facts(
            job={"pending_parents": 1, "scheduled_at": after(5)},
            paused_at=NOW,
            workers=[],
            limit=LIMIT,
        )
    )
    assert found.reason is R.BLOCKED
    # A limit that is reached now says nothing about a later time.
    assert [other.reason for other in found.also] == [R.SCHEDULED, R.QUEUE_PAUSED, R.NO_WORKER]
    found = explain(facts(workers=[BUSY], limit=attrs.evolve(LIMIT, started=60)))
    assert [found.reason, *(other.reason for other in found.also)] == [
        R.CONCURRENCY_LIMIT, R.RATE_LIMIT, R.SLOTS_TAKEN,
    ]  # fmt: skip
    found = explain(facts(job=EXECUTING | {"cancel_requested": True}))
    assert [found.reason, *(other.reason for other in found.also)] == [
        R.WORKER_DEAD, R.CANCEL_REQUESTED,
    ]  # fmt: skip


times = st.datetimes(
    datetime(1900, 1, 1),  # noqa: DTZ001  (hypothesis adds the zone)
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
counts = st.integers(0, 2_000)
texts = st.text(max_size=20)


def arbitrary(kind: type, **fields: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, **fields)


ids = st.integers(1, 2**63 - 1)
jobs = arbitrary(
    JobFacts,
    id=ids, state=st.sampled_from(sorted(JobState)), queue=texts, task=texts, scheduled_at=times,
    attempted_at=st.none() | times, ended_at=st.none() | times, attempt=counts,
    max_attempts=counts, worker_id=st.none() | ids, pending_parents=st.integers(0, 3),
    cancel_requested=st.booleans(), limit_key=st.none() | texts, archived=st.booleans(),
    last_error=st.none() | st.text(max_size=500),
)  # fmt: skip
workers = arbitrary(
    WorkerFacts,
    id=ids, name=texts, concurrency=counts, own_slots=st.none() | counts, knows=st.booleans(),
    has_paused=st.booleans(), stopping=st.booleans(),
    poll_interval=st.none() | st.floats(1e-3, 1e9), running=counts, of_queue=counts,
)  # fmt: skip
limits = arbitrary(
    LimitFacts,
    max_concurrency=st.none() | counts, rate_per_minute=st.none() | counts,
    set_max_concurrency=st.none() | counts, set_rate_per_minute=st.none() | counts,
    limit_by=st.none() | texts, executing=counts, executing_ids=st.lists(ids, max_size=3),
    started=counts, room_at=st.none() | times,
)  # fmt: skip
all_facts = arbitrary(
    Facts,
    now=times, job=jobs, paused_at=st.none() | times,
    parents=st.dictionaries(ids, texts, max_size=3),
    worker=st.none()
    | arbitrary(
        HolderFacts, id=ids, name=texts, heartbeat_at=times, expires_at=times,
        stopping=st.booleans(), unstarted=st.booleans(),
    ),
    living_workers=counts, served_queues=st.lists(texts, max_size=3),
    workers=st.lists(workers, max_size=3), in_front=counts, task_in_front=counts,
    limit=st.none() | limits,
)  # fmt: skip


@given(all_facts)
def test_any_facts_have_one_reason(given: Facts) -> None:
    found = explain(given)
    reasons = [found.reason, *(other.reason for other in found.also)]
    assert len(set(reasons)) == len(reasons)
    # These are said alone: nothing keeps the job from running, or nothing can run it.
    if set(reasons) & {R.ENDED, R.RUNNING, R.STARTS_SOON}:
        assert len(reasons) == 1
    for each in (found, *found.also):
        assert isinstance(each, Explanation)
        assert each.message.endswith(".")
        assert each.message[0].isupper()
        assert json.loads(json.dumps(each.data)) == each.data
        assert (each.job_id, each.state) == (given.job.id, given.job.state)
    assert not [inner for other in found.also for inner in other.also]
