"""A worker's row is renewed and removed; jobs that it does not know of are released."""

from __future__ import annotations

from collections.abc import Collection

from tests.support.job_table import JobTable

from roost import JobInsert
from roost._model.verdict import Lease
from roost._ops.workers import forget_worker, release_unheld, renew_worker


def release(table: JobTable, worker: int, held: Collection[Lease] = ()) -> list[int]:
    with table.connection.transaction():
        return table.run(release_unheld(worker, held=held))


def test_a_worker_is_renewed_until_its_row_is_gone(table: JobTable) -> None:
    worker = table.add_worker(stale_after=10)
    assert table.run(renew_worker(worker, stale_after=500)) is True
    left = table.value("select extract(epoch from expires_at - now())::float8 from roost.workers")
    assert 495 < left <= 500
    table.run(forget_worker(worker))
    assert table.run(renew_worker(worker, stale_after=500)) is False
    assert table.workers() == []


def test_jobs_that_a_worker_does_not_know_of_are_given_back_without_an_error(
    table: JobTable,
) -> None:
    worker, other = table.add_worker(), table.add_worker("other")
    ids = table.add_all([JobInsert("work")] * 5)
    table.claim(other, limit=1)
    table.claim(worker)
    table.change(ids[4], "cancel_requested = true")
    # The worker knows the lease of the second job, and an older lease of the third.
    held = [Lease(ids[1], worker, 1), Lease(ids[2], worker, 0), Lease(ids[3], other, 1)]
    assert release(table, worker, held=held) == ids[2:]
    assert [table.get(job_id).state for job_id in ids] == [
        "executing",
        "executing",
        "available",
        "available",
        "cancelled",
    ]
    given_back = table.get(ids[2])
    assert (given_back.attempt, given_back.errors) == (0, [])
    assert table.get(ids[4]).cancelled_at is not None
    assert release(table, worker, held=held) == []
