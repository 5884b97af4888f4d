"""A handler may raise or return any value: its job ends, its slot is freed, other jobs run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import anyio
import pytest
from pydantic import BaseModel, field_serializer
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, SnoozeJob, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


class BadTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class ExitingTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class OwnBase(BaseException):
    pass


class ManyLinesError(Exception):
    def __str__(self) -> str:
        return "line\n" * 600_000


class LyingSnooze(SnoozeJob):
    def __init__(self) -> None:
        super().__init__(1)
        self.seconds = "soon"  # type: ignore[assignment]  # as a careless subclass would


class HollowSnooze(SnoozeJob):
    def __init__(self) -> None:
        pass


def deep() -> None:
    deep()


def raised(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


EXCEPTIONS: dict[str, Callable[[], None]] = {
    "NUL": raised(ValueError("a\0b")),
    "lone surrogate": raised(ValueError("a\ud800b")),
    "3 MB": raised(ValueError("x" * 3_000_000)),
    "many lines": raised(ManyLinesError()),
    "failing __str__": raised(BadTextError()),
    "exiting __str__": raised(ExitingTextError()),
    "BaseException": raised(OwnBase("base")),
    "SystemExit": raised(SystemExit(3)),
    "GeneratorExit": raised(GeneratorExit()),
    "StopIteration": raised(StopIteration(7)),
    "StopAsyncIteration": raised(StopAsyncIteration()),
    "group": raised(ExceptionGroup("several", [ValueError("a\0"), BadTextError()])),
    "base group": raised(BaseExceptionGroup("several", [OwnBase(), ValueError("b")])),
    "recursion": deep,
    "caused by itself": raised(BadTextError().with_traceback(None)),
    "lying snooze": raised(LyingSnooze()),
    "hollow snooze": raised(HollowSnooze()),
}


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_every_exception_becomes_a_bounded_record(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, kind: str
) -> None:
    @job("sync", registry=registry)
    def sync(which: str) -> None:
        EXCEPTIONS[which]()

    @job("async", registry=registry)
    async def asynchronous(which: str) -> None:
        await anyio.lowlevel.checkpoint()
        EXCEPTIONS[which]()

    jobs = {which: table.add(kind, args={"which": which}, max_attempts=1) for which in EXCEPTIONS}
    # With one slot, no other job could run if it were not freed.
    async with working(make_worker(concurrency=1)):
        await eventually(lambda: table.states() == {"discarded": len(EXCEPTIONS)})
    for which, job_id in jobs.items():
        [error] = table.get(job_id).errors
        assert error["error"], which
        assert len(error["error"]) <= 1_000, which
        assert len(error["trace"]) <= 8_000, which
        assert error["attempt"] == 1
        assert datetime.fromisoformat(error["at"]).tzinfo is not None


async def test_an_error_is_recorded_with_its_type_text_and_traceback(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("fails", registry=registry)
    async def fails() -> None:
        raise LookupError("where is it?")

    job_id = table.add("fails")
    await make_worker(retry_strategy=lambda _: 1000).run_once()
    [error] = table.get(job_id).errors
    assert error["error"] == "LookupError: where is it?"
    assert "in fails" in error["trace"]
    assert table.get(job_id).state == "retryable"
    due = table.value(
        "select extract(epoch from scheduled_at - now())::float8 from roost.jobs "
        "where id = $1::bigint",
        job_id,
    )
    assert 990 < due <= 1000


class Model(BaseModel):
    at: datetime
    price: Decimal


class BadModel(BaseModel):
    n: int

    @field_serializer("n")
    def dump(self, value: int) -> int:
        raise LookupError("not today")


@dataclass
class Point:
    x: int
    at: datetime


class BadMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise RuntimeError("no item")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no keys")

    def __len__(self) -> int:
        return 1


class BadDict(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no items")


def cyclic() -> list[Any]:
    one: list[Any] = []
    one.append(one)
    return one


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ONE = UUID(int=1)
STORED: dict[str, tuple[Any, Any]] = {
    "datetime": (NOON, "2026-11-23T12:00:00Z"),
    "UUID": (ONE, str(ONE)),
    "Decimal": (Decimal("1.20"), "1.20"),
    "model": (Model(at=NOON, price=Decimal("0.1")), {"at": "2026-11-23T12:00:00Z", "price": "0.1"}),
    "dataclass": (Point(1, NOON), {"x": 1, "at": "2026-11-23T12:00:00Z"}),
    "set": ({1}, [1]),
    "tuple": ((1, [2]), [1, [2]]),
    "text of NaN": ("NaN and Infinity", "NaN and Infinity"),
    "text of an escape": ("\\u0000", "\\u0000"),
    "false": (False, False),
    "zero": (0, 0),
    "empty": ({}, {}),
}
"""Results and the JSON form in which each is stored."""

NOT_STORABLE: dict[str, Callable[[], Any]] = {
    "object": object,
    "bytes": lambda: b"\xff",
    "NaN": lambda: {"x": math.nan},
    "infinity": lambda: [math.inf],
    "NUL": lambda: "a\0b",
    "NUL in a key": lambda: {"a\0b": 1},
    "lone surrogate": lambda: ["\ud800"],
    "int keys": lambda: {1: 2},
    "cycle": cyclic,
    "depth": lambda: nested(300),
    "failing serializer": lambda: BadModel(n=1),
    "failing mapping": BadMapping,
    "failing dict": BadDict,
    "a number too long for Postgres": lambda: 10**200_000,
    "a function": lambda: deep,
}


async def test_results_with_a_json_form_are_stored(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("give", registry=registry)
    async def give(which: str) -> Any:
        return STORED[which][0]

    jobs = {which: table.add("give", args={"which": which}) for which in STORED}
    await make_worker().run_once()
    for which, job_id in jobs.items():
        assert table.get(job_id).result == STORED[which][1], which
        assert table.get(job_id).state == "completed"


async def test_results_without_a_json_form_do_not_undo_the_work(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    runs: list[str] = []

    @job("give", registry=registry)
    async def give(which: str) -> Any:
        runs.append(which)
        return NOT_STORABLE[which]()

    jobs = {which: table.add("give", args={"which": which}) for which in NOT_STORABLE}
    async with working(make_worker(concurrency=1)):
        await eventually(lambda: table.states() == {"completed": len(jobs)})
    assert sorted(runs) == sorted(NOT_STORABLE)
    for which, job_id in jobs.items():
        row = table.get(job_id)
        assert list(row.result or {}) == ["roost.unserializable"], which
        assert len(row.result["roost.unserializable"]) <= 1_000  # type: ignore[index]  # seen above
        assert (row.attempt, row.errors) == (1, [])


async def test_an_infinite_snooze_affects_only_its_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("snooze", registry=registry)
    async def snooze(seconds: float) -> None:
        raise SnoozeJob(seconds)

    @job("work", registry=registry)
    async def work() -> None: ...

    sleepers = [table.add("snooze", args={"seconds": seconds}) for seconds in (1e9, 1e15, 1e300)]
    worked = table.add("work")
    assert await make_worker(concurrency=4).run_once() == 4
    assert table.get(worked).state == "completed"
    for sleeper in sleepers:
        row = table.get(sleeper)
        assert (row.state, row.attempt, row.errors) == ("available", 0, [])
        assert row.scheduled_at.year > 2050


@pytest.mark.parametrize("answer", [math.inf, math.nan, -1.0, "soon", None, 1e300])
async def test_an_invalid_answer_of_a_retry_strategy_still_ends_the_attempt(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, answer: Any
) -> None:
    @job("fails", registry=registry)
    async def fails() -> None:
        raise RuntimeError

    job_id = table.add("fails")
    await make_worker(retry_strategy=lambda _: answer).run_once()
    assert table.get(job_id).state == "retryable"
    assert table.get(job_id).scheduled_at > table.get(job_id).inserted_at


async def test_only_the_job_with_an_unreadable_row_is_discarded(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("work", registry=registry)
    async def work(**kwargs: Any) -> None: ...

    bad, good = table.add("work", max_attempts=1), table.add("work")
    table.rows("update roost.jobs set args = $1::text::jsonb where id = $2::bigint", HUGE, bad)
    assert await make_worker().run_once() == 2
    assert table.get(good).state == "completed"
    assert table.column(bad, "state") == "discarded"


HUGE = '{"n": ' + "9" * 100_000 + "}"
