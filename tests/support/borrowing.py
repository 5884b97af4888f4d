"""Tests of ``conn=`` that every accepted kind of connection must pass.

Subclass `BorrowingConformance` and give it the fixture ``kind``. Blocking kinds pass the same
tests: `ConnectionKind.client` makes their client awaitable.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import pytest
from tests.support.job_table import JobTable

from roost import (
    AsyncRoost,
    DuplicateUniqueJobError,
    InvalidJobError,
    JobInsert,
    Roost,
    UnknownParentError,
)


@attrs.frozen
class ConnectionKind:
    """One kind of connection that ``conn=`` accepts.

    :param open: returns, for a DSN, a context manager of a connection in a transaction. The
        transaction commits at the end of the block, and rolls back if the block raises.
    :param execute: runs one statement on the connection.
    :param blocking: the connection is for `Roost`, not for `AsyncRoost`.
    """

    open: Callable[[str], AbstractAsyncContextManager[Any] | AbstractContextManager[Any]]
    execute: Callable[[Any, str], Any]
    blocking: bool = False

    @asynccontextmanager
    async def transaction(self, dsn: str) -> AsyncIterator[Any]:
        """Open a connection in a transaction."""
        opened = self.open(dsn)
        if isinstance(opened, AbstractContextManager):
            with opened as conn:
                yield conn
        else:
            async with opened as conn:
                yield conn

    async def run(self, conn: Any, statement: str) -> None:
        """Run a statement on the connection."""
        done = self.execute(conn, statement)
        if not self.blocking:
            await done

    @contextmanager
    def blocking_client(self, dsn: str) -> Iterator[Any]:
        """Yield a `Roost` whose verbs are awaited."""
        with Roost(dsn) as roost:
            yield _Awaited(roost)

    @asynccontextmanager
    async def client(self, dsn: str) -> AsyncIterator[Any]:
        """Yield a client that accepts this kind of connection."""
        if self.blocking:
            with self.blocking_client(dsn) as client:
                yield client
        else:
            async with AsyncRoost(dsn) as client:
                yield client


class _Awaited:
    """A blocking client with awaitable methods, so that the same tests run on both clients."""

    def __init__(self, roost: Roost) -> None:
        self._roost = roost

    def __getattr__(self, name: str) -> Callable[..., Any]:
        verb = getattr(self._roost, name)

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return verb(*args, **kwargs)

        return awaited


class _Undo(Exception):  # noqa: N818
    """Raised to have a transaction rolled back."""


@asynccontextmanager
async def undone(block: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    """Enter ``block``, and leave it with an error at the end."""
    with suppress(_Undo):
        async with block as conn:
            yield conn
            raise _Undo


BAD_FIELDS: list[dict[str, Any]] = [
    {"args": {"a": float("nan")}},
    {"args": {"a": "\0"}},
    {"args": {1: 2}},
    {"args": {"a": object()}},
    {"priority": 2**40},
    {"queue": ""},
    {"timeout_seconds": -1},
    {"tags": [None]},
]


class BorrowingConformance:
    """Subclasses have a fixture ``kind``."""

    @pytest.fixture
    async def client(
        self, anyio_backend: object, kind: ConnectionKind, dsn: str
    ) -> AsyncIterator[Any]:
        """Yield a client that accepts this kind of connection."""
        async with kind.client(dsn) as client:
            yield client

    async def test_a_commit_leaves_one_also_as_the_first_statement(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        async with kind.transaction(dsn) as conn:
            job_id = await client.enqueue("work", args={"n": 1}, conn=conn)
            assert table.states() == {}
        assert table.get(job_id).args == {"n": 1}
        assert table.states() == {"available": 1}

    async def test_a_rollback_leaves_nothing_also_as_the_first_statement(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        async with undone(kind.transaction(dsn)) as conn:
            await client.enqueue("work", conn=conn)
        assert table.states() == {}

    async def test_the_job_and_the_callers_changes_commit_or_roll_back_together(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        table.script("create table orders (id int)")
        async with undone(kind.transaction(dsn)) as conn:
            await kind.run(conn, "insert into orders values (1)")
            await client.enqueue("work", conn=conn)
        assert table.value("select count(*) from orders") == 0
        assert table.states() == {}
        async with kind.transaction(dsn) as conn:
            await client.enqueue("work", conn=conn)
            await kind.run(conn, "insert into orders values (2)")
        assert table.value("select id from orders") == 2
        assert table.states() == {"available": 1}

    async def test_several_at_once(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        jobs = [JobInsert("work", {"n": n}, unique_key=f"key {n % 4}") for n in range(5)]
        async with undone(kind.transaction(dsn)) as conn:
            assert await client.enqueue_many(jobs, conn=conn) == 5
            assert await client.enqueue_all([JobInsert("work")], conn=conn) != [None]
        assert table.states() == {}
        async with kind.transaction(dsn) as conn:
            ids = await client.enqueue_all(jobs, conn=conn)
            assert await client.enqueue_many([JobInsert("work"), *jobs], conn=conn) == 6
        assert ids[4] is None
        assert [table.get(job_id).args["n"] for job_id in ids[:4]] == [0, 1, 2, 3]
        assert table.states() == {"available": 5}

    async def test_jobs_may_depend_on_jobs_of_the_transaction(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        earlier = table.add("earlier")
        async with undone(kind.transaction(dsn)) as conn:
            await client.enqueue("child", depends_on=[earlier], conn=conn)
        assert table.value("select count(*) from roost.dependencies") == 0
        async with kind.transaction(dsn) as conn:
            parent = await client.enqueue("parent", conn=conn)
            child = await client.enqueue("child", depends_on=[parent, earlier], conn=conn)
            await client.enqueue_many([JobInsert("child", depends_on=[child])], conn=conn)
        assert table.get(child).depends_on == [parent, earlier]
        assert table.value("select count(*) from roost.dependencies") == 3

    async def test_an_unknown_parent_leaves_the_transaction_usable(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        async with kind.transaction(dsn) as conn:
            with pytest.raises(UnknownParentError, match="987654"):
                await client.enqueue("child", depends_on=[987654], conn=conn)
            await client.enqueue("work", conn=conn)
        assert table.states() == {"available": 1}

    async def test_a_duplicate_leaves_the_transaction_usable(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        async with kind.transaction(dsn) as conn:
            first = await client.enqueue("work", unique_key="key", conn=conn)
            with pytest.raises(DuplicateUniqueJobError) as caught:
                await client.enqueue("work", unique_key="key", conn=conn)
            assert caught.value.existing_id == first
            await client.enqueue("work", conn=conn)
        assert table.states() == {"available": 2}

    async def test_options_of_unique_keys_are_part_of_the_transaction(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        first = await client.enqueue("work", args={"n": 1}, unique_key="k", unique_for=60)
        async with undone(kind.transaction(dsn)) as conn:
            same = {"unique_key": "k", "conn": conn}
            assert await client.enqueue("work", on_conflict="return", **same) == first
            assert await client.enqueue("work", on_conflict="replace", **same) == first
            with pytest.raises(DuplicateUniqueJobError):
                await client.enqueue("work", unique_for=60, **same)
            jobs = [JobInsert("work", unique_key=key) for key in ("a", "k")]
            with pytest.raises(DuplicateUniqueJobError):
                await client.enqueue_all(jobs, on_conflict="raise", conn=conn)
            assert (await client.enqueue_all(jobs, on_conflict="return", conn=conn))[1] == first
            await client.enqueue("work", args={"n": 2}, unique_by="args.n", unique_for=9, conn=conn)
        assert table.get(first).args == {"n": 1}
        assert table.states() == {"available": 1}
        assert table.rows("select unique_key from roost.unique_holds") == [("k",)]

    async def test_bad_input_is_refused_before_the_transaction_is_touched(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        async with kind.transaction(dsn) as conn:
            good = await client.enqueue("work", conn=conn)
            for fields in BAD_FIELDS:
                with pytest.raises(InvalidJobError):
                    await client.enqueue("work", **fields, conn=conn)
                jobs = [JobInsert("work"), JobInsert("work", **fields)]
                with pytest.raises(InvalidJobError, match="job 1 of the batch"):
                    await client.enqueue_many(jobs, conn=conn)
        assert [row[0] for row in table.rows("select id from roost.jobs")] == [good]

    async def test_percent_signs_and_placeholders_in_values_stay_what_they_are(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        args = {"100%": "%s %(x)s $1 :a ? -- no comment", "é": '"\\'}
        async with kind.transaction(dsn) as conn:
            job_id = await client.enqueue("work", args=args, tags=["50% {,}"], conn=conn)
        assert table.get(job_id).args == args
        assert table.get(job_id).tags == ["50% {,}"]

    async def test_rich_values_are_stored_as_without_conn(
        self, client: Any, kind: ConnectionKind, dsn: str, table: JobTable
    ) -> None:
        args = {"at": datetime(2026, 1, 2, tzinfo=UTC), "id": UUID(int=7), "sum": Decimal("1.10")}
        without = await client.enqueue("work", args=args)
        async with kind.transaction(dsn) as conn:
            within = await client.enqueue("work", args=args, conn=conn)
        assert table.column(within, "args::text") == table.column(without, "args::text")
