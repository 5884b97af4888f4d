"""A handler that leaves scopes or cancels open affects no other job, on any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
import trio
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Hooks, Job, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

KEPT: list[Any] = []
"""Keeps the scopes and groups that handlers leave open from being collected."""


@pytest.fixture(autouse=True)
def collect() -> Any:
    yield
    KEPT.clear()
    gc.collect()


async def a_scope() -> None:
    KEPT.append(anyio.CancelScope())
    KEPT[-1].__enter__()


async def a_cancelled_scope() -> None:
    await a_scope()
    KEPT[-1].cancel()


async def scopes_in_scopes() -> None:
    for seconds in (5, 0, 3):
        KEPT.append(anyio.move_on_after(seconds, shield=seconds == 5))
        KEPT[-1].__enter__()


async def a_shield() -> None:
    KEPT.append(anyio.move_on_after(60, shield=True))
    KEPT[-1].__enter__()


async def an_async_generator() -> None:
    with contextlib.suppress(
        RuntimeError
    ):  # it fails when it is collected, which is not tested here
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    async def numbers() -> AsyncIterator[int]:
        with anyio.move_on_after(5):
            for number in range(10):
                yield number
                await anyio.lowlevel.checkpoint()

    async for number in numbers():
        if number == 2:
            break


async def an_async_generator_that_is_kept() -> None:
    async def numbers() -> AsyncIterator[int]:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield 1

    KEPT.append(numbers())
    await anext(KEPT[-1])


async def an_empty_group() -> None:
    KEPT.append(anyio.create_task_group())
    await KEPT[-1].__aenter__()


async def a_group() -> None:
    await an_empty_group()
    KEPT[-1].start_soon(anyio.sleep_forever)
    await anyio.lowlevel.checkpoint()


async def groups_and_scopes() -> None:
    for leave in (a_scope, a_group, a_scope, an_empty_group, a_group):
        await leave()


async def a_group_whose_task_fails() -> None:
    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("late")

    await an_empty_group()
    KEPT[-1].start_soon(fail)
    await anyio.lowlevel.checkpoint()


async def a_native_cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def a_native_cancel_that_was_taken_back() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    task.uncancel()


async def native_cancels() -> None:
    await a_native_cancel()
    await a_native_cancel()


async def a_native_cancel_in_a_scope() -> None:
    await a_scope()
    await a_native_cancel()


async def a_native_cancel_soon() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)


async def a_native_timeout() -> None:
    KEPT.append(asyncio.timeout(0.01))
    await KEPT[-1].__aenter__()


ANYWHERE = [
    a_scope, a_cancelled_scope, scopes_in_scopes, a_shield,
    # The event loops warn of a generator that was not closed.
    pytest.param(an_async_generator, marks=pytest.mark.filterwarnings("ignore")),
    an_async_generator_that_is_kept, an_empty_group, a_group, groups_and_scopes,
    a_group_whose_task_fails,
]  # fmt: skip
ON_ASYNCIO = [
    a_native_cancel, a_native_cancel_that_was_taken_back, native_cancels,
    a_native_cancel_in_a_scope, a_native_cancel_soon, a_native_timeout,
]  # fmt: skip
Leave = Callable[[], Awaitable[None]]


def skip_unless_it_applies(leave: Leave, backend: str) -> None:
    if leave in ON_ASYNCIO and backend == "trio":
        pytest.skip("tasks of trio have no cancel of their own")


@asynccontextmanager
async def with_another_job(
    table: JobTable, worker: Worker, registry: HandlerRegistry
) -> AsyncIterator[int]:
    """Yield while another job runs. It must not be interrupted, and completes afterwards."""
    started, go_on = anyio.Event(), anyio.Event()

    @job("neighbor", registry=registry)
    async def neighbor() -> str:
        started.set()
        await go_on.wait()
        return "undisturbed"

    neighbor_id = table.add("neighbor", max_attempts=1)
    with anyio.fail_after(30):
        async with working(worker):
            await eventually(started.is_set)
            yield neighbor_id
            # Later jobs run, too.
            later = table.add("later")
            await eventually(lambda: table.get(later).state == "completed")
            go_on.set()
            await eventually(lambda: table.get(neighbor_id).state == "completed")
    row = table.get(neighbor_id)
    assert (row.attempt, row.result, row.errors) == (1, "undisturbed", [])


@pytest.fixture
def registry() -> HandlerRegistry:
    registry = HandlerRegistry()

    @job("later", registry=registry)
    async def later() -> None:
        await anyio.lowlevel.checkpoint()

    return registry


@pytest.mark.parametrize("timeout", [None, 20])
@pytest.mark.parametrize("leave", [*ANYWHERE, *ON_ASYNCIO], ids=lambda leave: leave.__name__)
async def test_scopes_that_a_handler_leaves_open_are_closed(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    anyio_backend_name: str,
    leave: Leave,
    timeout: int | None,
) -> None:
    skip_unless_it_applies(leave, anyio_backend_name)

    @job("returns", registry=registry)
    async def returns() -> str:
        await leave()
        return "done"

    @job("raises", registry=registry)
    async def raises() -> None:
        await leave()
        raise ValueError("no")

    async with with_another_job(table, make_worker(concurrency=3), registry):
        good = table.add("returns", max_attempts=1, timeout_seconds=timeout)
        bad = table.add("raises", max_attempts=1, timeout_seconds=timeout)
        await eventually(
            lambda: {table.get(good).state, table.get(bad).state} == {"completed", "discarded"}
        )
    assert (table.get(good).state, table.get(good).result) == ("completed", "done")
    assert [record["error"] for record in table.get(bad).errors] == ["ValueError: no"]


@pytest.mark.parametrize("when", ["before", "after", "both"])
@pytest.mark.parametrize("leave", [*ANYWHERE, *ON_ASYNCIO], ids=lambda leave: leave.__name__)
async def test_scopes_that_a_hook_leaves_open_are_closed(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    anyio_backend_name: str,
    leave: Leave,
    when: str,
) -> None:
    skip_unless_it_applies(leave, anyio_backend_name)

    async def hook(job: Job, **_: Any) -> None:
        if job.task == "work":
            await leave()

    @job("work", registry=registry)
    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        return "done"

    hooks = Hooks(
        before_job=hook if when != "after" else None, after_job=hook if when != "before" else None
    )
    async with with_another_job(table, make_worker(hooks=hooks), registry):
        job_id = table.add("work", max_attempts=1)
        await eventually(lambda: table.get(job_id).state in ("completed", "discarded"))
    row = table.get(job_id)
    if leave is a_native_cancel_soon:
        return  # it is delivered while the handler or the caller of the hook runs
    assert (row.state, row.result, row.errors) == ("completed", "done", [])


async def test_scopes_that_a_thread_leaves_open_in_the_loop_are_closed(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    def work() -> str:
        anyio.from_thread.run(a_scope)
        return "done"

    async with with_another_job(table, make_worker(), registry):
        job_id = table.add("work", max_attempts=1)
        await eventually(lambda: table.get(job_id).state == "completed")


async def test_a_cancel_and_a_stop_reach_a_handler_with_an_open_scope(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    started = anyio.Event()

    @job("work", registry=registry)
    async def work() -> None:
        await a_scope()
        started.set()
        await anyio.sleep_forever()

    async with with_another_job(table, make_worker(), registry):
        job_id = table.add("work")
        await eventually(started.is_set)
        await client.cancel(job_id)
        await eventually(lambda: table.get(job_id).state == "cancelled")
    started = anyio.Event()
    job_id = table.add("work")
    async with working(make_worker(shutdown_timeout=0)):
        await eventually(started.is_set)
    assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)


class Exiting(Mapping[str, int]):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, key: str) -> int:
        raise self.error

    def __iter__(self) -> Any:
        raise self.error

    def __len__(self) -> int:
        return 1


class ExitingError(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


class OwnBase(BaseException):
    pass


def base_exceptions() -> list[BaseException]:
    return [
        SystemExit(3), KeyboardInterrupt(), GeneratorExit(), OwnBase("own"), StopIteration(1),
        asyncio.CancelledError(), trio.Cancelled._create(source="unknown"),
    ]  # fmt: skip


IDS = [type(error).__name__ for error in base_exceptions()]


@pytest.mark.parametrize("which", range(len(IDS)), ids=IDS)
async def test_every_error_of_a_handler_fails_only_its_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, which: int
) -> None:
    @job("raises", registry=registry)
    async def raises() -> None:
        await anyio.lowlevel.checkpoint()
        raise base_exceptions()[which]

    @job("raises at once", registry=registry)
    async def at_once() -> None:
        raise base_exceptions()[which]

    @job("in a thread", registry=registry)
    def in_a_thread() -> None:
        raise base_exceptions()[which]

    @job("error", registry=registry)
    async def error() -> None:
        raise ExitingError(base_exceptions()[which])

    @job("result", registry=registry)
    async def result() -> Any:
        return Exiting(base_exceptions()[which])

    tasks = [task for task in registry if task != "later"]
    async with with_another_job(table, make_worker(), registry):
        ids = {task: table.add(task, max_attempts=1) for task in tasks}
        await eventually(
            lambda: (
                all(table.get(job_id).state != "available" for job_id in ids.values())
                and table.states().get("executing") == 1
            )
        )
    states = {task: table.get(job_id).state for task, job_id in ids.items()}
    assert states.pop("result") == "completed"
    assert set(states.values()) == {"discarded"}
    assert [*(table.get(ids["result"]).result or ())] == ["roost.unserializable"]


@pytest.mark.parametrize("which", range(len(IDS)), ids=IDS)
async def test_no_error_of_a_hook_or_retry_strategy_changes_a_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, which: int
) -> None:
    async def hook(job: Job, **_: Any) -> None:
        raise base_exceptions()[which]

    def strategy(attempt: int) -> float:
        raise base_exceptions()[which]

    @job("good", registry=registry)
    async def good() -> int:
        return 7

    @job("bad", registry=registry)
    async def bad() -> None:
        raise ValueError("no")

    worker = make_worker(hooks=Hooks(hook, hook), retry_strategy=strategy)
    async with with_another_job(table, worker, registry):
        good_id, bad_id = table.add("good"), table.add("bad")
        await eventually(lambda: table.get(good_id).state == "completed")
        await eventually(lambda: table.get(bad_id).state == "retryable")
    assert (table.get(bad_id).attempt, len(table.get(bad_id).errors)) == (1, 1)


def test_ctrl_c_in_a_handler_stops_the_worker_and_uses_no_attempt(
    dsn: str, table: JobTable, registry: HandlerRegistry, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    @job("interrupted", registry=registry)
    async def interrupted() -> None:
        # On asyncio the first one cancels the main task, the second one is raised in here.
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()

    job_id = table.add("interrupted")
    name, options = anyio_backend

    async def main() -> None:
        with anyio.fail_after(20):
            await Worker(dsn, registry=registry, shutdown_timeout=0.1).run()

    with pytest.raises(BaseException) as caught:  # noqa: PT011  (a group on some loops)
        anyio.run(main, backend=name, backend_options=options)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, KeyboardInterrupt)
    row = table.get(job_id)
    assert (row.state, row.attempt, row.errors) == ("available", 0, [])
    assert table.workers() == []
