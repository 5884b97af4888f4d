"""With 100,000 added cron entries, workers read what is due from an index."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sql.test_plans import Databases, statement, warm_plan
from tests.support.job_table import JobTable

ENTRIES = 100_000
TASKS = [f"task {number}" for number in range(50)]
MANY = f"""
    insert into roost.cron (
        name, source, expression, task, queue, args, priority, max_attempts, misfire, overlap,
        jitter, next_tick_at
    )
    select
        'entry ' || n, 'database', '0 6 * * *', 'task ' || n % 60, 'default', '{{}}', 0, 20, 'last',
        'allow', 0,
        -- Those of the last ten tasks, which no worker knows, are all due.
        case when n % 60 >= 50 then now() - interval '1 day' else now() + interval '1 hour' end
    from generate_series(1, {ENTRIES}) as n;
    update roost.cron set next_tick_at = now() where name in ('entry 1', 'entry 2');
"""


@pytest.fixture(scope="module")
def many(databases: Databases, template: str) -> Iterator[JobTable]:
    with databases.fresh(template) as name, JobTable(databases.dsn_for(name)) as table:
        table.script(MANY)
        table.rows("vacuum analyze roost.cron")
        yield table


@pytest.mark.parametrize("name", ["due", "next_in"])
def test_reading_the_due_entries_walks_over_no_other_ones(many: JobTable, name: str) -> None:
    plan = warm_plan(many, statement(f"cron.{name}"), ["own"], ["f"], TASKS, ["left out"])
    assert "cron_due" in plan.indexes
    assert "cron" not in plan.scanned
    assert plan.blocks <= 5 * len(TASKS)


def test_firing_finds_the_entries_by_name(many: JobTable) -> None:
    rows = many.rows(
        "select name::text, expression, timezone, next_tick_at, start_at, fingerprint, "
        "now() + interval '1 day' from roost.cron where name in ('entry 1', 'entry 2')"
    )
    seen = [[row[column] for row in rows] for column in range(7)]
    ticks = [seen[0], seen[3], [0.0, 0.0], [None, None]]
    plan = warm_plan(many, statement("cron.fire"), *seen, *ticks)
    assert "cron" not in plan.scanned
    assert plan.blocks <= 100
