"""A page has the newest jobs that fit a filter, whichever index finds them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.ops.conftest import Sessions
from tests.support.job_table import JobTable

from roost import FilterTooSlowError, Job, JobState
from roost._drivers.base import run_sync
from roost._model.job_filter import check_filter
from roost._model.validate import MAX_ID
from roost._ops import list_jobs as pages
from roost._ops.query import Op, Query, Row

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
JOBS = 120

# Every third ended job is archived, so that the ids of both tables alternate.
MIXED = f"""
    insert into roost.jobs (
        task, queue, state, priority, inserted_at, scheduled_at, completed_at, discarded_at,
        cancelled_at, worker_id, unique_key, tags, errors, pending_parents, limited
    )
    select
        't' || n % 5, 'q' || n % 3, state, n % 2, at, at,
        case state when 'completed' then at end, case state when 'discarded' then at end,
        case state when 'cancelled' then at end,
        case when state <> 'available' then n % 4 + 1 end,
        case when n % 10 = 0 then 'k' || n % 20 || case when n > 20 then '-' || n else '' end end,
        case when n % 4 = 0 then array['g' || n % 8, 'all'] end,
        case when n % 2 = 0 then jsonb_build_array(jsonb_build_object('error', 'Boom ' || n)) end,
        case when state = 'available' and n % 7 = 0 then 1 else 0 end, n % 11 = 0
    from (
        select
            n, timestamptz '2026-11-01 12:00Z' + (n * 37 % {JOBS}) * interval '1 minute' as at,
            (array['available', 'executing', 'retryable', 'completed', 'discarded', 'cancelled',
                'completed'])[n * 5 % 7 + 1] as state
        from generate_series(1, {JOBS}) as n
    ) as made
    order by n;

    with moved as (
        delete from roost.jobs where completed_at is not null and id % 3 = 0 returning *
    )
    insert into roost.jobs_archive
    select moved.* from moved;
"""

TIMES = st.integers(-10, JOBS + 10).map(lambda minutes: NOW + timedelta(minutes=minutes))
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "ids": st.lists(st.integers(1, JOBS + 5), max_size=20),
        "states": st.lists(st.sampled_from(sorted(JobState)), max_size=4),
        "queues": st.lists(st.sampled_from(["q0", "q1", "q2", "none"]), max_size=3),
        "tasks": st.lists(st.sampled_from(["t0", "t1", "none"]), max_size=2),
        "tags": st.lists(st.sampled_from(["g0", "g4", "all", "none"]), max_size=2),
        "unique_key": st.sampled_from(["k0", "k10", "k0-40", "none"]),
        "worker_id": st.integers(1, 5),
        "error_contains": st.sampled_from(["boom", "BOOM 1", "none"]),
        "inserted_after": TIMES,
        "inserted_before": TIMES,
        "finished_after": TIMES,
        "finished_before": TIMES,
    },
)


@pytest.fixture
def mixed(table: JobTable, monkeypatch: pytest.MonkeyPatch) -> JobTable:
    """Return a table with jobs of all kinds, of which a search takes small steps."""
    monkeypatch.setattr(pages, "WINDOW", 6)
    monkeypatch.setattr(pages, "MANY_ENDED", 8)
    table.script(MIXED)
    return table


def page(table: JobTable, where: dict[str, Any], *, below: int = MAX_ID, limit: int) -> list[Job]:
    checked = check_filter(where, everything=not where).among(list(JobState))
    with table.connection.transaction():
        return table.run(pages.list_jobs(checked, below=below, limit=limit))


def fitting(table: JobTable, where: dict[str, Any]) -> list[int]:
    """Return what a page should have, by the plain meaning of the filter."""
    rows = table.rows(
        "select id, state, queue, task, tags, unique_key, worker_id, errors::text, inserted_at, "
        "greatest(completed_at, cancelled_at, discarded_at) from ("
        "select * from roost.jobs union all "
        "select (jsonb_populate_record(null::roost.jobs, to_jsonb(archived))).* "
        "from roost.jobs_archive as archived) as job"
    )
    tests: dict[str, Callable[[Row, Any], bool]] = {
        "ids": lambda row, value: row[0] in value,
        "states": lambda row, value: row[1] in value,
        "queues": lambda row, value: row[2] in value,
        "tasks": lambda row, value: row[3] in value,
        "tags": lambda row, value: bool(set(row[4] or ()) & set(value)),
        "unique_key": lambda row, value: row[5] == value,
        "worker_id": lambda row, value: row[6] == value,
        "error_contains": lambda row, value: value.lower() in (row[7] or "").lower(),
        "inserted_after": lambda row, value: row[8] >= value,
        "inserted_before": lambda row, value: row[8] < value,
        "finished_after": lambda row, value: row[9] is not None and row[9] >= value,
        "finished_before": lambda row, value: row[9] is not None and row[9] < value,
    }
    return sorted(
        (row[0] for row in rows if all(tests[name](row, value) for name, value in where.items())),
        reverse=True,
    )


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(where=FILTERS, limit=st.integers(1, 30))
def test_the_pages_have_each_job_that_fits_once_newest_first(
    mixed: JobTable, where: dict[str, Any], limit: int
) -> None:
    found: list[int] = []
    below = MAX_ID
    while jobs := page(mixed, where, below=below, limit=limit):
        assert len(jobs) <= limit
        found += [job.id for job in jobs]
        below = found[-1]
    assert found == fitting(mixed, where)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("queues", [None, ["q1"], ["q2", "q0"], ["none"]])
def test_each_state_is_found_with_and_without_queues(
    mixed: JobTable, state: JobState, queues: list[str] | None
) -> None:
    where: dict[str, Any] = {"states": [state]} | ({} if queues is None else {"queues": queues})
    jobs = page(mixed, where, limit=10)
    assert [job.id for job in jobs] == fitting(mixed, where)[:10]
    assert bool(jobs) is (queues != ["none"])


def test_jobs_have_all_their_fields(mixed: JobTable) -> None:
    for job in page(mixed, {}, limit=1_000):
        assert job == mixed.get(job.id)


def stepwise(table: JobTable, operation: Op[Any], before: dict[str, Any]) -> Any:
    """Run an operation, and a call before the statement of a name."""

    def watched() -> Op[Any]:
        query: Query = next(operation)
        while True:
            for name, call in before.items():
                if query.statement.name == f"list_jobs.{name}":
                    call()
            rows = yield query
            try:
                query = operation.send(rows)
            except StopIteration as end:
                return end.value

    with table.connection.transaction():
        return run_sync(table.connection, watched())


def test_a_job_that_is_archived_or_retried_meanwhile_is_on_the_page_once(
    mixed: JobTable, sessions: Sessions
) -> None:
    other = sessions.open()
    before = fitting(mixed, {})

    def archive_and_revive() -> None:
        assert other.archive(limit=100) > 0
        other.rows("delete from roost.jobs_archive where id % 2 = 0")
        assert fitting(other, {}) != before

    search = pages.list_jobs(check_filter({}, everything=True), below=MAX_ID, limit=1_000)
    jobs = stepwise(mixed, search, {"edge_of_newest_archived": archive_and_revive})
    assert [job.id for job in jobs] == before


def test_the_settings_of_the_connection_stay(mixed: JobTable) -> None:
    names = (
        *("statement_timeout", "plan_cache_mode", "jit", "enable_sort", "enable_seqscan"),
        *("enable_bitmapscan", "transaction_isolation", "transaction_read_only"),
    )
    before = [mixed.value(f"show {name}") for name in names]
    page(mixed, {}, limit=5)
    assert [mixed.value(f"show {name}") for name in names] == before


def test_a_search_that_takes_too_long_says_what_to_add(mixed: JobTable) -> None:
    mixed.rows(
        "insert into roost.jobs (task, state, completed_at, errors) "
        "select 'work', 'completed', now(), '[{\"error\": \"x\"}]' "
        "from generate_series(1, 20000)"
    )
    where = check_filter({"error_contains": "y"})
    with (
        pytest.raises(FilterTooSlowError, match="states other than completed and cancelled"),
        mixed.connection.transaction(),
    ):
        mixed.run(pages.list_jobs(where, below=MAX_ID, limit=5, timeout=1))
