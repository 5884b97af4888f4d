"""Clients change and delete jobs: by id, by a filter, and in the caller's transaction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
import pytest
from pydantic import BaseModel
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    DuplicateUniqueJobError,
    FilterTooSlowError,
    HandlerRegistry,
    InvalidJobError,
    JobBlockedError,
    JobInsert,
    JobLockedError,
    JobNotFoundError,
    NotInTransactionError,
    Roost,
    job,
)
from roost._client import steering_calls
from roost._ops import steer
from roost._ops.dependencies import cancel_descendants
from roost._ops.query import Op

LATER = datetime(2030, 1, 1, tzinfo=UTC)
SINGLE = ("cancel", "retry", "run_now", "reschedule", "update_job", "delete")
BULK = (
    *("cancel_jobs", "retry_jobs", "run_jobs_now", "reschedule_jobs", "update_jobs"),
    "delete_jobs",
)


@pytest.fixture
def blocking(dsn: str, registry: HandlerRegistry) -> Iterator[Roost]:
    with Roost(dsn, registry=registry) as client:
        yield client


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pages and batches small."""
    monkeypatch.setattr(steering_calls, "PAGE", 7)
    monkeypatch.setattr(steering_calls, "BATCH", 3)


def call(name: str, **options: Any) -> Callable[[Roost], int]:
    """Return a call of a verb over a filter, with what it needs besides."""
    if name == "update_jobs":
        return lambda client: client.update_jobs({"priority": 9}, **options)
    if name == "reschedule_jobs":
        return lambda client: client.reschedule_jobs(at=LATER, **options)
    return lambda client: getattr(client, name)(**options)


def ids_of(table: JobTable, where: str) -> set[int]:
    return {job_id for (job_id,) in table.rows(f"select id from roost.jobs where {where}")}


def finish(table: JobTable, job_id: int, state: str, *, hours: float = 1, error: str = "") -> int:
    table.change(
        job_id,
        f"state = '{state}', {state}_at = now() - {hours} * interval '1 hour', attempt = 1, "
        f'worker_id = 77, errors = \'[{{"error": "{error}"}}]\'',
    )
    return job_id


@pytest.mark.parametrize("name", [*SINGLE, *BULK])
def test_both_clients_have_the_verb_with_the_same_parameters(name: str) -> None:
    assert inspect.signature(getattr(Roost, name)) == inspect.signature(getattr(AsyncRoost, name))


@pytest.mark.anyio
async def test_one_job_is_steered_by_its_id(client: AsyncRoost, table: JobTable) -> None:
    job_id = await client.enqueue("work", scheduled_at=LATER)
    assert await client.run_now(job_id) is True
    assert await client.run_now(job_id) is False
    assert await client.reschedule(job_id, in_=timedelta(hours=1)) is True
    assert await client.update_job(job_id, queue="bulk", args={"a": 1}) is True
    found = await client.get(job_id)
    assert (found.queue, found.args, found.priority) == ("bulk", {"a": 1}, 0)
    child = await client.enqueue("work", depends_on=[job_id])
    with pytest.raises(JobBlockedError):
        await client.run_now(child)
    assert await client.delete(job_id) is True
    assert await client.status(child) == "cancelled"
    with pytest.raises(JobNotFoundError):
        await client.wait_for(job_id)
    assert table.states() == {"cancelled": 1}


@pytest.mark.anyio
async def test_jobs_are_steered_by_a_filter(client: AsyncRoost, table: JobTable) -> None:
    await client.enqueue_many([JobInsert("work", scheduled_at=LATER)] * 5)
    assert await client.run_jobs_now(tasks=["work"], limit=2) == 2
    assert await client.update_jobs({"priority": 3}, queues=["default"]) == 5
    assert await client.reschedule_jobs(at=LATER, everything=True) == 5
    assert await client.cancel_jobs(states=["available"], limit=4) == 4
    assert await client.retry_jobs(states=["cancelled"], limit=1) == 1
    assert table.states() == {"available": 2, "cancelled": 3}
    assert await client.delete_jobs(states=["cancelled"]) == 3
    assert table.states() == {"available": 2}


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.anyio
async def test_a_change_is_part_of_the_callers_transaction(
    client: AsyncRoost, table: JobTable, commit: bool
) -> None:
    jobs = await client.enqueue_all([JobInsert("work", scheduled_at=LATER)] * 8)
    one, two, three, four, five, *rest = [job_id for job_id in jobs if job_id is not None]
    finish(table, five, "discarded")
    before = table.rows("select to_jsonb(job) from roost.jobs as job order by id")

    class UndoError(Exception):
        pass

    try:
        async with client.transaction() as conn:
            assert await client.run_now(one, conn=conn)
            assert await client.update_job(two, priority=4, conn=conn)
            assert await client.delete(three, conn=conn)
            assert await client.cancel(four, conn=conn)
            assert await client.retry(five, conn=conn)
            assert await client.reschedule_jobs(in_=5, ids=rest, conn=conn) == 3
            with pytest.raises(JobNotFoundError):
                await client.delete(10**9, conn=conn)
            assert table.rows("select to_jsonb(job) from roost.jobs as job order by id") == before
            assert await client.delete_jobs(ids=rest[:1], conn=conn) == 1
            if not commit:
                raise UndoError
    except UndoError:
        pass
    after = table.rows("select to_jsonb(job) from roost.jobs as job order by id")
    assert (after == before) is not commit
    if commit:
        assert [table.get(job_id).state for job_id in (one, two, four, five)] == [
            "available", "available", "cancelled", "available",
        ]  # fmt: skip
        assert ids_of(table, "true") == {one, two, four, five, *rest[1:]}


def test_a_blocking_client_changes_jobs_in_the_callers_transaction(
    blocking: Roost, table: JobTable, dsn: str
) -> None:
    job_id = blocking.enqueue("work", scheduled_at=LATER)
    with psycopg.connect(dsn) as conn:
        assert blocking.update_job(job_id, priority=1, conn=conn)
        assert blocking.run_jobs_now(ids=[job_id], conn=conn) == 1
        assert conn.execute("show lock_timeout").fetchone() == ("0",)
        assert table.get(job_id).priority == 0
        conn.commit()
    assert table.get(job_id).priority == 1
    assert table.get(job_id).scheduled_at < LATER


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.anyio
async def test_a_cancel_leaves_no_half_of_a_change_in_the_callers_transaction(
    anyio_backend_name: str,
    dsn: str,
    registry: HandlerRegistry,
    table: JobTable,
    driver: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if driver == "asyncpg" and anyio_backend_name == "trio":
        pytest.skip("asyncpg needs asyncio")
    scope = anyio.CancelScope()

    def cancel_after(ids: Collection[int]) -> Op[None]:
        yield from cancel_descendants(ids)
        scope.cancel()

    monkeypatch.setattr(steer, "cancel_descendants", cancel_after)
    async with AsyncRoost(dsn, registry=registry, driver=driver) as client:
        parent = await client.enqueue("work")
        child = await client.enqueue("work", depends_on=[parent])
        async with client.transaction() as conn:
            await client.update_job(child, priority=7, conn=conn)
            with scope:
                await client.delete(parent, conn=conn)
            assert scope.cancelled_caught
            await client.update_job(parent, priority=7, conn=conn)
        assert await client.status(child) == await client.status(parent) == "available"
        assert [table.get(job_id).priority for job_id in (parent, child)] == [7, 7]


def test_an_interrupt_leaves_no_half_of_a_change_in_the_callers_transaction(
    blocking: Roost, table: JobTable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt_after(ids: Collection[int]) -> Op[None]:
        yield from cancel_descendants(ids)
        raise KeyboardInterrupt

    monkeypatch.setattr(steer, "cancel_descendants", interrupt_after)
    parent = blocking.enqueue("work")
    child = blocking.enqueue("work", depends_on=[parent])
    with psycopg.connect(dsn) as conn:
        with pytest.raises(KeyboardInterrupt):
            blocking.delete(parent, conn=conn)
        assert conn.execute("show lock_timeout").fetchone() == ("0",)
        conn.commit()
    assert table.states() == {"available": 2}
    assert table.rows("select child_id from roost.dependencies") == [(child,)]


@pytest.mark.parametrize("name", BULK)
def test_an_empty_filter_must_be_meant(blocking: Roost, table: JobTable, name: str) -> None:
    with pytest.raises(InvalidJobError, match="everything=True"):
        call(name)(blocking)
    with pytest.raises(InvalidJobError):
        call(name, queues=["q"], everything=True)(blocking)
    with pytest.raises(TypeError):
        call(name, queue="q")(blocking)
    for wrong in ({"states": ["done"]}, {"limit": -1, "ids": [1]}, {"tags": "tag"}):
        with pytest.raises(InvalidJobError):
            call(name, **wrong)(blocking)
    assert table.connections("roost") == 0
    assert call(name, ids=[])(blocking) == 0
    assert call(name, everything=True)(blocking) == 0


def test_each_keyword_narrows_the_filter(blocking: Roost, table: JobTable) -> None:
    other = [table.add("other", queue="bulk", tags=["a", "b"], unique_key="k")]
    plain = [table.add("work") for _ in range(3)]
    failed = finish(table, table.add("work", tags=["b"]), "discarded", error="it Timed out: 100%")
    old = finish(table, table.add("work"), "completed", hours=30)
    table.change(old, "inserted_at = now() - interval '31 hours', worker_id = 78")
    archived = finish(table, table.add("work"), "cancelled", hours=40)
    table.change(archived, "unique_key = 'k'")
    assert table.archive(after=35 * 3_600) == 1
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    everything = {*other, *plain, failed, old, archived}
    for where, fits in (
        ({"ids": [*plain, archived, 10**9]}, {*plain, archived}),
        ({"states": ["discarded", "completed"]}, {failed, old}),
        ({"states": ["available"]}, {*plain, *other}),
        ({"queues": ["bulk", "none"]}, {*other}),
        ({"tasks": ["other"]}, {*other}),
        ({"tags": ["b", "c"]}, {*other, failed}),
        ({"tags": ["c"]}, set()),
        ({"unique_key": "k"}, {*other, archived}),
        ({"worker_id": 77}, {failed, archived}),
        ({"error_contains": "timed OUT: 100%"}, {failed}),
        ({"error_contains": "timed%"}, set()),
        ({"inserted_after": now - hour}, everything - {old}),
        ({"inserted_before": now - hour}, {old}),
        ({"finished_after": now - 2 * hour}, {failed}),
        ({"finished_before": now - 2 * hour}, {old, archived}),
        ({"finished_after": now - 31 * hour, "finished_before": now - 2 * hour}, {old}),
        ({"states": ["available"], "finished_after": now - 50 * hour}, set()),
        ({"queues": ["default"], "tags": ["b"]}, {failed}),
    ):
        with psycopg.connect(table_dsn(table)) as conn:
            count = blocking.delete_jobs(**where, conn=conn)
            left = {
                row[0]
                for row in conn.execute(
                    "select id from roost.jobs union all select id from roost.jobs_archive"
                )
            }
            conn.rollback()
        assert everything - left == fits, where
        assert count == len(fits)


def table_dsn(table: JobTable) -> str:
    info = table.connection.raw.info
    return f"host={info.host} port={info.port} dbname={info.dbname} user={info.user}"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", BULK)
@pytest.mark.parametrize("limit", [None, 0, 1, 3, 8, 100])
def test_pages_and_batches_leave_no_job_out(
    blocking: Roost, table: JobTable, name: str, limit: int | None
) -> None:
    state = "discarded" if name == "retry_jobs" else "available"
    jobs = table.add_all([JobInsert("work", scheduled_at=LATER)] * 20)
    for job_id in jobs:
        if state == "discarded":
            finish(table, job_id, state)
    blocked = table.add("other", queue="elsewhere")
    expected = len(jobs) if limit is None else min(limit, len(jobs))
    assert call(name, tasks=["work"], limit=limit)(blocking) == expected
    changed = {
        "cancel_jobs": "state = 'cancelled'",
        "retry_jobs": "state = 'available' and task = 'work'",
        "run_jobs_now": "scheduled_at <= now() and task = 'work'",
        "update_jobs": "priority = 9",
    }
    if name == "delete_jobs":
        assert ids_of(table, "task = 'work'") == set(jobs[expected:])
    elif name in changed:
        assert ids_of(table, changed[name]) == set(jobs[:expected])
    assert table.get(blocked).state == "available"


@pytest.mark.usefixtures("small")
def test_running_blocked_and_archived_jobs_are_treated_as_by_the_single_verbs(
    blocking: Roost, table: JobTable
) -> None:
    running, parent, due = table.add(), table.add(queue="q"), table.add(queue="q")
    table.claim(table.add_worker())
    child = blocking.enqueue("work", depends_on=[parent], scheduled_at=LATER)
    archived = finish(table, table.add(), "discarded")
    kept = finish(table, table.add(unique_key="k"), "discarded")
    table.archive()
    table.add(queue="q", unique_key="k")
    assert blocking.run_jobs_now(everything=True) == 0
    assert blocking.update_jobs({"priority": 2}, everything=True) == 4
    assert table.get(running).priority == 0
    assert blocking.retry_jobs(everything=True) == 1
    assert table.get(archived).state == "available"
    assert table.rows("select id from roost.jobs_archive") == [(kept,)]
    assert blocking.cancel_jobs(ids=[running, parent]) == 2
    assert table.get(running).cancel_requested
    assert table.get(child).state == "cancelled"
    assert blocking.delete_jobs(everything=True) == 6
    assert ids_of(table, "true") == {running}
    assert due != running


def test_parents_are_retried_before_their_children(blocking: Roost, table: JobTable) -> None:
    parent = table.add()
    child = blocking.enqueue("work", depends_on=[parent])
    grandchild = blocking.enqueue("work", depends_on=[child])
    blocking.cancel(parent)
    assert table.states() == {"cancelled": 3}
    assert blocking.retry_jobs(ids=[grandchild, child]) == 0  # their parent has failed
    assert blocking.retry_jobs(states=["cancelled"]) == 3
    assert [table.column(each, "pending_parents") for each in (parent, child, grandchild)] == [
        0, 1, 1,
    ]  # fmt: skip


def test_of_several_jobs_with_one_key_the_oldest_is_retried(
    blocking: Roost, table: JobTable
) -> None:
    jobs = [finish(table, table.add(unique_key="k"), "discarded") for _ in range(3)]
    other = finish(table, table.add(unique_key="taken"), "discarded")
    table.add(unique_key="taken")
    free = finish(table, table.add(), "discarded")
    assert blocking.retry_jobs(ids=[*jobs, other, free]) == 2
    assert ids_of(table, "state = 'available' and unique_key is distinct from 'taken'") == {
        jobs[0], free,
    }  # fmt: skip


@pytest.mark.usefixtures("small")
def test_a_locked_job_is_left_for_the_end_and_waited_for(
    blocking: Roost, table: JobTable, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    monkeypatch.setattr(steer, "LOCK_WAIT", 50)
    jobs = table.add_all([JobInsert("work")] * 6)
    with psycopg.connect(dsn) as other:
        other.execute("select from roost.jobs where id = %s for update", [jobs[1]])
        with pytest.raises(JobLockedError):
            blocking.cancel_jobs(everything=True)
        assert ids_of(table, "state = 'available'") == {jobs[1]}
        other.execute("update roost.jobs set priority = 5 where id = %s", [jobs[1]])
    assert blocking.cancel_jobs(everything=True) == 1


def test_a_job_that_no_longer_fits_is_left_alone(
    blocking: Roost, table: JobTable, dsn: str
) -> None:
    """It was found waiting, and runs when its lock is free."""
    job_id = table.add()
    worker = table.add_worker()
    steps = steering_calls.cancel_jobs(
        steering_calls.select(
            {"states": ["available"]}, everything=False, limit=None, borrowed=False
        )
    )
    found = blocking._run(next(steps))
    assert [each.id for each in found] == [job_id]
    call = steps.send(found)
    assert table.claim(worker).jobs
    done = blocking._run(call)
    assert done == steer.BatchDone(0, [job_id])
    assert not table.get(job_id).cancel_requested


def test_a_search_that_takes_too_long_says_so(
    blocking: Roost, table: JobTable, monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    monkeypatch.setattr(steer, "SEARCH_TIMEOUT", 1)
    table.rows(
        "insert into roost.jobs (task, state, completed_at, errors) "
        "select 'work', 'completed', now(), '[{\"error\": \"x\"}]' "
        "from generate_series(1, 20000)"
    )
    with pytest.raises(FilterTooSlowError, match="indexes") as caught:
        blocking.retry_jobs(error_contains="y")
    assert caught.value.code == "roost.filter-too-slow"
    with psycopg.connect(dsn) as conn:
        with pytest.raises(FilterTooSlowError):
            blocking.retry_jobs(error_contains="y", conn=conn)
        # The transaction is usable, and has its own settings.
        assert conn.execute("show statement_timeout").fetchone() == ("0",)


class Sized(BaseModel, extra="forbid"):
    size: int


class Named(BaseModel):
    name: str


def test_a_model_is_checked_against_the_task_of_the_job(
    blocking: Roost, registry: HandlerRegistry, table: JobTable
) -> None:
    @job("work", args_model=Sized, registry=registry)
    def work(size: int) -> None: ...

    job_id = blocking.enqueue("work", args=Sized(size=1))
    assert blocking.update_job(job_id, args=Sized(size=2))
    with pytest.raises(InvalidJobError, match="work"):
        blocking.update_job(job_id, args=Named(name="x"))
    assert table.get(job_id).args == {"size": 2}
    with pytest.raises(JobNotFoundError):
        blocking.update_job(10**9, args=Sized(size=2))


@pytest.mark.parametrize(
    "wrong",
    [{}, {"at": LATER, "in_": 1}, {"in_": -1}, {"at": LATER.replace(tzinfo=None)}, {"at": "now"}],
)
def test_a_job_is_rescheduled_to_one_time(
    blocking: Roost, table: JobTable, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidJobError, match=r"at|in_"):
        blocking.reschedule(1, **wrong)
    with pytest.raises(InvalidJobError, match=r"at|in_"):
        blocking.reschedule_jobs(ids=[1], **wrong)
    assert table.connections("roost") == 0


def test_a_connection_that_commits_by_itself_is_refused(
    blocking: Roost, table: JobTable, dsn: str
) -> None:
    job_id = blocking.enqueue("work")
    with psycopg.connect(dsn, autocommit=True) as conn:
        with pytest.raises(NotInTransactionError):
            blocking.delete(job_id, conn=conn)
        with conn.transaction():
            assert blocking.delete(job_id, conn=conn)
    assert table.states() == {}


def test_a_refused_change_leaves_the_callers_transaction_as_it_was(
    blocking: Roost, table: JobTable, dsn: str
) -> None:
    archived = finish(table, table.add(unique_key="k"), "discarded")
    table.archive()
    table.add(unique_key="k")
    with psycopg.connect(dsn) as conn:
        conn.execute("create temporary table mine as select 1 as one")
        with pytest.raises(DuplicateUniqueJobError):
            blocking.retry(archived, conn=conn)
        assert conn.execute("select one from mine").fetchone() == (1,)
        conn.commit()
    assert table.rows("select id from roost.jobs_archive") == [(archived,)]
