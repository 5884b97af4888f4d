"""The work of every kind of handler is done before its job completes; other kinds are refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.job_table import JobTable

from roost import HandlerRegistry, InvalidSettingError, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

RAN: list[str] = []


async def work() -> str:
    await anyio.lowlevel.checkpoint()
    RAN.append("ran")
    return "done"


class Later:
    def __await__(self) -> Generator[Any, Any, str]:
        return work().__await__()


class AsyncCallable:
    async def __call__(self) -> str:
        return await work()

    async def method(self) -> str:
        return await work()

    @staticmethod
    async def static() -> str:
        return await work()


def wrapped(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper


async def returns_a_coroutine() -> Any:
    return work()


async def returns_an_awaitable() -> Any:
    await anyio.lowlevel.checkpoint()
    return Later()


def returns_an_awaitable_from_a_thread() -> Any:
    return Later()


def returns_coroutines_in_coroutines() -> Any:
    return returns_a_coroutine()


def run_in_a_pool(*, wait: bool) -> Any:
    def plain() -> str:
        RAN.append("ran")
        return "done"

    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        return pool.submit(plain)
    finally:
        pool.shutdown(wait=wait)


async def returns_a_future_of_a_pool() -> Any:
    return run_in_a_pool(wait=False)


def returns_a_future_of_a_pool_from_a_thread() -> Any:
    return run_in_a_pool(wait=False)


async def returns_a_task() -> Any:
    return asyncio.create_task(work())


KINDS: dict[str, Callable[..., Any]] = {
    "awaitable": returns_an_awaitable,
    "awaitable from a thread": returns_an_awaitable_from_a_thread,
    "callable": AsyncCallable(),
    "coroutine": returns_a_coroutine,
    "coroutines in coroutines": returns_coroutines_in_coroutines,
    "future": returns_a_future_of_a_pool,
    "future from a thread": returns_a_future_of_a_pool_from_a_thread,
    "lambda": lambda: work(),
    "method": AsyncCallable().method,
    "partial": functools.partial(work),
    "partial of a wrapped": functools.partial(wrapped(work)),
    "static method": AsyncCallable.static,
    "task": returns_a_task,
    "wrapped": wrapped(work),
    "wrapped callable": wrapped(AsyncCallable().__call__),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_work_is_done_before_the_job_is_completed(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    anyio_backend_name: str,
    kind: str,
) -> None:
    if kind == "task" and anyio_backend_name == "trio":
        pytest.skip("a task of asyncio")
    RAN.clear()
    registry.register("work", KINDS[kind])
    job_id = table.add(max_attempts=1)
    assert await make_worker().run_once() == 1
    assert (table.get(job_id).state, table.get(job_id).result) == ("completed", "done")
    assert RAN == ["ran"]


def yields() -> Iterator[int]:
    yield 1


async def yields_async() -> AsyncIterator[int]:
    yield 1


class YieldingCallable:
    def __call__(self) -> Iterator[int]:
        yield 1

    async def method(self) -> AsyncIterator[int]:
        yield 1


GENERATORS: list[Any] = [
    yields, yields_async, functools.partial(yields), functools.partial(yields_async),
    YieldingCallable(), YieldingCallable().method, YieldingCallable().__call__,
]  # fmt: skip


@pytest.mark.parametrize("run_in", ["thread", "process"])
@pytest.mark.parametrize("func", GENERATORS)
def test_generator_functions_are_refused_where_they_are_declared(
    registry: HandlerRegistry, func: Any, run_in: Any
) -> None:
    with pytest.raises(InvalidSettingError, match="generator function"):
        job("work", registry=registry, run_in=run_in)(func)
    assert "work" not in registry


async def ends_at_once() -> Any:
    return yields()


LAZY: dict[str, Callable[..., Any]] = {
    "async generator": wrapped(yields_async),
    "filter": lambda: filter(RAN.append, ["ran"]),
    "from a coroutine": ends_at_once,
    "generator": wrapped(yields),
    "map": lambda: map(RAN.append, ["ran"]),
}


@pytest.mark.parametrize("kind", LAZY)
async def test_a_lazy_result_that_was_never_run_is_a_failure(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, kind: str
) -> None:
    RAN.clear()
    registry.register("work", LAZY[kind])
    job_id = table.add(max_attempts=1)
    assert await make_worker().run_once() == 1
    row = table.get(job_id)
    assert row.state == "discarded"
    assert "which has not run" in row.errors[0]["error"]
    assert RAN == []


async def test_an_awaitable_that_returns_itself_fails_after_a_bound(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    class Endless:
        def __await__(self) -> Generator[Any, Any, Any]:
            yield from ()
            return self

    @job("work", registry=registry)
    def endless() -> Any:
        return Endless()

    job_id = table.add(max_attempts=1)
    await make_worker().run_once()
    assert "has no end" in table.get(job_id).errors[0]["error"]
