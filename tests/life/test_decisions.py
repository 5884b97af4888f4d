"""The handler, its task's rules and the worker decide whether a failed job is run again."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import anyio
import pytest
from pydantic import BaseModel
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import (
    AsyncRoost,
    CancelJob,
    DiscardJob,
    HandlerRegistry,
    Hooks,
    InvalidSettingError,
    Job,
    JobFailed,
    RetryJob,
    SnoozeJob,
    Worker,
    fixed,
    job,
)
from roost._ops.control import cancel_job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

MODULE = """
from roost import CancelJob, DiscardJob, RetryJob

class Refused(ConnectionError):
    pass

def cancel():
    raise CancelJob("not \\ud800 wanted")

def discard():
    try:
        raise ValueError("no image")
    except ValueError as error:
        raise ExceptionGroup("alone", [DiscardJob("unreadable")]) from error

def retry():
    raise RetryJob("busy", in_=500)

def refuse():
    raise Refused("never")

def drop():
    raise ExceptionGroup("both", [ConnectionError("again"), Refused("never")])

def take(number):
    return number
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Yield a module that is found through sys.path only."""
    name = f"roost_tasks_{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module(name)
    del sys.modules[name]


def raises(error: BaseException, *, in_a_thread: bool) -> Callable[..., Any]:
    async def in_the_loop() -> None:
        raise error

    def in_the_thread() -> None:
        raise error

    return in_the_thread if in_a_thread else in_the_loop


def wait_of(job: Job) -> float:
    return (job.scheduled_at - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize("in_a_thread", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
async def test_a_handler_cancels_discards_and_retries_its_own_job(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    client: AsyncRoost,
    in_a_thread: bool,
    grouped: bool,
) -> None:
    errors = {
        "cancel": CancelJob("not wanted"),
        "discard": DiscardJob("no image"),
        "retry": RetryJob("busy", in_=timedelta(minutes=10)),
    }
    for name, error in errors.items():
        raised = ExceptionGroup("alone", [error]) if grouped else error
        registry.register(name, raises(raised, in_a_thread=in_a_thread))
    ids = {name: table.add(name) for name in errors}
    child = await client.enqueue("after", depends_on=[ids["cancel"]])
    worker = make_worker()
    assert await worker.run_once() == 3
    assert worker.failed == 2
    cancelled, discarded, retried = (table.get(ids[name]) for name in errors)
    assert (cancelled.state, cancelled.attempt) == ("cancelled", 1)
    assert (discarded.state, discarded.attempt) == ("discarded", 1)
    assert (retried.state, retried.attempt) == ("retryable", 1)
    assert 590 < wait_of(retried) <= 600
    assert table.get(child).state == "cancelled"
    for found, text in ((cancelled, "not wanted"), (discarded, "no image"), (retried, "busy")):
        assert text in found.errors[0]["trace"]
        assert found.errors[0]["error"].endswith(f"Job: {text}")


async def test_a_handler_in_a_process_decides_too(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any
) -> None:
    names = ("cancel", "discard", "retry", "refuse", "drop")
    for name in names:
        job(
            name,
            run_in="process",
            retry_on=(ConnectionError,),
            discard_on=tasks.Refused,
            registry=registry,
        )(getattr(tasks, name))
    ids = {name: table.add(name) for name in names}
    await make_worker(concurrency=1).run_once()
    found = {name: table.get(ids[name]) for name in names}
    assert {name: one.state for name, one in found.items()} == {
        "cancel": "cancelled",
        "discard": "discarded",
        "retry": "retryable",
        "refuse": "discarded",
        "drop": "retryable",
    }
    assert {one.attempt for one in found.values()} == {1}
    assert found["cancel"].errors[0]["error"] == "CancelJob: not ? wanted"
    assert "ValueError: no image" in found["discard"].errors[0]["trace"]
    assert 490 < wait_of(found["retry"]) <= 500
    assert found["refuse"].errors[0]["error"] == "Refused: never"


async def test_a_retry_is_discarded_without_attempts_left_and_waits_as_the_strategy_says(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        raise RetryJob("busy")

    first, last = table.add(), table.add(max_attempts=1)
    await make_worker(retry_strategy=fixed(50)).run_once()
    assert 40 < wait_of(table.get(first)) <= 50
    assert table.get(last).state == "discarded"


async def test_a_waiter_and_a_hook_get_the_reason(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, client: AsyncRoost
) -> None:
    seen: list[BaseException | None] = []

    async def after(job: Job, *, error: BaseException | None, **_: object) -> None:
        seen.append(error)

    @job("work", registry=registry)
    async def work() -> None:
        raise CancelJob("the account is closed")

    job_id = await client.enqueue(work)
    async with working(make_worker(hooks=Hooks(after_job=after))):
        with pytest.raises(JobFailed, match="was cancelled: CancelJob: the account is closed"):
            await client.wait_for(job_id)
    assert [type(error) for error in seen] == [CancelJob]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (CancelJob("late"), "cancelled"),
        (DiscardJob("late"), "cancelled"),
        (RetryJob("late", in_=0), "cancelled"),
    ],
    ids=["cancel", "discard", "retry"],
)
async def test_a_users_cancel_goes_before_what_the_handler_raises_then(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    error: Exception,
    state: str,
) -> None:
    started = anyio.Event()

    @job("work", registry=registry)
    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise error from None

    job_id = table.add()
    async with working(make_worker()):
        await started.wait()
        table.run(cancel_job(job_id))
        await eventually(lambda: table.get(job_id).state == state)
    assert table.get(job_id).errors == []


@pytest.mark.parametrize("error", [CancelJob("late"), DiscardJob("late"), RetryJob("late")])
async def test_a_job_that_the_stop_interrupts_is_released_whatever_it_raises(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, error: Exception
) -> None:
    started = anyio.Event()

    @job("work", registry=registry)
    async def work() -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise error from None

    job_id = table.add()
    async with working(make_worker(shutdown_timeout=0)):
        await started.wait()
    after = table.get(job_id)
    assert (after.state, after.attempt, after.errors) == ("available", 0, [])


async def test_a_timeout_goes_before_what_the_handler_raises_then(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", timeout_seconds=1, registry=registry)
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise DiscardJob("late") from None

    job_id = table.add(timeout_seconds=1)
    await make_worker().run_once()
    after = table.get(job_id)
    assert (after.state, after.errors[0]["error"]) == (
        "retryable",
        "JobTimeoutError: timed out after 1 s",
    )


# The rules of a task


async def test_a_task_says_what_is_retried_and_how_long_it_waits(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job(
        "call",
        retry_on=[ConnectionError, TimeoutError],
        discard_on=ConnectionRefusedError,
        retry_strategy=fixed(70),
        registry=registry,
    )
    async def call(kind: str) -> None:
        if kind == "timeout":
            await anyio.sleep_forever()
        raise {"reset": ConnectionResetError, "refused": ConnectionRefusedError}.get(
            kind, ValueError
        )

    ids = {
        kind: table.add("call", args={"kind": kind}, timeout_seconds=1)
        for kind in ("reset", "refused", "other", "timeout")
    }
    await make_worker(retry_strategy=fixed(10)).run_once()
    states = {kind: table.get(job_id).state for kind, job_id in ids.items()}
    assert states == {
        "reset": "retryable",
        "refused": "discarded",
        "other": "discarded",
        "timeout": "retryable",
    }
    assert 60 < wait_of(table.get(ids["reset"])) <= 70


async def test_a_strategy_of_a_task_that_fails_is_replaced_by_the_default(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    def strategy(attempt: int) -> float:
        raise ZeroDivisionError

    @job("work", retry_strategy=strategy, registry=registry)
    async def work() -> None:
        raise ValueError("no")

    job_id = table.add()
    await make_worker(retry_strategy=fixed(1000)).run_once()
    assert table.get(job_id).state == "retryable"
    assert wait_of(table.get(job_id)) < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry_on": (KeyError,), "discard_on": KeyError}, "KeyError is in retry_on and in"),
        ({"retry_on": ()}, "retry_on must be an exception class or several, not"),
        ({"discard_on": "KeyError"}, "discard_on must be an exception class or several"),
        ({"retry_on": [KeyError()]}, "must be exception classes, and KeyError"),
        ({"discard_on": int}, "must be exception classes, and <class 'int'> is none"),
        ({"retry_strategy": fixed}, r"retry_strategy must be the result of fixed\(...\)"),
        ({"retry_strategy": 5}, "retry_strategy must be a function of the attempt"),
    ],
)
def test_rules_that_cant_be_meant_are_refused_at_the_declaration(
    registry: HandlerRegistry, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSettingError, match=message):
        job("work", registry=registry, **options)
    with pytest.raises(InvalidSettingError, match=message):
        registry.register("work", raises(ValueError(), in_a_thread=True), **options)
    assert "work" not in registry


def test_a_process_can_not_import_a_local_exception(registry: HandlerRegistry, tasks: Any) -> None:
    class Local(Exception):  # noqa: N818
        pass

    with pytest.raises(InvalidSettingError, match="Local: define it at the top of a module"):
        registry.register("work", tasks.cancel, run_in="process", retry_on=Local)


# Args that don't fit


class Order(BaseModel):
    number: int


def with_session(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(**args: Any) -> Any:
        return func("session", **args)

    return wrapper


async def loop_takes(number: int, size: int = 1) -> int:
    return number * size


def thread_takes(number: int, size: int = 1) -> int:
    return number * size


@pytest.mark.parametrize("kind", ["loop", "thread", "process"])
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"nmber": 1},
            "no args for ['number'] and has the args ['nmber'], which are no",
        ),
        ({}, "has no args for ['number']"),
        ({"number": 1, "wide": 2}, "has the args ['wide'], which are no parameters of"),
    ],
)
async def test_args_that_do_not_fit_are_discarded_at_once(
    table: JobTable,
    registry: HandlerRegistry,
    make_worker: MakeWorker,
    tasks: Any,
    kind: str,
    args: dict[str, Any],
    message: str,
) -> None:
    if kind == "process":
        registry.register("work", tasks.take, run_in="process")
    else:
        registry.register("work", loop_takes if kind == "loop" else thread_takes)
    job_id = table.add(args=args)
    await make_worker().run_once()
    after = table.get(job_id)
    assert (after.state, after.attempt) == ("discarded", 1)
    error = after.errors[0]["error"]
    assert error.startswith("InvalidArgsError: ")
    assert message in error
    assert "retry_invalid_args=True" in error


async def test_args_that_the_model_refuses_are_discarded_at_once_or_retried(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("order", args_model=Order, retry_on=ConnectionError, registry=registry)
    async def order(number: int) -> None: ...

    first = table.add("order", args={"number": "many"})
    await make_worker().run_once()
    after = table.get(first)
    assert (after.state, after.attempt) == ("discarded", 1)
    assert "Order of" in after.errors[0]["error"]
    assert "number: Input should be a valid integer" in after.errors[0]["error"]
    second, last = table.add("order", args={}), table.add("order", args={}, max_attempts=1)
    await make_worker(retry_invalid_args=True).run_once()
    assert table.get(second).state == "retryable"
    assert table.get(last).state == "discarded"


async def test_a_type_error_of_the_handlers_own_code_is_retried(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("loop", registry=registry)
    async def loop(number: int) -> None:
        await loop_takes()  # type: ignore[call-arg]  # the mistake under test

    @job("thread", registry=registry)
    def thread(number: int) -> None:
        thread_takes()  # type: ignore[call-arg]  # the mistake under test

    ids = [table.add(name, args={"number": 1}) for name in ("loop", "thread")]
    await make_worker().run_once()
    for job_id in ids:
        assert table.get(job_id).state == "retryable"
        assert table.get(job_id).errors[0]["error"].startswith("TypeError: ")


async def test_callables_of_every_kind_are_called_with_what_they_take(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    class Counter:
        async def __call__(self, number: int) -> int:
            return number

        def method(self, number: int, job: Job) -> int:
            return number

    @with_session
    async def injected(session: str, number: int) -> int:
        return number

    async def anything(**args: int) -> int:
        return args["number"]

    handlers: dict[str, Callable[..., Any]] = {
        "object": Counter(),
        "method": Counter().method,
        "partial": functools.partial(loop_takes, size=1),
        "injected": injected,
        "anything": anything,
    }
    for name, func in handlers.items():
        registry.register(name, func)
    ids = {name: table.add(name, args={"number": 3}) for name in handlers}
    await make_worker(concurrency=10).run_once()
    assert {name: table.get(job_id).result for name, job_id in ids.items()} == dict.fromkeys(
        handlers, 3
    )
    wrong = table.add("partial", args={"numbr": 3})
    await make_worker().run_once()
    assert table.get(wrong).state == "discarded"


# The default timeout of a worker


async def test_the_worker_has_a_default_timeout_for_jobs_without_one(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        await anyio.sleep(1.2)  # sleeps: longer than the timeout

    slow, patient = table.add(), table.add(timeout_seconds=60)
    await make_worker(timeout_seconds=1).run_once()
    assert table.get(slow).state == "retryable"
    assert table.get(slow).errors[0]["error"] == "JobTimeoutError: timed out after 1 s"
    assert table.get(slow).timeout_seconds is None
    assert table.get(patient).state == "completed"


async def test_a_handler_passes_on_what_it_caught_and_snoozes_for_a_timedelta(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("import", registry=registry)
    async def import_file() -> None:
        try:
            int("x")
        except ValueError as error:
            raise DiscardJob(error) from error

    @job("wait", registry=registry)
    def wait() -> None:
        raise SnoozeJob(timedelta(minutes=10))

    discarded, snoozed = table.add("import"), table.add("wait")
    await make_worker().run_once()
    found = table.get(discarded)
    assert found.state == "discarded"
    assert found.errors[0]["error"].startswith("DiscardJob: ValueError: invalid literal")
    assert table.get(snoozed).state == "available"
    assert 590 < wait_of(table.get(snoozed)) <= 600


async def test_a_snooze_alone_in_a_group_is_a_snooze(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work() -> None:
        async with anyio.create_task_group():
            raise SnoozeJob(300)

    job_id = table.add(max_attempts=1)
    await make_worker().run_once()
    after = table.get(job_id)
    assert (after.state, after.attempt, after.errors) == ("available", 0, [])
