"""Hooks are called for every attempt and change none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    HandlerRegistry,
    Hooks,
    Job,
    JobInsert,
    SnoozeJob,
    Worker,
    current_job,
    job,
)
from roost._worker.handlers import hooks as hooks_module

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


class Diary:
    """Async hooks that record their arguments."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    async def before(self, job: Job, *, ctx: dict[str, Any]) -> None:
        assert current_job().id == job.id
        ctx["seen"] = job.attempt
        self.lines.append(("before", job.task, dict(ctx)))

    async def after(
        self, job: Job, *, result: Any, error: BaseException | None, ctx: dict[str, Any]
    ) -> None:
        await anyio.lowlevel.checkpoint()
        assert current_job().id == job.id
        self.lines.append(("after", job.task, result, type(error).__name__, dict(ctx)))

    def hooks(self) -> Hooks:
        return Hooks(before_job=self.before, after_job=self.after)


async def test_hooks_run_in_order_and_share_their_ctx(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    diary = Diary()

    @job("add", registry=registry)
    async def add(a: int) -> int:
        diary.lines.append(("handler",))
        return a + 1

    @job("sync", registry=registry)
    def sync() -> int:
        diary.lines.append(("handler",))
        return 5

    table.add("add", args={"a": 1})
    table.add("sync", priority=1)
    assert await make_worker(hooks=diary.hooks(), concurrency=1).run_once() == 2
    assert diary.lines == [
        ("before", "add", {"seen": 1}),
        ("handler",),
        ("after", "add", 2, "NoneType", {"seen": 1}),
        ("before", "sync", {"seen": 1}),
        ("handler",),
        ("after", "sync", 5, "NoneType", {"seen": 1}),
    ]


async def test_the_error_of_each_ending(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    diary = Diary()
    running = anyio.Event()

    @job("fail", registry=registry)
    async def fail() -> None:
        raise ValueError("no")

    @job("snooze", registry=registry)
    async def snooze() -> None:
        raise SnoozeJob(100)

    @job("slow", timeout_seconds=1, registry=registry)
    async def slow() -> None:
        await anyio.sleep_forever()

    @job("hang", registry=registry)
    async def hang() -> None:
        running.set()
        await anyio.sleep_forever()

    for task in ("fail", "snooze", "slow"):
        await client.enqueue(task)
    hang_id = await client.enqueue("hang")
    stopped_id = await client.enqueue("hang")
    worker = make_worker(hooks=diary.hooks(), concurrency=5, shutdown_timeout=0)
    async with working(worker):
        await running.wait()
        await client.cancel(hang_id)
        await eventually(lambda: table.get(hang_id).state == "cancelled")
        await eventually(lambda: len([line for line in diary.lines if line[0] == "after"]) == 4)
    endings = {(line[1], line[3]) for line in diary.lines if line[0] == "after"}
    assert endings == {
        ("fail", "ValueError"),
        ("snooze", "SnoozeJob"),
        ("slow", "JobTimeoutError"),
        ("hang", "JobFailed"),
        ("hang", "WorkerShutdown"),
    }
    assert table.get(stopped_id).state == "available"
    assert table.get(stopped_id).attempt == 0


class Exit(BaseException):
    """Not an Exception."""


async def raise_value_error(*args: Any, **kwargs: Any) -> None:
    raise ValueError("hook")


async def raise_system_exit(*args: Any, **kwargs: Any) -> None:
    raise SystemExit(3)


async def raise_base(*args: Any, **kwargs: Any) -> None:
    raise Exit


async def hang_forever(*args: Any, **kwargs: Any) -> None:
    await anyio.sleep_forever()


async def swallow_cancel(*args: Any, **kwargs: Any) -> None:
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class() as error:
        raise RuntimeError("instead") from error


def plain(*args: Any, **kwargs: Any) -> None:
    assert threading.current_thread() is not threading.main_thread()


def plain_that_raises(*args: Any, **kwargs: Any) -> None:
    raise SystemExit(3)


def plain_that_blocks(*args: Any, **kwargs: Any) -> None:
    time.sleep(0.5)  # sleeps: longer than the bound


def plain_that_returns_a_coroutine(*args: Any, **kwargs: Any) -> Any:
    return raise_value_error()


HOSTILE = [
    raise_value_error, raise_system_exit, raise_base, hang_forever, swallow_cancel,
    plain, plain_that_raises, plain_that_blocks, plain_that_returns_a_coroutine,
]  # fmt: skip


@pytest.mark.parametrize("hook", HOSTILE, ids=lambda hook: hook.__name__)
async def test_no_hook_changes_the_outcome_of_its_job(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    hook: Callable[..., Any],
) -> None:
    monkeypatch.setattr(hooks_module, "HOOK_TIMEOUT", 0.1)

    @job("good", registry=registry)
    async def good() -> int:
        return 7

    @job("bad", max_attempts=1, registry=registry)
    def bad() -> None:
        raise ValueError("handler")

    good_id, bad_id = table.add("good"), table.add("bad", max_attempts=1)
    worker = make_worker(hooks=Hooks(before_job=hook, after_job=hook))
    began = anyio.current_time()
    assert await worker.run_once() == 2
    assert anyio.current_time() - began < 5
    assert (table.get(good_id).state, table.get(good_id).result) == ("completed", 7)
    assert table.get(bad_id).state == "discarded"
    assert [record["error"] for record in table.get(bad_id).errors] == ["ValueError: handler"]


async def test_a_hook_that_hangs_does_not_outlast_a_stop(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    started = anyio.Event()

    async def before(job: Job, **_: Any) -> None:
        started.set()
        await anyio.sleep_forever()

    @job("work", registry=registry)
    async def work() -> None: ...

    job_id = table.add()
    worker = make_worker(hooks=Hooks(before_job=before), shutdown_timeout=0.2)
    began = anyio.current_time()
    async with working(worker):
        await started.wait()
    assert anyio.current_time() - began < 4
    assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)


async def test_a_cancel_interrupts_before_job_and_calls_after_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    started = anyio.Event()
    ran = []
    diary = Diary()

    async def before(job: Job, **_: Any) -> None:
        started.set()
        await anyio.sleep_forever()

    @job("work", registry=registry)
    def work() -> None:
        ran.append(1)

    job_id = table.add()
    worker = make_worker(hooks=Hooks(before_job=before, after_job=diary.after))
    async with working(worker):
        await started.wait()
        assert await client.cancel(job_id) is True
        await eventually(lambda: table.get(job_id).state == "cancelled")
    assert ran == []
    assert diary.lines == [("after", "work", None, "JobFailed", {})]


async def test_a_cancel_during_after_job_is_ignored(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    started, go_on = anyio.Event(), anyio.Event()

    async def after(job: Job, **_: Any) -> None:
        started.set()
        await go_on.wait()

    @job("work", registry=registry)
    async def work() -> int:
        return 7

    job_id = table.add()
    worker = make_worker(hooks=Hooks(after_job=after))
    async with working(worker):
        await started.wait()
        assert await client.cancel(job_id) is True
        session = worker._session
        assert session is not None
        await eventually(lambda: len(session.state.cancel_requests) == 1)
        go_on.set()
        await eventually(lambda: table.get(job_id).state == "completed")
    assert table.get(job_id).result == 7


async def test_with_hooks_an_unreadable_row_fails_only_its_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work(**kwargs: Any) -> None: ...

    bad, good = table.add(max_attempts=1), table.add()
    huge = '{"n": ' + "9" * 100_000 + "}"
    table.rows("update roost.jobs set args = $1::text::jsonb where id = $2::bigint", huge, bad)
    assert await make_worker(hooks=Diary().hooks()).run_once() == 2
    assert (table.get(good).state, table.column(bad, "state")) == ("completed", "discarded")


async def test_plain_hooks_that_hang_are_skipped_when_too_many_threads_hang(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(hooks_module, "HOOK_TIMEOUT", 0.1)
    go_on = threading.Event()
    calls: list[int] = []

    def hang(job: Job, **_: Any) -> None:
        calls.append(job.id)
        go_on.wait(30)

    @job("work", registry=registry)
    async def work() -> None: ...

    before = threading.active_count()
    table.add_all([JobInsert("work")] * 30)
    worker = make_worker(hooks=Hooks(before_job=hang, after_job=hang), concurrency=2)  # type: ignore[arg-type]  # a plain one is taken, too
    try:
        async with working(worker):
            await eventually(lambda: table.states() == {"completed": 30}, within=20)
            assert len(calls) <= 3  # two that hang, and one that began together with the second
            assert threading.active_count() <= before + 10
            assert caplog.text.count("are skipped") == 1
            # The hooks are called again when the threads have ended.
            go_on.set()
            called = len(calls)
            await eventually(lambda: table.add() > 0 and len(calls) > called, within=20)
    finally:
        go_on.set()
    assert "are called again" in caplog.text
