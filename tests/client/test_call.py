"""`roost.call`: a task with its arguments, which every enqueue accepts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from tests.support.job_table import JobTable

import roost
from roost import AsyncRoost, HandlerRegistry, InvalidJobError, JobInsert, Roost, job


def send(user_id: int, subject: str = "hi", *, urgent: bool = False) -> str:
    return f"{user_id} {subject} {urgent}"


def test_arguments_are_bound_by_name() -> None:
    assert roost.call(send, 1, "a", urgent=True).args == {
        "user_id": 1,
        "subject": "a",
        "urgent": True,
    }
    assert roost.call(send, user_id=1).args == {"user_id": 1}


def test_extra_keywords_are_spread() -> None:
    def collect(**fields: Any) -> None: ...

    assert roost.call(collect, a=1, b=2).args == {"a": 1, "b": 2}


def test_arguments_that_the_function_does_not_accept_are_refused() -> None:
    wrong: Any = roost.call
    for args, kwargs in (((), {"nobody": 1}), ((1, "a", "b"), {}), ((1,), {"user_id": 2})):
        with pytest.raises(InvalidJobError, match=r"send\(\) can't be called like this"):
            wrong(send, *args, **kwargs)


def test_an_argument_without_a_name_can_not_be_stored() -> None:
    def spread(*numbers: int) -> None: ...

    def positional(n: int, /) -> None: ...

    for func in (spread, positional):
        with pytest.raises(InvalidJobError, match="has no name to store it by"):
            roost.call(func, 1)


def test_options_return_a_new_call_and_accumulate() -> None:
    bare = roost.call(send, 1)
    one = bare.options(queue="mail", priority=3)
    two = one.options(priority=4, tags=["a"])
    assert bare.overrides == {}
    assert one.overrides == {"queue": "mail", "priority": 3}
    assert two.overrides == {"queue": "mail", "priority": 4, "tags": ["a"]}
    assert two.args == bare.args


def test_an_unknown_option_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"unknown option \['on_conflict'\]: use \['queue', "):
        roost.call(send, 1).options(on_conflict="return")  # type: ignore[call-arg]


def test_the_function_is_not_called() -> None:
    def explode() -> None:
        raise AssertionError

    roost.call(explode)


@pytest.fixture
def declared(registry: HandlerRegistry) -> None:
    job("send", queue="slow", priority=7, registry=registry)(send)


@pytest.mark.usefixtures("declared")
def test_options_of_enqueue_override_the_calls_and_those_the_tasks(
    dsn: str, registry: HandlerRegistry
) -> None:
    with Roost(dsn, registry=registry) as client:
        bare = client.get(client.enqueue(roost.call(send, 1)))
        assert (bare.task, bare.args, bare.queue, bare.priority) == (
            "send", {"user_id": 1}, "slow", 7,
        )  # fmt: skip
        chosen = roost.call(send, 1).options(queue="mail", priority=0)
        own = client.get(client.enqueue(chosen))
        assert (own.queue, own.priority) == ("mail", 0)
        last = client.get(client.enqueue(chosen, priority=2))
        assert (last.queue, last.priority) == ("mail", 2)
        with pytest.raises(InvalidJobError, match="args must not be passed"):
            client.enqueue(chosen, args={"user_id": 2})


def test_a_call_of_a_function_that_is_not_a_task_is_refused(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client, pytest.raises(roost.UnknownTaskError, match="decorate it"):
        client.enqueue(roost.call(send, 1))
    assert table.states() == {}


# Every way to enqueue stores the same JSON.


class Line(BaseModel):
    price: Decimal
    day: date


class Order(BaseModel):
    number: UUID
    at: datetime
    lines: list[Line]
    note: str | None = None


def take(number: UUID, at: datetime, lines: list[Line], note: str | None = None) -> None: ...


@pytest.fixture
async def client(
    anyio_backend: object, dsn: str, registry: HandlerRegistry
) -> AsyncIterator[AsyncRoost]:
    async with AsyncRoost(dsn, registry=registry) as client:
        yield client


@pytest.mark.anyio
async def test_every_way_to_enqueue_stores_the_same_json(
    client: AsyncRoost, dsn: str, registry: HandlerRegistry, table: JobTable
) -> None:
    job("take", args_model=Order, registry=registry)(take)
    number, at = UUID(int=5), datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
    line = Line(price=Decimal("1.10"), day=date(2026, 1, 2))
    values = {"number": number, "at": at, "lines": [line], "note": None}
    model = Order(number=number, at=at, lines=[line])
    called = roost.call(take, number, at, [line], note=None)
    ids: list[int | None] = []
    with Roost(dsn, registry=registry) as blocking:
        for args in (values, model):
            ids.append(await client.enqueue(take, args=args))
            ids.append(blocking.enqueue(take, args=args))
            ids += await client.enqueue_all([JobInsert("take", args)])
            ids += blocking.enqueue_all([JobInsert("take", args)])
            assert await client.enqueue_many([JobInsert("take", args)]) == 1
        ids += [await client.enqueue(called), blocking.enqueue(called)]
        ids += await client.enqueue_all([called])
        async with client.transaction() as conn:
            ids.append(await client.enqueue(called, conn=conn))
    stored = table.value("select args::text from roost.jobs limit 1")
    ids.append(table.value("select roost.enqueue('take', $1::text::jsonb)", stored))
    texts = [row[0] for row in table.rows("select args::text from roost.jobs")]
    assert None not in ids
    assert len(texts) == len(ids) + 2
    assert set(texts) == {stored}
    assert Order.model_validate_json(stored) == model
