"""A page of archived jobs is read by the archive's indexes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.sql.test_plans import Databases, explained_page
from tests.support.job_table import JobTable

from roost._model.job_filter import check_filter
from roost._model.states import JobState
from roost._model.validate import MAX_ID
from roost._ops.list_jobs import list_jobs

ARCHIVED = """
    insert into roost.jobs_archive (
        id, task, queue, state, completed_at, cancelled_at, scheduled_at, inserted_at, lease_no,
        priority, attempt, max_attempts, pending_parents, cancel_requested, has_children, limited,
        args
    )
    select
        n, 'work', 'default', case when n % 100 = 0 then 'cancelled' else 'completed' end,
        case when n % 100 > 0 then now() - n / 2500 * interval '1 hour' end,
        case when n % 100 = 0 then now() - n / 2500 * interval '1 hour' end,
        now(), now(), 1, 0, 1, 20, 0, false, false, false, '{}'
    from generate_series(1, 100000) as n;
"""


@pytest.fixture(scope="module")
def archived(databases: Databases, template: str) -> Iterator[JobTable]:
    with (
        databases.fresh(template) as name,
        JobTable(databases.dsn_for(name)) as table,
    ):
        table.script(ARCHIVED)
        table.rows("vacuum analyze roost.jobs_archive")
        yield table


@pytest.mark.parametrize(
    ("given", "found", "most"),
    [
        # Behind the newest 10,000 archived jobs, all of the state are read, and no others.
        ({"states": ["cancelled"], "queues": ["none"]}, 0, 2_500),
        ({"finished_before": timedelta(hours=-38.5)}, 50, 1_000),
        (
            {"finished_before": timedelta(hours=-2.5), "finished_after": timedelta(hours=-3.5)},
            50,
            500,
        ),
        ({"finished_after": timedelta(hours=1)}, 0, 100),
    ],
    ids=str,
)
def test_a_page_of_archived_jobs_reads_those_that_may_fit(
    archived: JobTable, given: dict[str, Any], found: int, most: int
) -> None:
    now = datetime.now(UTC)
    given = {
        name: now + value if isinstance(value, timedelta) else value
        for name, value in given.items()
    }
    where = check_filter(given).among(list(JobState))
    scanned, blocks, jobs = explained_page(archived, list_jobs(where, below=MAX_ID, limit=50))
    assert jobs == found
    assert "jobs_archive" not in scanned
    assert blocks < most
