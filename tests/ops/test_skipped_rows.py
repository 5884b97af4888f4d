"""A statement that locks a waiting job notifies workers, since a claim may have skipped the job."""

from __future__ import annotations

import pytest
from tests.support.job_table import JobTable

from roost import JobInsert
from roost._model.encoding import encode_jobs
from roost._ops.enqueue import insert_dependent
from roost._ops.read import await_outcome

LATER = "scheduled_at = now() + interval '1 hour'"


def listening(table: JobTable) -> JobTable:
    table.add_worker()
    table.script("listen roost_jobs")
    table.notifications()
    return table


@pytest.mark.parametrize(
    ("assignments", "announced"),
    [
        ("state = state", [("roost_jobs", "default")]),
        ("state = 'retryable'", [("roost_jobs", "default")]),
        (LATER, []),
        ("pending_parents = 1", []),
        ("state = 'executing'", []),
        ("awaited = true", []),
    ],
)
def test_a_wait_for_a_job_announces_it_if_it_can_start(
    table: JobTable, assignments: str, announced: list[tuple[str, str]]
) -> None:
    job_id = table.add()
    table.change(job_id, assignments)
    listening(table)
    assert table.run(await_outcome(job_id)) is None
    assert table.notifications() == announced


@pytest.mark.parametrize(
    ("assignments", "announced"),
    [("state = state", [("roost_jobs", "other")]), (LATER, []), ("state = 'executing'", [])],
)
def test_a_parent_is_announced_at_the_end_of_the_enqueue_that_locked_it(
    table: JobTable, assignments: str, announced: list[tuple[str, str]]
) -> None:
    parent = table.add(queue="other")
    table.change(parent, assignments)
    table.add_worker(queues=["other"])
    table.script("listen roost_jobs")
    table.notifications()
    child = JobInsert("work", depends_on=[parent])
    with table.connection.transaction():
        table.run(insert_dependent(encode_jobs([child])))
    assert table.notifications() == announced
