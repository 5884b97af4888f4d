"""Type checkers check the arguments of `roost.call` and know what it returns.

The functions below are read by mypy, in ``tests/checks``: ``assert_type`` fails there, and so does
an ``ignore`` that nothing needs, which is how a call that must be refused is tested.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, assert_type

import pytest

import roost
from roost import AsyncRoost, InvalidJobError, Job, JobInsert, JobOutcome, Roost, TaskCall
from roost._drivers.psycopg_anyio.connection import AnyioConnection


async def send(user_id: int, subject: str = "hi") -> str:
    return f"{user_id} {subject}"


def resize(path: str, *, width: int) -> bytes:
    return path.encode() * width


def test_a_call_knows_its_result() -> None:
    assert_type(roost.call(resize, "a", width=1), TaskCall[bytes])
    assert_type(roost.call(resize, "a", width=1).options(queue="x"), TaskCall[bytes])
    # Checkers differ in what a coroutine function returns; all know that it is a Coroutine.
    awaited: TaskCall[Coroutine[Any, Any, str]] = roost.call(send, 1, subject="a")
    assert awaited.func is send


async def with_job(job: Job, user_id: int, *, subject: str = "hi") -> str:
    return f"{job.id} {user_id} {subject}"


def with_job_last(user_id: int, *, job: Job | None = None) -> int:
    return user_id


def test_the_parameter_that_gets_the_job_is_left_out() -> None:
    assert roost.call(with_job, 1, subject="a").args == {"user_id": 1, "subject": "a"}
    assert roost.call(with_job, user_id=1).args == {"user_id": 1}
    assert roost.call(with_job_last, 1).args == {"user_id": 1}
    awaited: TaskCall[Coroutine[Any, Any, str]] = roost.call(with_job, 1)
    assert awaited.func is with_job
    roost.call(with_job, "one")  # type: ignore[call-overload]  # what is tested


def test_wrong_arguments_are_found() -> None:
    with pytest.raises(InvalidJobError):
        roost.call(send, 1, nobody=2)  # type: ignore[arg-type, call-arg]  # what is tested
    with pytest.raises(InvalidJobError):
        roost.call(send, 1, "a", "b")  # type: ignore[call-overload]  # what is tested
    roost.call(send, "one")  # type: ignore[call-overload]  # what is tested
    roost.call(resize, "a")  # type: ignore[call-overload]  # what is tested: left out, width is missing
    roost.call(send, 1).options(queue=5)  # type: ignore[arg-type]  # what is tested


async def read_only(client: AsyncRoost, blocking: Roost) -> None:
    """Be read by type checkers, and never called."""
    assert_type(await client.enqueue(roost.call(send, 1)), int)
    assert_type(await client.enqueue_all([roost.call(send, 1), "name", send]), list[int | None])
    assert_type(await client.enqueue_many([JobInsert("name"), roost.call(send, 1)]), int)
    assert_type(blocking.enqueue(roost.call(resize, "a", width=1)), int)
    assert_type((await client.wait_for(1)).id, int)
    outcome: JobOutcome[str] = await client.wait_for(1)
    assert_type(outcome.result, str | None)
    bare: JobOutcome = blocking.wait_for(1)
    assert_type(bare.result, Any | None)


async def asks_in_a_transaction(client: AsyncRoost) -> None:
    async with client.transaction() as connection:
        assert_type(connection, AnyioConnection[tuple[Any, ...]])
        await client.enqueue("work", conn=connection)
