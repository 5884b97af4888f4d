"""Large arguments and results fail only their own job and delay no other."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Worker, job

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]


async def test_oversized_rows_that_were_inserted_by_hand_fail_alone(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("take", registry=registry)
    async def take(x: str) -> int:
        return len(x)

    table.rows(
        "insert into roost.jobs (task, args, max_attempts)"
        " select 'take', jsonb_build_object('x', repeat('x', 40000000)), 1"
        " from generate_series(1, 3)"
    )
    [*large] = [row[0] for row in table.rows("select id from roost.jobs")]
    fits = table.add("take", args={"x": "y" * 100_000})
    async with working(make_worker()):
        await eventually(lambda: table.get(fits).state == "completed")
        await eventually(lambda: table.states() == {"completed": 1, "discarded": 3})
    assert table.get(fits).result == 100_000
    for job_id in large:
        [error] = table.rows(
            "select errors -> 0 ->> 'error' from roost.jobs where id = $1::bigint", job_id
        )[0]
        assert error == (
            "InvalidJobError: args of 40,000,017 bytes are more than a worker takes (33,554,432)"
        )


async def test_a_result_above_the_workers_limit_is_a_note(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("give", registry=registry)
    async def give(size: int) -> str:
        return "x" * size

    small, large = (table.add("give", args={"size": size}) for size in (900_000, 1_100_000))
    async with working(make_worker(max_result_bytes=1_000_000)):
        await eventually(lambda: table.states() == {"completed": 2})
    assert table.get(small).result == "x" * 900_000
    result = table.get(large).result
    assert isinstance(result, dict)
    note = result["roost.unserializable"]
    assert note.startswith("str: its JSON text")


async def test_a_result_that_the_server_stores_too_slowly_is_replaced_and_delays_no_job(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker
) -> None:
    @job("give", registry=registry)
    async def give(size: int) -> str:
        return "x" * size

    # As with a result whose write takes longer than the role's statement_timeout.
    table.script(
        """
        create function stall() returns trigger language plpgsql as $$
        begin
            if pg_column_size(new.result) > 1000000 then
                raise query_canceled using message = 'canceling statement due to statement timeout';
            end if;
            return new;
        end
        $$;
        create trigger stall before update on roost.jobs
            for each row when (new.state = 'completed') execute function stall()
        """
    )
    large = table.add("give", args={"size": 2_000_000})
    async with working(make_worker()):
        await eventually(lambda: table.column(large, "attempt") == 1)
        with anyio.fail_after(30):
            for n in range(1, 6):
                table.add("give", args={"size": 10})
                await eventually(lambda n=n: table.states().get("completed", 0) >= n)  # type: ignore[misc]
            await eventually(lambda: table.get(large).state == "completed")
    result = table.get(large).result
    assert isinstance(result, dict)
    assert "statement timeout" in result["roost.unserializable"]
