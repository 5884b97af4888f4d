"""A verdict is written under its lease, or not at all."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from tests.support.job_table import JobTable

from roost import fixed
from roost._model.states import Event
from roost._model.verdict import (
    CancelRequested,
    Ending,
    Interrupted,
    Lease,
    Raised,
    Returned,
    TimedOut,
    Verdict,
    judge,
)
from roost._ops.claim import ClaimedJob
from roost.exceptions import SnoozeJob


def claim_one(table: JobTable, **fields: Any) -> ClaimedJob:
    job_id = table.add(**fields)
    [claimed] = [job for job in table.claim(table.add_worker()).jobs if job.lease.job_id == job_id]
    return claimed


def verdict(claimed: ClaimedJob, ending: Ending, *, delay: float = 100) -> Verdict:
    return judge(
        ending,
        lease=claimed.lease,
        attempt=claimed.attempt,
        max_attempts=claimed.max_attempts,
        retry=fixed(delay),
    )


def due_in(table: JobTable, job_id: int) -> float:
    seconds = table.value(
        "select extract(epoch from scheduled_at - now())::float8 from roost.jobs "
        "where id = $1::bigint",
        job_id,
    )
    assert isinstance(seconds, float)
    return seconds


def test_a_return_completes_with_its_result(table: JobTable) -> None:
    claimed = claim_one(table)
    assert table.settle(verdict(claimed, Returned({"a": [1, None]}))) == []
    row = table.get(claimed.lease.job_id)
    assert (row.state, row.attempt, row.result) == ("completed", 1, {"a": [1, None]})
    assert row.completed_at is not None
    assert (row.discarded_at, row.cancelled_at, row.errors) == (None, None, [])


def test_a_return_of_none_stores_no_result(table: JobTable) -> None:
    claimed = claim_one(table)
    table.settle(verdict(claimed, Returned(None)))
    assert table.column(claimed.lease.job_id, "result") is None


def test_a_failure_waits_for_its_retry(table: JobTable) -> None:
    claimed = claim_one(table)
    table.settle(verdict(claimed, Raised(ValueError("no"))))
    row = table.get(claimed.lease.job_id)
    assert (row.state, row.attempt) == ("retryable", 1)
    assert 95 < due_in(table, row.id) <= 100
    [error] = row.errors
    assert (error["attempt"], error["error"]) == (1, "ValueError: no")
    assert datetime.fromisoformat(error["at"]) <= row.scheduled_at
    assert "ValueError" in error["trace"]


def test_the_last_failure_discards(table: JobTable) -> None:
    claimed = claim_one(table, max_attempts=1)
    table.settle(verdict(claimed, TimedOut(limit=2)))
    row = table.get(claimed.lease.job_id)
    assert (row.state, row.attempt, len(row.errors)) == ("discarded", 1, 1)
    assert row.discarded_at is not None
    assert row.completed_at is None


def test_a_snooze_gives_the_attempt_back_and_writes_no_error(table: JobTable) -> None:
    claimed = claim_one(table)
    table.settle(verdict(claimed, Raised(SnoozeJob(50))))
    row = table.get(claimed.lease.job_id)
    assert (row.state, row.attempt, row.errors) == ("available", 0, [])
    assert 45 < due_in(table, row.id) <= 50


def test_an_interruption_gives_the_attempt_back(table: JobTable) -> None:
    claimed = claim_one(table)
    table.settle(verdict(claimed, Interrupted()))
    row = table.get(claimed.lease.job_id)
    assert (row.state, row.attempt, row.errors) == ("available", 0, [])
    assert row.scheduled_at == claimed.job().scheduled_at


def test_a_cancel_is_final(table: JobTable) -> None:
    claimed = claim_one(table)
    table.settle(verdict(claimed, CancelRequested()))
    row = table.get(claimed.lease.job_id)
    assert (row.state, row.attempt) == ("cancelled", 1)
    assert row.cancelled_at is not None


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (Raised(ValueError()), "cancelled"),
        (TimedOut(limit=1), "cancelled"),
        (Interrupted(), "cancelled"),
        (Raised(SnoozeJob(5)), "cancelled"),
        (Returned(1), "completed"),
    ],
)
def test_a_requested_cancel_allows_no_other_attempt(
    table: JobTable, ending: Ending, state: str
) -> None:
    claimed = claim_one(table)
    table.change(claimed.lease.job_id, "cancel_requested = true")
    assert table.settle(verdict(claimed, ending)) == []
    row = table.get(claimed.lease.job_id)
    assert row.state == state
    assert (row.cancelled_at is not None) == (state == "cancelled")


ENDINGS: list[Ending] = [
    Returned(1),
    Raised(ValueError("late")),
    TimedOut(limit=1),
    Raised(SnoozeJob(5)),
    Interrupted(),
    CancelRequested(),
]


def names(ending: Ending) -> str:
    return type(ending).__name__


@pytest.mark.parametrize("ending", ENDINGS, ids=names)
@pytest.mark.parametrize("wrong", ["lease_no", "worker_id", "id"])
def test_a_wrong_lease_changes_nothing_and_is_reported(
    table: JobTable, ending: Ending, wrong: str
) -> None:
    claimed = claim_one(table)
    right = claimed.lease
    lease = {
        "lease_no": Lease(right.job_id, right.worker_id, right.lease_no + 1),
        "worker_id": Lease(right.job_id, right.worker_id + 1, right.lease_no),
        "id": Lease(right.job_id + 1, right.worker_id, right.lease_no),
    }[wrong]
    before = table.rows("select * from roost.jobs")
    late = judge(ending, lease=lease, attempt=1, max_attempts=20, retry=fixed(1))
    assert table.settle(late) == [lease]
    assert table.rows("select * from roost.jobs") == before


@pytest.mark.parametrize("first", ENDINGS, ids=names)
@pytest.mark.parametrize("second", ENDINGS, ids=names)
def test_only_the_first_verdict_of_a_lease_counts(
    table: JobTable, first: Ending, second: Ending
) -> None:
    claimed = claim_one(table)
    assert table.settle(verdict(claimed, first)) == []
    before = table.rows("select * from roost.jobs")
    assert table.settle(verdict(claimed, second)) == [claimed.lease]
    assert table.rows("select * from roost.jobs") == before


@pytest.mark.parametrize("ending", ENDINGS, ids=names)
def test_a_verdict_of_an_earlier_claim_changes_nothing(table: JobTable, ending: Ending) -> None:
    worker = table.add_worker()
    job_id = table.add()
    [old] = table.claim(worker).jobs
    table.settle(
        verdict(old, Raised(SnoozeJob(0)))
    )  # the attempt number goes down, the lease number does not
    [new] = table.claim(worker).jobs
    assert (new.attempt, new.lease.lease_no) == (old.attempt, old.lease.lease_no + 1)
    before = table.rows("select * from roost.jobs")
    assert table.settle(verdict(old, ending)) == [old.lease]
    assert table.rows("select * from roost.jobs") == before
    assert table.settle(verdict(new, Returned(None))) == []
    assert table.get(job_id).state == "completed"


def test_a_batch_of_all_kinds_is_written_and_the_lost_are_named(table: JobTable) -> None:
    worker = table.add_worker()
    for _ in range(12):
        table.add(max_attempts=1)
    claimed = table.claim(worker, limit=12).jobs
    verdicts = [verdict(job, ENDINGS[index % 6]) for index, job in enumerate(claimed)]
    gone = claimed[3].lease, claimed[6].lease
    for lease in gone:
        table.change(lease.job_id, "lease_no = 9")
    lost = table.settle(*reversed(verdicts))
    assert sorted(lost, key=lambda lease: lease.job_id) == sorted(
        gone, key=lambda lease: lease.job_id
    )
    assert table.states() == {
        "completed": 1,
        "discarded": 4,
        "available": 3,
        "cancelled": 2,
        "executing": 2,
    }


def test_no_verdicts_need_no_statement(table: JobTable) -> None:
    assert table.settle() == []


@pytest.mark.parametrize("cap", [1, 3, 20])
def test_a_row_keeps_the_newest_errors(table: JobTable, cap: int) -> None:
    worker = table.add_worker()
    job_id = table.add(max_attempts=100)
    for attempt in range(1, 25):
        [claimed] = table.claim(worker).jobs
        failure = verdict(claimed, Raised(ValueError(f"number {attempt}")), delay=0)
        assert table.settle(failure, error_cap=cap) == []
    errors = table.get(job_id).errors
    assert [error["attempt"] for error in errors] == list(range(25 - cap, 25))
    assert errors[-1]["error"] == "ValueError: number 24"


def test_a_lower_cap_drops_older_errors(table: JobTable) -> None:
    claimed = claim_one(table)
    table.change(
        claimed.lease.job_id,
        "errors = (select jsonb_agg(jsonb_build_object('attempt', n)) "
        "from generate_series(1, 9) n)",
    )
    table.settle(verdict(claimed, Raised(ValueError())), error_cap=2)
    assert [error["attempt"] for error in table.get(claimed.lease.job_id).errors] == [9, 1]


def test_a_verdict_names_no_state_that_its_event_does_not_lead_to(table: JobTable) -> None:
    claimed = claim_one(table)
    for event in (Event.CLAIM, Event.DISPATCH, Event.ENQUEUE):
        with pytest.raises(LookupError):
            table.settle(Verdict(claimed.lease, event))
    assert table.get(claimed.lease.job_id).state == "executing"
