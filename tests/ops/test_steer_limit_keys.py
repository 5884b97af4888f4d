"""Jobs with limit keys are claimed after a change, and count for the key of their new args."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.job_table import JobTable
from tests.support.limits_by_key import claim, end, ids_of, of, publish, tenants

from roost import HandlerRegistry, InvalidJobError, Roost, job

LATER = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def client(dsn: str, registry: HandlerRegistry) -> Iterator[Roost]:
    with Roost(dsn, registry=registry) as client:
        yield client


def add(table: JobTable, tenant: str) -> int:
    [job_id] = table.add_all([of(tenant, scheduled_at=LATER)])
    return job_id


def test_a_changed_job_is_found_by_the_next_claim(client: Roost, table: JobTable) -> None:
    publish(table, max_concurrency=1)
    worker = table.add_worker()
    now, moved, sooner, late = (add(table, tenant) for tenant in "abcd")
    assert ids_of(claim(table, worker)) == []
    assert client.run_now(now)
    assert ids_of(claim(table, worker)) == [now]
    assert client.reschedule(sooner, in_=0)
    assert ids_of(claim(table, worker)) == [sooner]
    assert client.update_job(moved, queue="other", schedule_in=0)
    assert ids_of(claim(table, worker)) == []
    assert ids_of(claim(table, worker, queues=["other"])) == [moved]
    assert client.run_jobs_now(ids=[late]) == 1
    assert ids_of(claim(table, worker)) == [late]


def test_a_job_with_new_args_counts_for_their_key(client: Roost, table: JobTable) -> None:
    publish(table, max_concurrency=1)
    worker = table.add_worker()
    table.add_all([of("busy")])
    [running] = claim(table, worker).jobs
    first, second = add(table, "x"), add(table, "y")
    assert client.update_job(first, args={"tenant": "busy"}, schedule_in=0)
    assert ids_of(claim(table, worker)) == []
    assert client.update_jobs({"args": {"tenant": "free"}, "schedule_in": 0}, ids=[second]) == 1
    assert tenants(claim(table, worker).jobs) == ["free"]
    assert [table.column(job_id, "limit_key") for job_id in (first, second)] == ["busy", "free"]
    end(table, running)
    assert ids_of(claim(table, worker)) == [first]


def test_other_changes_keep_the_key(client: Roost, table: JobTable) -> None:
    publish(table, max_concurrency=1)
    job_id = add(table, "a")
    assert client.update_job(job_id, priority=3)
    assert table.column(job_id, "limit_key") == "a"


def test_a_function_gives_the_key_of_new_args(
    client: Roost, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", limit_by=lambda args: args["tenant"].lower(), max_concurrency=1, registry=registry)
    def work(tenant: str) -> None: ...

    publish(table, by=lambda args: args["tenant"], max_concurrency=1)
    jobs = [
        client.enqueue("work", args={"tenant": "A"}, schedule_in=timedelta(hours=1))
        for _ in range(2)
    ]
    assert client.update_job(jobs[0], args={"tenant": "B"})
    assert client.update_jobs({"args": {"tenant": "C"}}, ids=jobs[1:]) == 1
    assert [table.column(job_id, "limit_key") for job_id in jobs] == ["b", "c"]
    with pytest.raises(InvalidJobError, match="limit_by of task 'work' failed"):
        client.update_job(jobs[0], args={"other": 1})
    other = client.enqueue("other")
    assert client.update_jobs({"args": {"other": 1}}, tasks=["other"]) == 1
    assert table.get(other).args == {"other": 1}
    assert table.get(jobs[0]).args == {"tenant": "B"}
