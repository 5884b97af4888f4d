"""`roost.enqueue` in SQL stores the same rows as the clients, and has the same refusals."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import AsyncRoost, HandlerRegistry, Roost, current_job, job
from roost.exceptions import DatabaseError


def test_its_defaults_are_those_of_the_clients(dsn: str, table: JobTable) -> None:
    with Roost(dsn) as client:
        theirs = table.get(client.enqueue("work"))
    ours = table.get(table.value("select roost.enqueue('work')"))
    assert ours.model_dump(exclude={"id", "inserted_at", "scheduled_at"}) == theirs.model_dump(
        exclude={"id", "inserted_at", "scheduled_at"}
    )
    assert abs((ours.scheduled_at - ours.inserted_at).total_seconds()) < 1


def test_every_parameter_is_stored(dsn: str, table: JobTable) -> None:
    fields: dict[str, Any] = {
        "task": "work",
        "args": {"a": [1, None, "é"]},
        "queue": "mail",
        "priority": -5,
        "max_attempts": 3,
        "unique_key": "order 7",
        "tags": ["x", "y"],
        "timeout_seconds": 60,
        "metadata": {"trace": "abc"},
    }
    named = ", ".join(f"{name} => %({name})s" for name in fields)
    values = {**fields, "args": Jsonb(fields["args"]), "metadata": Jsonb(fields["metadata"])}
    with psycopg.connect(dsn) as conn:
        row = conn.execute(f"select roost.enqueue({named})".encode(), values).fetchone()
    assert row is not None
    stored = table.get(row[0])
    assert stored.model_dump(include=set(fields)) == fields


def test_it_is_part_of_the_transaction_that_calls_it(dsn: str, table: JobTable) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("select roost.enqueue('work')")
        conn.rollback()
        assert table.states() == {}
        conn.execute("select roost.enqueue('work')")
        assert table.states() == {}
    assert table.states() == {"available": 1}


def test_a_duplicate_is_null_and_leaves_the_transaction_usable(dsn: str, table: JobTable) -> None:
    query = "select roost.enqueue('work', unique_key => 'key')"
    with psycopg.connect(dsn) as conn:
        first, second = (conn.execute(query.encode()).fetchone() for _ in range(2))
        assert first is not None
        assert second == (None,)
        conn.execute("select roost.enqueue('work')")
    table.change(first[0], "state = 'completed', completed_at = now()")
    assert table.value(query) > first[0]


REFUSED = [
    "null",
    "''",
    f"'{'x' * 201}'",
    "'work', args => '[1]'",
    "'work', args => null",
    "'work', queue => ''",
    f"'work', queue => '{'x' * 201}'",
    "'work', max_attempts => 0",
    "'work', timeout_seconds => 0",
    "'work', scheduled_at => 'infinity'",
    "'work', scheduled_at => '0001-01-01Z'",
    "'work', unique_key => ''",
    f"'work', unique_key => '{'x' * 501}'",
    "'work', tags => array['a', null]",
    "'work', tags => array['']",
    f"'work', tags => array['{'x' * 201}']",
    "'work', metadata => '5'",
    "'work', args => jsonb_build_object('n', repeat('x', 16 << 20))",
    "'work', metadata => jsonb_build_object('n', repeat('x', 16 << 20))",
]


def test_values_that_the_clients_refuse_are_refused(table: JobTable) -> None:
    for arguments in REFUSED:
        with pytest.raises(DatabaseError) as caught:
            table.rows(f"select roost.enqueue({arguments})")
        assert str(caught.value.sqlstate).startswith("23"), arguments
    assert table.states() == {}


def test_a_trigger_enqueues(table: JobTable) -> None:
    table.script(
        """
        create table orders (id int primary key);
        create function on_order() returns trigger language plpgsql as $$
        begin
            perform roost.enqueue('ship', jsonb_build_object('order', new.id), queue => 'post');
            return new;
        end $$;
        create trigger on_order after insert on orders for each row execute function on_order();
        insert into orders values (1), (2);
        """
    )
    rows = table.rows("select task, queue, args::text from roost.jobs order by id")
    assert rows == [("ship", "post", '{"order": 1}'), ("ship", "post", '{"order": 2}')]


@pytest.mark.anyio
async def test_it_wakes_an_idle_worker(
    dsn: str, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", registry=registry)
    async def work(n: int) -> int:
        return n + current_job().priority

    client = AsyncRoost(dsn, registry=registry)
    async with client, working(client.worker(poll_interval=60.0)):
        query = """select roost.enqueue('work', '{"n": 1}', priority => 2)"""
        outcome = await client.wait_for(table.value(query), timeout=20, poll_interval=60)
    assert outcome.result == 3


@pytest.mark.anyio
async def test_a_limited_task_is_marked_as_such(
    dsn: str, table: JobTable, registry: HandlerRegistry
) -> None:
    @job("work", max_concurrency=1, registry=registry)
    async def work() -> None: ...

    async with AsyncRoost(dsn, registry=registry) as client:
        await client.worker().run_once()  # publishes the limit
        job_id = table.value("select roost.enqueue('work')")
        assert table.column(job_id, "limited")
        assert await client.worker().run_once() == 1
