"""Run the demo: enqueue jobs, kill the worker that runs them, let another one finish.

Both workers are processes of their own, started with ``roost run``. This process only enqueues,
waits, and reads the result.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import attrs

import roost
from roost import AsyncRoost, JobInsert
from roost.cli.options import Backend
from roost.exceptions import RoostError

SETTINGS = {
    "concurrency": 8,
    "prefetch": 0,
    "poll-interval": 0.5,
    "heartbeat-interval": 0.5,
    "orphan-stale-after": 3,
    "orphan-reaper-interval": 0.5,
}
"""A worker is considered dead after 3 s without a heartbeat. The default is 300 s."""
WORKER_TIMEOUT = 120.0
"""Seconds for the part of one worker. The whole demo took 25 s on two busy cores."""
POLL = 0.02
"""Seconds between two reads of the jobs."""

JOBS = "select id, task, args, state, attempt, errors, result from roost.jobs where queue = %s"
EXECUTING = "select count(*) from roost.jobs where queue = %s and state = 'executing'"


class DemoError(RoostError):
    """The demo can't go on; the message says why."""

    code = "roost.demo"


@attrs.frozen
class Row:
    """One row of ``roost.jobs``."""

    id: int
    task: str
    args: dict[str, Any]
    state: str
    attempt: int
    errors: list[dict[str, Any]] | None
    result: Any


@attrs.frozen(kw_only=True)
class Outcome:
    """What the database holds after the run.

    :param enqueued: the ids of the ``count`` jobs; ``total`` is the job that depends on them.
    :param rolled_back: the id of a job whose transaction was rolled back.
    :param rows: the jobs in the table.
    :param stored: a job id and its number of lines, for each time that a job stored its count.
    """

    enqueued: Sequence[int]
    total: int
    rolled_back: int
    rows: Sequence[Row]
    stored: Sequence[tuple[int, int]]


async def play(dsn: str, queue: str, backend: Backend, say: Callable[[str], None]) -> Outcome:
    """Run the demo and return its outcome. A cancel kills the workers.

    :param queue: the name of the queue, and of a table that this creates.
    :param say: called with each line to print.
    :raises DemoError: a worker ended by itself, or did not do its part within `WORKER_TIMEOUT`.
    """
    command = [sys.executable, "-P", "-m", "roost", "run", "-m", "roost.cli.demo.tasks:registry"]
    command += ["-q", queue, "--backend", backend.value, "--log-level", "error"]
    command += [f"--{name}={value}" for name, value in SETTINGS.items()]
    env = {**os.environ, "ROOST_DSN": dsn}
    async with AsyncRoost(dsn) as client:
        await client.setup_schema()
        async with client.transaction() as conn:
            await conn.execute(f'create table "{queue}" (job_id bigint, lines int)')
        rolled_back = await _enqueue_and_roll_back(client, queue)
        async with client.transaction() as conn:
            jobs = [JobInsert("count", {"path": path}, queue=queue) for path in modules()]
            ids = [job_id for job_id in await client.enqueue_all(jobs, conn=conn) if job_id]
            total = await client.enqueue("total", queue=queue, depends_on=ids, conn=conn)
        say(f"Enqueued {len(ids)} jobs that count lines, and one that adds up their results.")
        say("Enqueued one more in a transaction that was rolled back.")

        async def executing() -> int:
            async with client.transaction() as conn:
                [[jobs]] = await (await conn.execute(EXECUTING, (queue,))).fetchall()
            return int(jobs)

        async def ended() -> bool:
            return (await client.get(total)).state in ("completed", "discarded", "cancelled")

        await _run_worker(command, env, until=executing, then=signal.SIGKILL)
        say(f"Killed worker 1 (SIGKILL). It was running {await executing()} jobs.")
        await _run_worker(command, env, until=ended, then=signal.SIGTERM)
        say("Worker 2 rescued these jobs after 3 s, and ran all jobs to the end.")
        async with client.transaction() as conn:
            rows = await (await conn.execute(JOBS, (queue,))).fetchall()
            stored = await (await conn.execute(f'select job_id, lines from "{queue}"')).fetchall()  # noqa: S608
    return Outcome(
        enqueued=ids,
        total=total,
        rolled_back=rolled_back,
        rows=[Row(*row) for row in rows],
        stored=stored,
    )


def modules() -> list[str]:
    """Return the paths of Roost's own modules, for the jobs to count."""
    return sorted(map(str, Path(roost.__file__).parent.rglob("*.py")))


async def _enqueue_and_roll_back(client: AsyncRoost, queue: str) -> int:
    job_id = 0
    with suppress(DemoError):
        async with client.transaction() as conn:
            job_id = await client.enqueue("count", args={"path": __file__}, queue=queue, conn=conn)
            raise DemoError("rolled back on purpose")
    return job_id


async def _run_worker(
    command: list[str],
    env: dict[str, str],
    *,
    until: Callable[[], Awaitable[object]],
    then: signal.Signals,
) -> None:
    """Run a worker until a condition holds, end it with a signal, and wait for its end."""
    async with await anyio.open_process(command, env=env, stdout=None, stderr=None) as worker:
        try:
            with anyio.fail_after(WORKER_TIMEOUT):
                while not await until():
                    if worker.returncode is not None:
                        raise DemoError(f"a worker ended by itself, with code {worker.returncode}")
                    await anyio.sleep(POLL)
        except TimeoutError:
            raise DemoError(f"a worker has not done its part within {WORKER_TIMEOUT:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                worker.send_signal(then)
