"""A retry of a job that depends on others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.job_table import JobTable

from roost import DuplicateUniqueJobError, InvalidJobError, Roost


@pytest.fixture
def client(dsn: str) -> Iterator[Roost]:
    with Roost(dsn) as client:
        yield client


def test_a_retried_child_waits_for_its_parent_again(client: Roost, table: JobTable) -> None:
    parent = client.enqueue("work")
    child = client.enqueue("work", depends_on=[parent])
    assert client.cancel(child)
    assert client.retry(child)
    worker = table.add_worker()
    [claimed] = table.claim(worker).jobs
    assert claimed.lease.job_id == parent
    assert table.value("select pending_parents from roost.jobs where id = $1::bigint", child) == 1
    client.cancel(parent)
    assert table.get(child).state == "available"


def test_a_child_is_retried_after_its_parent_and_not_before(client: Roost, table: JobTable) -> None:
    parent = client.enqueue("work")
    child = client.enqueue("work", depends_on=[parent])
    assert client.cancel(parent)
    assert table.get(child).state == "cancelled"
    with pytest.raises(InvalidJobError, match=f"job {parent}, which was cancelled"):
        client.retry(child)
    assert table.get(child).state == "cancelled"
    assert client.retry(parent)
    assert client.retry(child)
    [claimed] = table.claim(table.add_worker()).jobs
    assert claimed.lease.job_id == parent


def test_a_retried_child_of_a_completed_parent_runs(client: Roost, table: JobTable) -> None:
    parent = client.enqueue("work")
    child = client.enqueue("work", depends_on=[parent])
    assert client.cancel(child)
    table.value(
        "update roost.jobs set state = 'completed', completed_at = now() "
        "where id = $1::bigint returning 1",
        parent,
    )
    assert client.retry(child)
    [claimed] = table.claim(table.add_worker()).jobs
    assert claimed.lease.job_id == child


def test_a_refused_retry_leaves_an_archived_job_in_the_archive(
    client: Roost, table: JobTable
) -> None:
    archived = client.enqueue("work", unique_key="a")
    assert client.cancel(archived)
    assert table.archive() == 1
    holder = client.enqueue("work", unique_key="a")
    with pytest.raises(DuplicateUniqueJobError) as refused:
        client.retry(archived)
    assert refused.value.existing_id == holder
    assert table.value("select array_agg(id) from roost.jobs_archive") == [archived]
    assert client.cancel(holder)
    assert client.retry(archived)
    assert table.get(archived).state == "available"
