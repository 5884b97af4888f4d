"""The values that the rules draw: alphabets so small that things collide."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st
from property_tests.words import (
    DEAD_CHANNEL,
    LIVE_CHANNELS,
    Call,
    Cancel,
    CancelItself,
    DiscardItself,
    End,
    Ending,
    Fail,
    FailForGood,
    Grant,
    NewJob,
    Release,
    RetryItself,
    Snooze,
    Succeed,
    TimeOut,
)

from roost._model.states import TERMINAL, JobState
from roost._model.validate import MAX_ID

QUEUES = ["mail", "media"]
TASKS = ["resize", "send"]
UNKNOWN_TASK = "gone"  # no worker knows it
UNKNOWN_JOB = 10**6
KEYS = ["one", "two"]
WAITS = [0, 0, 5, 60]
"""Seconds of a snooze, a retry, a schedule. `STEPS` has the same values, and one second less."""
STEPS = [1, 4, 5, 60]
STALE_AFTER = [5, 60]
MOST_WORKERS = 3
MOST_ERRORS = 3

ARGS: list[dict[str, Any]] = [{}, {"size": 7}, {"to": {"name": "Zoë", "ids": [1, 2.5, None]}}]

TOO_LONG = {"text": "x" * 8_000}
"""Args longer than a notification may be."""


def queues() -> st.SearchStrategy[list[str]]:
    """Return lists of one queue or both, in either order."""
    return st.sampled_from([QUEUES, QUEUES[::-1], QUEUES[:1], QUEUES[1:]])


def plain_jobs() -> st.SearchStrategy[NewJob]:
    """Return due jobs that can run at once."""
    return st.builds(
        NewJob,
        task=st.sampled_from(TASKS),
        queue=st.sampled_from(QUEUES),
        priority=st.integers(0, 1),
        max_attempts=st.sampled_from([1, 2, 3, 3]),
        due_in=st.sampled_from([None, -1, -60]),
    )


def new_jobs() -> st.SearchStrategy[NewJob]:
    """Return jobs of every kind, without parents."""
    return st.builds(
        NewJob,
        task=st.sampled_from([*TASKS, *TASKS, UNKNOWN_TASK]),
        queue=st.sampled_from(QUEUES),
        priority=st.integers(0, 2),
        max_attempts=st.sampled_from([1, 2, 3, 3]),
        due_in=st.sampled_from([None, None, None, -60, 0, 5, 60, 61]),
        unique_key=st.sampled_from([None, None, None, *KEYS]),
        tags=st.sampled_from([None, [], ["red", "blue"]]),
        timeout_seconds=st.sampled_from([None, 30]),
        args=st.sampled_from(ARGS),
        metadata=st.sampled_from([None, {}, {"trace": "a1"}]),
    )


def jobs_with_parents(jobs: st.SearchStrategy[int]) -> st.SearchStrategy[NewJob]:
    """Return jobs of every kind; some are children of ``jobs``, or of one that doesn't exist."""
    parents = st.lists(jobs, min_size=1, max_size=2)
    none, unknown = st.none(), st.just([UNKNOWN_JOB])
    return st.builds(
        lambda job, depends_on: attrs.evolve(job, depends_on=depends_on),
        new_jobs(),
        st.one_of(none, none, none, parents, parents, parents, unknown),
    )


def unique_jobs(jobs: st.SearchStrategy[int]) -> st.SearchStrategy[NewJob]:
    """Return jobs with unique keys and their options; few have parents."""
    changes = st.fixed_dictionaries(
        {
            "task": st.sampled_from([TASKS[0], TASKS[0], TASKS[1]]),
            "unique_key": st.sampled_from([*KEYS, *KEYS, None]),
            "unique_while": st.sampled_from(["active", "waiting"]),
            "unique_for": st.sampled_from([None, None, 5, 60]),
        }
    )

    def of(job: NewJob, changed: dict[str, Any]) -> NewJob:
        if changed["unique_key"] is None:
            changed = {**changed, "unique_while": "active", "unique_for": None}
        return attrs.evolve(job, **changed)

    return st.builds(of, st.one_of(new_jobs(), new_jobs(), jobs_with_parents(jobs)), changes)


def enqueues_of_children(jobs: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """Return enqueues of a child each."""

    def of(job: NewJob, parents: list[int]) -> Call:
        return Call("enqueue", {"job": attrs.evolve(job, depends_on=parents)})

    return st.builds(of, new_jobs(), st.lists(jobs, min_size=1, max_size=2))


def enqueues_alone() -> st.SearchStrategy[Call]:
    """Return enqueues of a job each in a transaction of its own."""
    return enqueues_to_dispatch() | _calls("enqueue_alone", job=new_jobs())


def enqueues_to_dispatch() -> st.SearchStrategy[Call]:
    """Return the same, of jobs that can nearly always be dispatched directly."""
    changes = st.fixed_dictionaries(
        {
            "task": st.sampled_from(TASKS),
            "max_attempts": st.sampled_from([2, 3, 3, 1]),
            "due_in": st.sampled_from([None, -1, 0]),
            "unique_key": st.sampled_from([None, None, *KEYS]),
            "args": st.sampled_from([*ARGS, TOO_LONG]),
        }
    )
    jobs = st.builds(lambda job, changed: attrs.evolve(job, **changed), new_jobs(), changes)
    return _calls("enqueue_alone", job=jobs)


def claims(workers: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """Return claims by workers that have, or had, a row."""
    return _calls(
        "claim",
        worker_id=workers,
        queues=queues(),
        tasks=st.sampled_from([TASKS, TASKS, TASKS[:1], []]),
        limit=st.integers(1, 3),
        **prefetching(),
    )


def prefetching() -> dict[str, st.SearchStrategy[Any]]:
    """Return a claim's parameters about jobs that wait for a slot."""
    return {
        "slots": st.sampled_from([None, 0, 1]),
        "prefetch_no": st.integers(1, 2),
        "soon": st.booleans(),
    }


def greedy_claims(workers: st.SearchStrategy[int], limit: int) -> st.SearchStrategy[Call]:
    """Return claims of every task in every queue."""
    return _calls(
        "claim",
        worker_id=workers,
        queues=st.sampled_from([QUEUES, QUEUES[::-1]]),
        tasks=st.just(TASKS),
        limit=st.just(limit),
        **prefetching(),
    )


def settles(grants: st.SearchStrategy[Grant]) -> st.SearchStrategy[Call]:
    """Return settles of a batch of leases, held or not, several of one job included."""
    ends = st.lists(
        st.builds(End, grants, endings()),
        min_size=1,
        max_size=3,
        unique_by=lambda end: end.grant.lease,
    )
    return _calls("settle", ends=ends, error_cap=error_caps(), keep_completed=st.booleans())


def metadata(grants: st.SearchStrategy[Grant]) -> st.SearchStrategy[Call]:
    """Return changes of the metadata of jobs, under leases that hold or do not."""
    values = st.sampled_from([None, 1, {"value": 2}])
    changes = st.dictionaries(st.sampled_from(["progress", "trace"]), values, min_size=1)
    return _calls("update_metadata", grant=grants, changes=changes)


def endings() -> st.SearchStrategy[Ending]:
    """Return endings of an attempt, of every kind."""
    return st.one_of(
        st.builds(Succeed, st.sampled_from([None, 0, "done", [1, {"a": None}]])),
        st.builds(Fail, st.sampled_from(["no", "never"]), st.sampled_from(WAITS)),
        st.builds(Fail, st.just("again"), st.just(0)),
        st.just(Succeed(None)),
        st.builds(TimeOut, st.just(30), st.sampled_from(WAITS)),
        st.builds(Snooze, st.sampled_from(WAITS)),
        decisions(),
        st.just(Release()),
        st.just(Cancel()),
    )


def decisions() -> st.SearchStrategy[Ending]:
    """Return endings that a handler, or its task's rules, decide."""
    return st.one_of(
        st.just(CancelItself("not wanted")),
        st.just(DiscardItself("no image")),
        st.builds(RetryItself, st.just("busy"), st.sampled_from(WAITS)),
        st.just(FailForGood("never")),
    )


def error_caps() -> st.SearchStrategy[int]:
    """Return caps on the number of errors a row keeps."""
    return st.sampled_from([1, 1, 2, MOST_ERRORS])


def rescues() -> st.SearchStrategy[Call]:
    """Return rescues."""
    return _calls("rescue", limit=st.integers(1, 2), error_cap=error_caps())


def expires() -> st.SearchStrategy[Call]:
    """Return removals of expired workers."""
    return _calls("expire")


def worker_updates(workers: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """Return heartbeats, changes of notify mode and credit, and the end of a worker."""
    return st.one_of(
        _calls("renew", worker_id=workers, stale_after=st.sampled_from(STALE_AFTER)),
        _calls("set_wants_notify", worker_id=workers, wants_notify=st.booleans()),
        credit_grants(workers),
        _calls("revoke_credit", worker_id=workers),
        _calls("confirm_pauses", worker_id=workers, queues=queues()),
        _calls("forget", worker_id=workers),
    )


def credit_for(worker_id: int) -> Call:
    """Return a grant of credit for any task."""
    words = {"number": 4, "channel": LIVE_CHANNELS[0], "tasks": TASKS}
    return Call("grant_credit", {"worker_id": worker_id, **words})


def credit_grants(workers: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """Return grants of credit, some on a channel without a listener."""
    return _calls(
        "grant_credit",
        worker_id=workers,
        number=st.integers(1, 3),
        channel=st.sampled_from([*LIVE_CHANNELS, *LIVE_CHANNELS, DEAD_CHANNEL]),
        tasks=st.sampled_from([TASKS, TASKS, TASKS, TASKS[:1]]),
    )


def dispatches(workers: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """Return accepts of a dispatched job, and take-overs of unaccepted ones."""
    take = _calls(
        "take_unaccepted",
        worker_id=workers,
        queues=st.sampled_from([QUEUES, QUEUES, QUEUES[:1]]),
        tasks=st.sampled_from([TASKS, TASKS, TASKS[:1]]),
        after=st.sampled_from([0, 0, 1]),
    )
    return take | _calls("accept_dispatched", worker_id=workers, next_credit=st.none() | st.just(9))


def releases(workers: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """Return releases of all jobs that a worker does not know of."""
    return _calls("release_unheld", worker_id=workers, held=st.just([]))


def archiving() -> st.SearchStrategy[Call]:
    """Return moves to the archive, deletions of ended jobs, and removals of results."""
    after = st.sampled_from(STEPS)
    states = st.sampled_from([sorted(TERMINAL), *([state] for state in sorted(TERMINAL))])
    return st.one_of(
        _calls("archive_jobs", states=states, after=after),
        _calls("delete_ended", states=states, after=after),
        _calls("forget_results", after=after),
        _calls("forget_unique_holds"),
    )


def steering(jobs: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """Return changes of waiting jobs, and a deletion."""
    changes = st.fixed_dictionaries(
        {},
        optional={
            "queue": st.sampled_from(QUEUES),
            "priority": st.integers(-1, 1),
            "args": st.sampled_from(ARGS),
            "max_attempts": st.integers(1, 3),
            "tags": st.sampled_from([None, ["new"]]),
            "timeout_seconds": st.sampled_from([None, 30]),
            "metadata": st.sampled_from([None, {"trace": "x"}]),
            "schedule_in": st.sampled_from(WAITS),
        },
    ).filter(bool)
    return st.one_of(
        _calls("run_now", job_id=jobs),
        _calls("reschedule", job_id=jobs, seconds=st.sampled_from([0, 5, 60, 61])),
        _calls("update", job_id=jobs, changes=changes),
        _calls("delete", job_id=jobs),
    )


def control() -> st.SearchStrategy[Call]:
    """Return admin calls on whole queues; most of them let jobs run."""
    queue = st.sampled_from(QUEUES)
    requeue = _calls("requeue_discarded", queue=st.none() | queue)
    resume = _calls("resume", queue=queue)
    return st.one_of(requeue, requeue, resume, resume, _calls("pause", queue=queue))


def reads(jobs: st.SearchStrategy[int], workers: st.SearchStrategy[int]) -> st.SearchStrategy[Call]:
    """Return reads, and a reconnect: none of them changes the tables."""
    return st.one_of(
        _calls("look", job_id=jobs | st.just(UNKNOWN_JOB)),
        _calls("cancel_requests", worker_id=workers),
        _calls("count", queues=queues()),
        _calls("list_queues"),
        _calls(
            "list_jobs",
            states=st.none() | st.lists(st.sampled_from(sorted(JobState)), max_size=3),
            queues=st.none() | st.lists(st.sampled_from(QUEUES), max_size=2),
            below=st.sampled_from([MAX_ID, MAX_ID, 4, 8]),
        ),
        _calls("paused_queues", queues=queues()),
        _calls("unconfirmed_workers", queue=st.sampled_from(QUEUES)),
        _calls("list_workers"),
        _calls("reconnect"),
    )


def _calls(verb: str, **parameters: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    return st.builds(Call, st.just(verb), st.fixed_dictionaries(parameters))
