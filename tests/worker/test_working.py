"""A worker runs every kind of handler, each job once, and uses all of its slots."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from pydantic import BaseModel, Field
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, JobInsert, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


async def test_an_async_handler_completes_with_its_result(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("add", registry=registry)
    async def add(a: int, b: int) -> int:
        await anyio.lowlevel.checkpoint()
        return a + b

    job_id = table.add("add", args={"a": 2, "b": 3})
    async with working(make_worker()):
        await eventually(lambda: table.get(job_id).state == "completed")
    done = table.get(job_id)
    assert (done.result, done.attempt, done.errors) == (5, 1, [])
    assert done.completed_at is not None
    assert done.attempted_at is not None
    assert done.inserted_at <= done.attempted_at <= done.completed_at


async def test_a_sync_handler_runs_in_a_thread_and_completes(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("where", registry=registry)
    def where() -> bool:
        return threading.current_thread() is not threading.main_thread()

    job_id = table.add("where")
    assert await make_worker().run_once() == 1
    assert table.get(job_id).state == "completed"
    assert table.get(job_id).result is True


class Order(BaseModel):
    number: UUID
    at: datetime
    price: Decimal
    lines: list[Order] = []


async def test_a_handler_with_args_model_gets_typed_values(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    got: list[tuple[object, ...]] = []

    @job("order", args_model=Order, registry=registry)
    async def order(number: UUID, at: datetime, price: Decimal, lines: list[Order]) -> None:
        got.append((number, at, price, lines))

    inner = Order(number=uuid4(), at=datetime(2026, 1, 1, tzinfo=UTC), price=Decimal("0.1"))
    outer = Order(
        number=uuid4(), at=datetime(2026, 2, 2, tzinfo=UTC), price=Decimal("1.20"), lines=[inner]
    )
    job_id = table.add("order", args=outer)
    await make_worker().run_once()
    assert table.get(job_id).state == "completed"
    assert got == [(outer.number, outer.at, outer.price, [inner])]


class Aliased(BaseModel):
    number: int = Field(alias="No")


async def test_a_model_with_aliases_comes_back_as_it_was_enqueued(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("aliased", args_model=Aliased, registry=registry)
    async def aliased(number: int) -> int:
        return number

    jobs = [table.add("aliased", args=args) for args in (Aliased(No=7), {"No": 8}, {"number": 9})]
    await make_worker().run_once()
    assert [table.get(job_id).result for job_id in jobs] == [7, 8, 9]


async def test_args_that_the_model_refuses_fail_the_job_alone(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("order", args_model=Order, registry=registry)
    async def order(**kwargs: object) -> None:
        raise AssertionError("must not be called")

    bad = table.add("order", args={"number": "no"}, max_attempts=1)
    await make_worker().run_once()
    assert table.get(bad).state == "discarded"
    assert "ValidationError" in table.get(bad).errors[0]["trace"]


async def test_args_that_do_not_fit_the_handler_fail_the_job_alone(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("sync", registry=registry)
    def sync(a: int) -> None: ...

    @job("async", registry=registry)
    async def asynchronous(a: int) -> None: ...

    jobs = [table.add(name, args={"b": 1}, max_attempts=1) for name in ("sync", "async")]
    await make_worker().run_once()
    for job_id in jobs:
        assert table.get(job_id).state == "discarded"
        assert table.get(job_id).errors[0]["error"].startswith("InvalidArgsError")


async def test_partials_and_callable_objects_are_handlers(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    async def base(a: int, b: int) -> int:
        return a * b

    class Handler:
        async def __call__(self, b: int) -> int:
            return -b

    registry.register("partial", functools.partial(base, 10))
    registry.register("object", Handler())
    jobs = [table.add(name, args={"b": 4}) for name in ("partial", "object")]
    await make_worker().run_once()
    assert [table.get(job_id).result for job_id in jobs] == [40, -4]


async def test_a_plain_wrapper_round_an_async_handler_is_awaited(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    ran: list[int] = []

    def traced(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

        return wrapper

    @job("wrapped", registry=registry)
    @traced
    async def wrapped(n: int) -> int:
        await anyio.lowlevel.checkpoint()
        ran.append(n)
        return n

    job_id = table.add("wrapped", args={"n": 7})
    await make_worker().run_once()
    assert ran == [7]
    assert table.get(job_id).result == 7


async def test_twenty_sync_handlers_run_at_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    all_here = threading.Barrier(20)

    @job("meet", registry=registry)
    def meet() -> None:
        all_here.wait(timeout=10)

    table.add_all([JobInsert("meet", max_attempts=1)] * 20)
    await make_worker(concurrency=20).run_once()
    assert table.states() == {"completed": 20}


async def test_no_more_than_concurrency_run_at_once(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    now = most = 0

    @job("count", registry=registry)
    async def count() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.001)
        now -= 1

    table.add_all([JobInsert("count")] * 200)
    await make_worker(concurrency=7, prefetch=50).run_once()
    assert table.states() == {"completed": 200}
    assert most == 7


async def test_all_of_many_slots_are_used(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    running = 0
    all_run = anyio.Event()

    @job("wait", registry=registry)
    async def wait() -> None:
        nonlocal running
        running += 1
        if running == 200:
            all_run.set()
        await all_run.wait()

    table.add_all([JobInsert("wait")] * 200)
    await make_worker(concurrency=200).run_once()
    assert table.states() == {"completed": 200}


async def test_the_defaults_keep_the_slots_busy(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    naps: list[tuple[float, float]] = []

    @job("nap", registry=registry)
    async def nap() -> None:
        began = anyio.current_time()
        await anyio.sleep(0.02)
        naps.append((began, anyio.current_time()))

    table.add_all([JobInsert("nap")] * 400)
    async with working(make_worker()):
        await eventually(lambda: table.states() == {"completed": 400}, within=30)
    # A worker that slept a poll when its slots were full took 100 s for these 2 s of work. The naps
    # are measured too, so that a slow machine is no failure: half of 2 s may be lost between them.
    busy = sum(ended - began for began, ended in naps)
    there = max(ended for _, ended in naps) - min(began for began, _ in naps)
    assert busy / (4 * there) > 0.5


async def test_each_of_many_jobs_runs_exactly_once_over_several_workers(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    runs: list[int] = []

    @job("once", registry=registry)
    async def once(n: int) -> None:
        await anyio.lowlevel.checkpoint()
        runs.append(n)

    table.add_all([JobInsert("once", args={"n": n}) for n in range(1_000)])
    async with working(*(make_worker(concurrency=10) for _ in range(3))):
        await eventually(lambda: table.states() == {"completed": 1_000})
    assert sorted(runs) == list(range(1_000))
    assert table.value("select count(*) from roost.jobs where attempt <> 1") == 0


async def test_a_worker_serves_its_queues_only_and_in_order_of_priority(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    order: list[str] = []

    @job("note", registry=registry)
    async def note(what: str) -> None:
        order.append(what)

    for queue, priority, what in (
        ("a", 5, "third"),
        ("b", 0, "second"),
        ("other", -9, "never"),
        ("a", -1, "first"),
    ):
        table.add("note", args={"what": what}, queue=queue, priority=priority)
    await make_worker(queues=("a", "b"), concurrency=1).run_once()
    assert order == ["first", "second", "third"]


async def test_a_job_of_an_unknown_task_is_left_to_a_worker_that_knows_it(
    dsn: str, table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("old", registry=registry)
    async def old() -> None: ...

    newer = HandlerRegistry()

    @job("new", registry=newer)
    async def new() -> None: ...

    unknown, known = table.add("new", priority=-1), table.add("old")
    async with working(make_worker()):
        await eventually(lambda: table.get(known).state == "completed")
        assert (table.get(unknown).state, table.get(unknown).attempt) == ("available", 0)
        assert table.column(unknown, "lease_no") == 0
        async with working(Worker(dsn, registry=newer)):
            await eventually(lambda: table.get(unknown).state == "completed")
    assert table.get(unknown).attempt == 1


async def test_a_worker_uses_five_connections_at_most(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    most = 0

    @job("count", registry=registry)
    async def count() -> None:
        nonlocal most
        most = max(most, table.connections("roost %"))

    table.add_all([JobInsert("count")] * 300)
    worker = make_worker(
        concurrency=50, heartbeat_interval=0.005, orphan_reaper_interval=0.005, poll_interval=0.01
    )
    async with working(worker):
        await eventually(lambda: table.states() == {"completed": 300})
    assert 2 <= most - table.connections("roost job table") <= 5
    await eventually(lambda: table.connections("roost %") == 1)


async def test_a_running_worker_can_not_be_run_again(
    registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    worker = make_worker()
    async with working(worker):
        with pytest.raises(RuntimeError, match="running already"):
            await worker.run()
    async with working(worker):
        pass
