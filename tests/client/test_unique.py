"""`on_conflict`, `unique_while`, `unique_for`, `unique_by` and `schedule_in`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from psycopg.types.json import Jsonb
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    DatabaseError,
    DuplicateUniqueJobError,
    HandlerRegistry,
    InvalidJobError,
    JobInsert,
    Roost,
    call,
    job,
)
from roost._ops.archive import forget_unique_holds

pytestmark = pytest.mark.anyio

STARTED = "state = 'executing', attempt = 1, lease_no = 1, worker_id = 1, attempted_at = now()"
COMPLETED = "state = 'completed', completed_at = now()"


# on_conflict


async def test_return_gives_the_id_of_the_active_job(client: AsyncRoost, table: JobTable) -> None:
    first = await client.enqueue("work", unique_key="k", on_conflict="return")
    for change in ("state = 'retryable'", STARTED):
        table.change(first, change)
        assert await client.enqueue("work", unique_key="k", on_conflict="return") == first
    table.change(first, COMPLETED)
    assert await client.enqueue("work", unique_key="k", on_conflict="return") != first


@pytest.mark.parametrize("state", ["available", "retryable"])
async def test_replace_changes_a_job_that_waits(
    client: AsyncRoost, table: JobTable, state: str
) -> None:
    first = await client.enqueue(
        "work", args={"n": 1}, unique_key="k", tags=["a"], metadata={"m": 1}, timeout_seconds=5
    )
    table.change(first, f"state = '{state}', attempt = 4, scheduled_at = now() + '1 hour'")
    before = table.get(first)
    due = datetime(2035, 1, 1, tzinfo=UTC)
    replaced = await client.enqueue(
        "work",
        args={"n": 2},
        queue="other",
        priority=3,
        max_attempts=2,
        scheduled_at=due,
        unique_key="k",
        tags=["b"],
        on_conflict="replace",
    )
    assert replaced == first
    assert table.get(first).model_dump() == {
        **before.model_dump(),
        "args": {"n": 2},
        "queue": "other",
        "priority": 3,
        "max_attempts": 5,  # at least one more attempt
        "scheduled_at": due,
        "tags": ["b"],
        "timeout_seconds": None,
        "metadata": {},
    }


async def test_a_replaced_job_that_is_due_keeps_its_place(
    client: AsyncRoost, table: JobTable
) -> None:
    job_id = await client.enqueue("work", unique_key="k", schedule_in=60)
    enqueued = table.get(job_id)
    await client.enqueue("work", unique_key="k", on_conflict="replace")
    due = table.get(job_id).scheduled_at
    assert enqueued.inserted_at < due < enqueued.scheduled_at
    await client.enqueue("work", unique_key="k", on_conflict="replace")
    assert table.get(job_id).scheduled_at == due


@pytest.mark.parametrize(
    ("change", "says"), [(STARTED, "unique_while='waiting'"), ("task = 'other'", "another task")]
)
async def test_replace_refuses_a_running_job_and_one_of_another_task(
    client: AsyncRoost, table: JobTable, change: str, says: str
) -> None:
    job_id = await client.enqueue("work", unique_key="k")
    table.change(job_id, change)
    before = table.get(job_id)
    with pytest.raises(DuplicateUniqueJobError, match=says) as caught:
        await client.enqueue("work", args={"n": 2}, unique_key="k", on_conflict="replace")
    assert (caught.value.unique_key, caught.value.existing_id) == ("k", job_id)
    assert table.get(job_id) == before


async def test_a_replaced_job_that_is_due_now_wakes_a_worker(
    dsn: str, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work(n: int) -> int:
        return n

    async with AsyncRoost(dsn, registry=registry) as client:
        first = await client.enqueue(
            work, args={"n": 1}, unique_key="k", schedule_in=timedelta(days=1)
        )
        async with working(client.worker(poll_interval=60.0)):
            await client.enqueue(work, args={"n": 2}, unique_key="k", on_conflict="replace")
            outcome = await client.wait_for(first, timeout=20, poll_interval=60)
    assert outcome.result == 2


async def test_a_replaced_job_still_waits_for_its_parents(
    client: AsyncRoost, table: JobTable
) -> None:
    parent = await client.enqueue("parent")
    child = await client.enqueue("work", unique_key="k", depends_on=[parent])
    assert (
        await client.enqueue("work", args={"n": 2}, unique_key="k", on_conflict="replace") == child
    )
    assert table.column(child, "pending_parents") == 1
    assert table.get(child).depends_on == [parent]


async def test_options_go_with_depends_on(client: AsyncRoost, table: JobTable) -> None:
    parent = await client.enqueue("parent")
    ids = [
        await client.enqueue(
            "work", unique_key="k", depends_on=[parent], unique_for=60, on_conflict="return"
        )
        for _ in range(2)
    ]
    assert ids[0] == ids[1]
    assert table.column(ids[0], "pending_parents") == 1


async def test_a_bulk_returns_replaces_or_refuses(client: AsyncRoost, table: JobTable) -> None:
    taken = await client.enqueue("work", args={"n": 0}, unique_key="b")
    jobs = [JobInsert("work", {"n": n}, unique_key=key) for n, key in enumerate(["c", "b", "c"])]
    with pytest.raises(DuplicateUniqueJobError) as caught:
        await client.enqueue_all(jobs, on_conflict="raise")
    assert caught.value.existing_id == taken
    assert table.states() == {"available": 1}
    first, second, third = await client.enqueue_all(jobs, on_conflict="return")
    assert (second, third) == (taken, first)
    assert table.get(taken).args == {"n": 0}
    assert await client.enqueue_many([*jobs, "work"], on_conflict="replace") == 4
    assert [table.get(job_id).args["n"] for job_id in (taken, first or 0)] == [1, 2]
    assert table.states() == {"available": 3}


async def test_a_refused_bulk_replaces_nothing(client: AsyncRoost, table: JobTable) -> None:
    waits = await client.enqueue("work", args={"n": 0}, unique_key="a")
    table.change(await client.enqueue("work", unique_key="b"), STARTED)
    jobs = [JobInsert("work", {"n": 1}, unique_key=key) for key in ("a", "b")]
    with pytest.raises(DuplicateUniqueJobError):
        await client.enqueue_all(jobs, on_conflict="replace")
    assert table.get(waits).args == {"n": 0}


async def test_ids_of_a_bulk_with_options_have_the_order_of_the_jobs(client: AsyncRoost) -> None:
    jobs = [JobInsert("work", unique_key=key, unique_for=9) for key in "zyx"]
    ids = await client.enqueue_all([*jobs, "work"])
    assert ids == sorted(job_id for job_id in ids if job_id is not None)


# unique_while


async def test_one_may_wait_while_one_runs(client: AsyncRoost, table: JobTable) -> None:
    options: dict[str, Any] = {"unique_key": "k", "unique_while": "waiting"}
    ids = []
    for _ in range(3):
        ids.append(await client.enqueue("work", **options))
        assert await client.enqueue("work", **options, on_conflict="return") == ids[-1]
        with pytest.raises(DuplicateUniqueJobError):
            await client.enqueue("work", **options)
        table.change(ids[-1], STARTED)
    # Each of them may wait again.
    for job_id in ids:
        table.change(job_id, "state = 'available', attempt = 0")
        table.change(job_id, "state = 'retryable'")
    assert len(set(ids)) == 3


async def test_waiting_meets_a_job_without_it(client: AsyncRoost, table: JobTable) -> None:
    first = await client.enqueue("work", unique_key="k")
    options: dict[str, Any] = {"unique_key": "k", "unique_while": "waiting"}
    assert await client.enqueue("work", **options, on_conflict="return") == first
    table.change(first, STARTED)
    second = await client.enqueue("work", **options)
    assert second != first
    table.change(first, "state = 'retryable'")
    assert table.states() == {"available": 1, "retryable": 1}


@pytest.mark.parametrize("bulk", [False, True])
async def test_active_meets_a_running_job_with_waiting(
    client: AsyncRoost, table: JobTable, bulk: bool
) -> None:
    first = await client.enqueue("work", unique_key="k", unique_while="waiting")
    table.change(first, STARTED)
    if bulk:
        same = JobInsert("work", unique_key="k")
        assert await client.enqueue_all([same]) == [None]  # homogeneous
        assert await client.enqueue_all([same] * 150) == [None] * 150
        parent = await client.enqueue("parent")
        other = JobInsert("other", unique_key="k")
        assert await client.enqueue_all([same, other]) == [None, None]
        await client.enqueue_many([same, other])
        child = JobInsert("other", unique_key="k", depends_on=[parent])
        assert await client.enqueue_all([child]) == [None]
    else:
        for on_conflict in ("raise", "return", "replace"):
            try:
                found = await client.enqueue(
                    "work",
                    unique_key="k",
                    on_conflict=on_conflict,
                )
            except DuplicateUniqueJobError as error:
                found = error.existing_id
            assert found == first
        with pytest.raises(DuplicateUniqueJobError):
            async with client.transaction() as conn:
                await client.enqueue("work", unique_key="k", conn=conn)
        assert table.value("select roost.enqueue('work', unique_key => 'k')") is None
    assert len(table.rows("select from roost.jobs where unique_key = 'k'")) == 1


async def test_retry_of_jobs_with_waiting(client: AsyncRoost, table: JobTable) -> None:
    options: dict[str, Any] = {"unique_key": "k", "unique_while": "waiting"}
    first = await client.enqueue("work", **options)
    table.change(first, STARTED)
    table.change(first, "state = 'discarded', discarded_at = now()")
    second = await client.enqueue("work", **options)
    with pytest.raises(DuplicateUniqueJobError) as caught:
        await client.retry(first)
    assert caught.value.existing_id == second
    table.change(second, STARTED)
    assert await client.retry(first)


async def test_nothing_is_lost_when_changes_come_while_the_job_runs(
    dsn: str, table: JobTable, registry: HandlerRegistry
) -> None:
    version, seen = 0, [0]

    @job("index", registry=registry)
    async def index() -> None:
        read = version
        await anyio.sleep(0.001)
        seen.append(read)

    client = AsyncRoost(dsn, registry=registry)
    workers = [client.worker(poll_interval=0.1) for _ in range(2)]
    async with client, working(*workers):
        for _ in range(60):
            version += 1
            await client.enqueue(
                index, unique_key="index", unique_while="waiting", on_conflict="return"
            )
            await anyio.sleep(0.001)
        with anyio.fail_after(30):
            while set(table.states()) != {"completed"}:
                await anyio.sleep(0.01)
    assert max(seen) == version


# unique_for


@pytest.mark.parametrize("ending", ["completed", "discarded", "cancelled", "archived", "gone"])
async def test_an_ended_job_counts_for_its_time(
    client: AsyncRoost, table: JobTable, ending: str
) -> None:
    options: dict[str, Any] = {"unique_key": "k", "unique_for": timedelta(hours=1)}
    first = await client.enqueue("work", **options)
    state = ending if ending in ("discarded", "cancelled") else "completed"
    table.change(first, f"state = '{state}', {state}_at = now() - interval '1 s'")
    if ending == "archived":
        assert table.archive() == 1
    elif ending == "gone":
        table.rows("delete from roost.jobs")
    assert await client.enqueue("work", **options, on_conflict="return") == first
    for on_conflict in ("raise", "replace"):
        with pytest.raises(DuplicateUniqueJobError, match="has ended") as caught:
            await client.enqueue("work", **options, on_conflict=on_conflict)
        assert caught.value.existing_id == first
    # A call without unique_for sees active jobs only.
    table.change(await client.enqueue("work", unique_key="k"), COMPLETED)
    table.rows("update roost.unique_holds set expires_at = now() - interval '1 s'")
    second = await client.enqueue("work", **options)
    assert second > first
    assert table.value("select holder_id from roost.unique_holds") == second


async def test_a_job_that_waits_is_replaced_within_its_time(
    client: AsyncRoost, table: JobTable
) -> None:
    options: dict[str, Any] = {"unique_key": "k", "unique_for": 3_600}
    first = await client.enqueue("work", args={"n": 1}, **options)
    until = table.value("select expires_at from roost.unique_holds")
    assert until == table.get(first).inserted_at + timedelta(hours=1)
    again = await client.enqueue("work", args={"n": 2}, **options, on_conflict="replace")
    assert (again, table.get(first).args) == (first, {"n": 2})
    assert table.value("select expires_at from roost.unique_holds") == until


async def test_an_active_job_comes_before_an_ended_one_whose_time_is_not_over(
    client: AsyncRoost, table: JobTable
) -> None:
    options: dict[str, Any] = {"unique_key": "k", "unique_for": 3_600}
    table.change(await client.enqueue("work", **options), COMPLETED)
    active = await client.enqueue("work", unique_key="k")
    assert await client.enqueue("work", **options, on_conflict="return") == active
    with pytest.raises(DuplicateUniqueJobError, match=f"job {active} is active"):
        await client.enqueue("work", **options)
    changed = await client.enqueue("work", args={"n": 2}, **options, on_conflict="replace")
    assert (changed, table.get(active).args) == (active, {"n": 2})
    table.change(active, COMPLETED)
    with pytest.raises(DuplicateUniqueJobError, match="has ended"):
        await client.enqueue("work", **options)


async def test_a_job_that_waits_comes_before_a_running_one_whose_time_is_not_over(
    client: AsyncRoost, table: JobTable
) -> None:
    options: dict[str, Any] = {"unique_key": "k", "unique_while": "waiting"}
    first = await client.enqueue("work", **options, unique_for=3_600)
    table.change(first, STARTED)
    # The same call may not insert one that waits, and does not advise to.
    with pytest.raises(DuplicateUniqueJobError, match="no other one may wait") as caught:
        await client.enqueue("work", **options, unique_for=3_600, on_conflict="replace")
    assert caught.value.existing_id == first
    with pytest.raises(DatabaseError, match="its unique_for is not over"):
        table.rows(
            "select roost.enqueue('work', unique_key => 'k', unique_while => 'waiting', "
            "unique_for => '1 h', on_conflict => 'replace')"
        )
    second = await client.enqueue("work", **options)
    for on_conflict in ("return", "replace"):
        found = await client.enqueue(
            "work", args={"n": 2}, **options, unique_for=3_600, on_conflict=on_conflict
        )
        assert found == second
    assert table.get(second).args == {"n": 2}


async def test_expired_records_are_removed(client: AsyncRoost, table: JobTable) -> None:
    for key in ("a", "b", "c"):
        await client.enqueue("work", unique_key=key, unique_for=3_600)
    table.rows(
        "update roost.unique_holds set expires_at = now() - interval '1 s' where unique_key <> 'b'"
    )
    assert [table.run(forget_unique_holds(limit=1)) for _ in range(3)] == [1, 1, 0]
    assert table.rows("select unique_key from roost.unique_holds") == [("b",)]


@pytest.mark.timing
async def test_a_worker_removes_expired_records(client: AsyncRoost, table: JobTable) -> None:
    await client.enqueue("work", unique_key="a", unique_for=3_600)
    table.rows("update roost.unique_holds set expires_at = now() - interval '1 s'")
    async with working(client.worker(archive_interval=0.05)):
        with anyio.fail_after(20):
            while table.rows("select from roost.unique_holds"):
                await anyio.sleep(0.02)


# unique_by

SAME: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    ("args", {"a": 1, "b": [2.0, {"c": None}]}, {"b": [2, {"c": None}], "a": 1.0}),
    ("args.a", {"a": 1.50, "b": 1}, {"a": 1.5, "b": 2}),
    (["args.a", "queue"], {"a": None}, {"a": None}),
    (["queue", "args.a"], {"a": "x"}, {"a": "x"}),
    ("task", {}, {"any": 1}),
]
OTHER: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    ("args", {"a": 1}, {"a": "1"}),
    ("args", {"a": [1, 2]}, {"a": [2, 1]}),
    ("args.a", {"a": 1}, {"a": 10}),
    ("args.a", {"a": None}, {"a": 0}),
]


@pytest.mark.parametrize(("unique_by", "one", "two"), SAME)
async def test_equal_parts_make_the_same_key(
    client: AsyncRoost, table: JobTable, unique_by: Any, one: dict[str, Any], two: dict[str, Any]
) -> None:
    first = await client.enqueue("work", args=one, unique_by=unique_by)
    assert (
        await client.enqueue("work", args=two, unique_by=unique_by, on_conflict="return") == first
    )
    assert await client.enqueue_all([JobInsert("work", two, unique_by=unique_by)]) == [None]
    parts = [unique_by] if isinstance(unique_by, str) else unique_by
    query = "select roost.enqueue('work', $1::jsonb, unique_by => $2::text[])"
    assert table.value(query, Jsonb(two), parts) is None
    # The task always counts.
    assert await client.enqueue("other", args=two, unique_by=unique_by) > first


@pytest.mark.parametrize(("unique_by", "one", "two"), OTHER)
async def test_other_parts_make_other_keys(
    client: AsyncRoost, unique_by: Any, one: dict[str, Any], two: dict[str, Any]
) -> None:
    first = await client.enqueue("work", args=one, unique_by=unique_by)
    assert await client.enqueue("work", args=two, unique_by=unique_by) != first


async def test_a_key_of_parts_is_stable(client: AsyncRoost) -> None:
    job_id = await client.enqueue("work", args={"a": 1}, unique_by=["args.a", "queue"])
    assert (await client.get(job_id)).unique_key == (
        "unique_by:b83185c5d77ce20aa777c556861daceb979a1b75b179a0c91b4fd28fa57e2cf4"
    )


async def test_a_call_and_a_bulk_pass_the_options(client: AsyncRoost, table: JobTable) -> None:
    @job("send", registry=client._registry)
    def send(user: int) -> None: ...

    one = call(send, user=1).options(unique_by="args.user", unique_while="waiting", schedule_in=5)
    first = await client.enqueue(one)
    row = table.get(first)
    assert row.scheduled_at == row.inserted_at + timedelta(seconds=5)
    assert await client.enqueue_all([one]) == [None]
    table.change(first, STARTED)
    assert await client.enqueue(one) > first


# schedule_in


@pytest.mark.parametrize("delay", [90, 90.0, timedelta(minutes=1.5)])
async def test_a_job_is_scheduled_by_the_databases_clock(
    client: AsyncRoost, table: JobTable, delay: Any
) -> None:
    ids = [
        await client.enqueue("work", schedule_in=delay),
        *await client.enqueue_all([JobInsert("work", schedule_in=delay)] * 2),
        *await client.enqueue_all([JobInsert("work", schedule_in=delay), "work"]),
        table.value("select roost.enqueue('work', schedule_in => '90 s')"),
    ]
    delays = [row.scheduled_at - row.inserted_at for row in map(table.get, ids)]
    assert delays == [timedelta(seconds=90)] * 4 + [timedelta(0), timedelta(seconds=90)]


# What is refused

REFUSED: list[dict[str, Any]] = [
    {"on_conflict": "ignore", "unique_key": "k"},
    {"on_conflict": "skip", "unique_key": "k"},
    {"on_conflict": "return"},
    {"on_conflict": "replace"},
    {"on_conflict": "replace", "unique_key": "k", "depends_on": [1]},
    {"unique_while": "waiting"},
    {"unique_while": "active"},
    {"unique_while": "executing", "unique_key": "k"},
    {"unique_while": None, "unique_key": "k"},
    {"unique_for": 60},
    {"unique_for": 0, "unique_key": "k"},
    {"unique_for": -1, "unique_key": "k"},
    {"unique_for": float("nan"), "unique_key": "k"},
    {"unique_for": "1 hour", "unique_key": "k"},
    {"unique_for": True, "unique_key": "k"},
    {"unique_for": timedelta.max, "unique_key": "k"},
    {"unique_by": "args", "unique_key": "k"},
    {"unique_by": []},
    {"unique_by": "state"},
    {"unique_by": 7},
    {"unique_by": ["args", None]},
    {"unique_by": "args.b"},
    {"schedule_in": 5, "scheduled_at": datetime(2030, 1, 1, tzinfo=UTC)},
    {"schedule_in": -1},
    {"schedule_in": float("inf")},
    {"schedule_in": "5"},
]


@pytest.mark.parametrize("options", REFUSED, ids=str)
async def test_a_wrong_option_is_refused_before_the_database_is_used(
    options: dict[str, Any], registry: HandlerRegistry
) -> None:
    nowhere = "postgresql://127.0.0.1:1/none"
    with pytest.raises(InvalidJobError):
        await AsyncRoost(nowhere, registry=registry).enqueue("work", args={"a": 1}, **options)
    if "on_conflict" not in options:
        jobs = [JobInsert("work"), JobInsert("work", {"a": 1}, **options)]
        with pytest.raises(InvalidJobError):
            await AsyncRoost(nowhere, registry=registry).enqueue_many(jobs)


@pytest.mark.parametrize("word", ["raise", "return", "replace", "ignore"])
async def test_a_bulk_without_a_key_refuses_on_conflict(client: AsyncRoost, word: Any) -> None:
    with pytest.raises(InvalidJobError):
        await client.enqueue_many(["work"], on_conflict=word)
    if word != "ignore":
        assert await client.enqueue_many([], on_conflict=word) == 0


SQL_REFUSED = [
    "on_conflict => 'ignore', unique_key => 'k'",
    "on_conflict => null, unique_key => 'k'",
    "on_conflict => 'return'",
    "unique_while => 'waiting'",
    "unique_while => 'never', unique_key => 'k'",
    "unique_for => '1 hour'",
    "unique_for => '0', unique_key => 'k'",
    "unique_by => '{args}', unique_key => 'k'",
    "unique_by => '{}'",
    "unique_by => '{state}'",
    "unique_by => array[null]",
    "unique_by => '{args.b}'",
    "schedule_in => '-1 s'",
    "schedule_in => '1 s', scheduled_at => now()",
    "unique_key => 'taken', on_conflict => 'raise'",
]


async def test_sql_refuses_the_same(client: AsyncRoost, table: JobTable) -> None:
    await client.enqueue("work", unique_key="taken")
    for arguments in SQL_REFUSED:
        with pytest.raises(DatabaseError) as caught:
            table.rows(f"select roost.enqueue('work', {arguments})")
        assert str(caught.value.sqlstate).startswith("23"), arguments
    assert table.states() == {"available": 1}


async def test_sql_has_the_options(client: AsyncRoost, table: JobTable) -> None:
    def enqueue(options: str) -> Any:
        return table.value(
            f"select roost.enqueue('work', '{{\"n\": null}}', unique_key => 'k', {options})"
        )

    first = enqueue("unique_for => '1 hour', metadata => '{\"a\": null}', tags => '{x}'")
    row = table.get(first)
    assert (row.args, row.metadata, row.tags) == ({"n": None}, {"a": None}, ["x"])
    assert enqueue("unique_for => '1 hour'") is None
    assert enqueue("on_conflict => 'return'") == first
    assert enqueue("on_conflict => 'replace', priority => 7, schedule_in => '1 day'") == first
    row = table.get(first)
    assert (row.priority, row.metadata) == (7, {})
    assert row.scheduled_at > row.inserted_at + timedelta(hours=23)
    table.change(first, STARTED)
    assert enqueue("unique_while => 'waiting'") > first


# The blocking client


def test_the_blocking_client_has_the_options(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client:
        first = client.enqueue("work", args={"n": 1}, unique_by="task", unique_for=60)
        enqueue: Callable[..., int] = client.enqueue
        again = enqueue("work", args={"n": 2}, unique_by="task", on_conflict="replace")
        assert (again, table.get(first).args) == (first, {"n": 2})
        same = JobInsert("work", {"n": 2}, unique_by="task")
        assert client.enqueue_all([same], on_conflict="return") == [first]
        assert client.enqueue_many([same]) == 1
        table.change(first, STARTED)
        with pytest.raises(DuplicateUniqueJobError):
            client.enqueue("work", unique_by="task", on_conflict="replace")
        assert client.enqueue("work", unique_by="task", unique_while="waiting") != first
