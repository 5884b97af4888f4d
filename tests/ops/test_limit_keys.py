"""Every job has the key that its args and its task say, also after the task has changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable
from tests.support.limits_by_key import claim, ids_of, of, publish, tenants

from roost import HandlerRegistry, JobInsert, Roost, job
from roost._model.encoding import encode_batch, encode_jobs
from roost._model.limits import limit_key_of
from roost._model.states import Event
from roost._model.verdict import Verdict
from roost._ops import control
from roost._ops.enqueue import insert_batch, insert_dependent, insert_job
from roost._ops.limits import (
    KeyPlace,
    mark_limited_jobs,
    revisit_keys,
)
from roost._ops.settle import settle, settle_parents

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


KEYED = "select count(*) from roost.jobs where limit_key = $1::text"


def mark_until_all_are(session: JobTable) -> None:
    def all_are() -> bool:
        session.run(mark_limited_jobs())
        return session.value("select bool_and(all_marked) from roost.limits") is True

    until(all_are, within=30)


def test_jobs_from_before_the_limit_get_their_keys(table: JobTable) -> None:
    worker = table.add_worker()
    table.add_all([of(tenant) for tenant in "aab"])
    [running] = table.claim(worker, limit=1).jobs
    publish(table, max_concurrency=1)
    assert (table.value(KEYED, "a"), table.value(KEYED, "b")) == (2, 1)
    assert tenants([running]) == ["a"]
    assert tenants(claim(table, worker).jobs) == ["b"], "the running one takes the room of a"
    mark_until_all_are(table)


@pytest.mark.parametrize("before", ["none", "another", "nested"])
def test_a_changed_limit_by_gives_new_keys(table: JobTable, before: str) -> None:
    worker = table.add_worker()
    by = {"none": None, "another": "user", "nested": "more.tenant"}[before]
    publish(table, by=by, max_concurrency=2)
    for tenant in ("a", "a", "b", "c"):
        args = {"tenant": tenant, "user": "x", "more": {"tenant": "y"}}
        table.add(args=args, priority=ord(tenant))
    first = claim(table, worker).jobs
    publish(table, max_concurrency=1)
    mark_until_all_are(table)
    assert [table.value(KEYED, tenant) for tenant in "abc"] == [2, 1, 1]
    assert tenants(first) == ["a", "a"]
    assert tenants(claim(table, worker).jobs) == ["b", "c"]
    publish(table, by=None, max_concurrency=3)
    mark_until_all_are(table)
    assert table.value("select count(*) from roost.jobs where limit_key is not null") == 0
    assert claim(table, worker).jobs == []
    table.run(revisit_keys(KeyPlace(), limit=10))
    assert table.value("select count(*) from roost.ready_keys") == 0


def test_a_job_that_was_locked_gets_its_key_later(table: JobTable, sessions: Any) -> None:
    publish(table, by=None, max_concurrency=1)
    mark_until_all_are(table)
    job_id = table.add(args={"tenant": "a"})
    holder = sessions.open()
    with holder.connection.transaction():
        holder.rows("select from roost.jobs where id = $1::bigint for update", job_id)
        publish(table, max_concurrency=1)
        table.run(mark_limited_jobs())
        table.run(mark_limited_jobs())
        assert table.value("select all_marked from roost.limits") is False
    mark_until_all_are(table)
    assert table.column(job_id, "limit_key") == "a"
    assert ids_of(claim(table, table.add_worker())) == [job_id]


def test_many_jobs_get_new_keys(table: JobTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roost._ops.limits.MARK_BATCH", 7)
    publish(table, by="user", max_concurrency=1)
    table.add_all(
        [
            JobInsert("work", {"tenant": n, "user": 1}, queue=f"q{n % 3}", priority=n % 2)
            for n in range(50)
        ]
    )
    publish(table, max_concurrency=1)
    assert table.value("select count(distinct limit_key) from roost.jobs") == 50


def test_released_and_retried_jobs_have_their_keys(table: JobTable) -> None:
    worker = table.add_worker()
    parent = table.add("parent")
    ended = table.add(args={"tenant": "a"})
    with table.connection.transaction():
        [child] = table.run(
            insert_dependent(encode_jobs([JobInsert("work", {"tenant": "b"}, depends_on=[parent])]))
        )
        table.run(control.cancel_job(ended))
    publish(table, max_concurrency=1)
    [claimed] = table.claim(worker, tasks=["parent"]).jobs
    with table.connection.transaction():
        table.run(settle_parents([Verdict(claimed.lease, Event.COMPLETE)], error_cap=20))
        table.run(control.retry_job(ended))
    assert table.column(child, "limit_key") == "b"
    assert table.column(ended, "limit_key") == "a"
    assert sorted(ids_of(claim(table, worker))) == sorted([child, ended])


LONG = "ä" * 201


@pytest.mark.parametrize(
    ("by", "args", "key"),
    [
        ("tenant", {"tenant": "a"}, "a"),
        ("tenant", {"tenant": 7}, "7"),
        ("tenant", {"tenant": True}, "true"),
        ("tenant", {"tenant": None}, ""),
        ("tenant", {}, ""),
        ("tenant", {"tenant": {"id": 1}}, '{"id": 1}'),
        ("tenant.id", {"tenant": {"id": 1}}, "1"),
        ("tenant.id", {"tenant": 3}, ""),
        ("tenant", {"tenant": LONG}, limit_key_of("work", lambda _: LONG, {})),
    ],
)
def test_every_producer_gives_a_job_the_same_key(
    table: JobTable, by: str, args: dict[str, Any], key: str
) -> None:
    publish(table, by=by, max_concurrency=1)
    one = [JobInsert("work", args)]
    table.run(insert_job(encode_jobs(one), unique_key=None))
    table.run(insert_job(encode_jobs(one), unique_key=None, dispatch=True))
    table.run(insert_batch(encode_batch(one * 150)))
    table.run(insert_batch(encode_batch([*one, JobInsert("work", args, priority=3)])))
    with table.connection.transaction():
        table.run(insert_dependent(encode_jobs(one)))
    table.rows("select roost.enqueue('work', args) from roost.jobs limit 1")
    assert table.rows("select limit_key, count(*) from roost.jobs group by 1") == [(key, 156)]
    assert len(claim(table, table.add_worker()).jobs) == 1


def test_a_function_gives_keys_also_before_the_first_worker(table: JobTable) -> None:
    registry = HandlerRegistry()

    def by(args: dict[str, Any]) -> object:
        return args["n"] % 2 or None

    @job("work", max_concurrency=1, limit_by=by, registry=registry)
    async def work(n: int) -> None: ...

    jobs = [JobInsert("work", {"n": n}) for n in range(6)]
    table.run(insert_batch(encode_batch(jobs, registry)))
    publish(table, by=by, max_concurrency=1)
    table.run(insert_batch(encode_batch(jobs, registry)))
    table.add_all([JobInsert("work", {"n": 5})])  # a client that does not have the function
    assert table.rows("select limit_key, count(*) from roost.jobs group by 1 order by 1") == [
        ("", 7),
        ("1", 6),
    ]
    assert len(claim(table, table.add_worker()).jobs) == 2


@pytest.mark.parametrize("limited", [False, True])
def test_a_replaced_job_gets_the_key_of_its_new_args(
    table: JobTable, dsn: str, limited: bool
) -> None:
    registry = HandlerRegistry()

    def by(args: dict[str, Any]) -> object:
        return args["tenant"]

    @job("work", max_concurrency=1, limit_by=by, registry=registry)
    async def work(tenant: str) -> None: ...

    if limited:
        publish(table, by=by, max_concurrency=1)
    with Roost(dsn, registry=registry) as client:
        for tenant in ("before", "after"):
            job_id = client.enqueue(
                "work", args={"tenant": tenant}, unique_key="k", on_conflict="replace"
            )
    assert table.column(job_id, "limit_key") == "after"


def test_each_kind_of_insert_has_its_keys_looked_at(table: JobTable, dsn: str) -> None:
    publish(table, max_concurrency=1)
    registry = HandlerRegistry()
    parent = table.add("parent")
    [done] = table.claim(table.add_worker(), tasks=["parent"]).jobs
    table.run(settle([Verdict(done.lease, Event.COMPLETE)], error_cap=20))
    with Roost(dsn, registry=registry) as client:
        client.enqueue("work", args={"tenant": "one"})
        client.enqueue("work", args={"tenant": "key"}, unique_key="k", unique_while="waiting")
        client.enqueue("work", args={"tenant": "child"}, depends_on=[parent])
        client.enqueue_many([JobInsert("work", {"tenant": "same"})] * 2)
        client.enqueue_many([JobInsert("work", {"tenant": f"many {n}"}) for n in range(150)])
        client.enqueue_many([JobInsert("work", {"tenant": f"p{n}"}, priority=n) for n in range(2)])
        client.add_cron("entry", "0 0 1 1 *", "work", args={"tenant": "cron"})
        client.run_cron_now("entry")
    table.rows("""select roost.enqueue('work', '{"tenant": "sql"}')""")
    table.run(insert_job(encode_jobs([of("insert")]), unique_key=None))
    expected = {"one", "key", "child", "same", "p0", "p1", "cron", "sql", "insert"}
    claimed = claim(table, table.add_worker(), limit=1_000)
    assert set(tenants(claimed.jobs)) == expected | {f"many {n}" for n in range(150)}
