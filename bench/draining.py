"""Run one worker in a process of its own, and return its figures: `drain` runs it and waits.

The process imports nothing of the caller, so that its CPU time and its pictures are the worker's.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs

import roost
from roost import HandlerRegistry, Worker
from roost._drivers.psycopg_anyio.adapter import PsycopgConnection
from roost._model.job import TaskDefaults
from roost._ops.query import Query, Row

ROOT = Path(__file__).resolve().parents[1]
TASK = "bench.noop"
"""The task of the jobs that are drained."""
LIMITED = "bench.limited"
"""A task that the worker knows too, with the limits that `Drain` names."""
LONGEST = 900.0
"""Seconds after which a worker that found too few jobs gives up."""


@attrs.frozen(kw_only=True)
class Drain:
    """The settings of one worker process.

    :param jobs: stop after this number of jobs; ``None``: only after ``seconds``.
    :param seconds: stop after this time.
    :param bucket: seconds between two readings of how many jobs have ended; 0: none.
    :param nap: how long each job sleeps, in seconds; 0: it returns at once.
    :param max_concurrency: of the task `LIMITED`.
    :param rate_per_minute: of the task `LIMITED`.
    :param count_statements: whether to count what is sent to the database; a little slower.
    :param options: of the `Worker`, other than its queues and concurrency.
    """

    dsn: str
    jobs: int | None
    seconds: float = LONGEST
    concurrency: int = 32
    queues: Sequence[str] = ("default",)
    bucket: float = 0.0
    nap: float = 0.0
    max_concurrency: int | None = None
    rate_per_minute: int | None = None
    count_statements: bool = False
    options: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Drained:
    """The figures of a worker process; times in seconds, from when it was ready.

    :param jobs: calls of the handler.
    :param first: when the first one was called.
    :param ended: when the last one returned.
    :param cpu: the CPU time of its process meanwhile, the stop included.
    :param buckets: (time, jobs ended until then), one every `Drain.bucket`.
    :param statements: how often each was sent, with its BEGIN and COMMIT if it had any.
    :param waited: how long their answers took, in all.
    """

    jobs: int
    first: float
    ended: float
    cpu: float
    buckets: list[tuple[float, int]] = attrs.field(factory=list)
    statements: dict[str, int] = attrs.field(factory=dict)
    waited: dict[str, float] = attrs.field(factory=dict)

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.ended if self.ended else 0.0


def drain(what: Drain) -> Drained:
    """Run a worker in a new process until it has ended."""
    with working(what) as process:
        out, _ = process.communicate(timeout=what.seconds + 60)
    return drained(out, process.returncode)


@contextmanager
def working(what: Drain) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker in a new process; yield when it is ready, kill it at the end if it still runs.

    Give what it prints until its end to `drained`. Its output is not buffered: a short drain may
    be over when "ready" is read, and `communicate` knows nothing of a buffer.
    """
    with subprocess.Popen(
        command(what), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("the worker did not start")
            yield process
        finally:
            process.kill()


def drained(out: bytes, returncode: int) -> Drained:
    """Read what a worker printed at its end."""
    if returncode != 0:
        raise RuntimeError(f"the worker ended with {returncode}")
    return Drained(**json.loads(out))


def command(what: Drain) -> list[str]:
    """Return the command of a worker's process."""
    return [sys.executable, "-m", "bench.draining", json.dumps(attrs.asdict(what))]


def environment() -> dict[str, str]:
    """Return the environment of a process that imports the same code as this one."""
    paths = [str(Path(roost.__file__).parents[1]), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


# In the worker's process.


@attrs.define
class _Tally:
    """Counts the calls of the handler, and stops the worker after the last one."""

    what: Drain
    worker: Worker | None = None
    jobs: int = 0
    first: float = 0.0
    ended: float = 0.0
    buckets: list[tuple[float, int]] = attrs.field(factory=list)

    async def handler(self) -> None:
        if self.what.nap:
            await anyio.sleep(self.what.nap)
        self.jobs += 1
        if self.jobs == 1:
            self.first = time.perf_counter()
        if self.jobs == self.what.jobs:
            self.stop()

    def stop(self) -> None:
        self.ended = time.perf_counter()
        assert self.worker is not None
        self.worker.request_stop()

    async def watch(self, began: float) -> None:
        """Read the count now and then; stop the worker when its time is over."""
        with anyio.move_on_after(self.what.seconds):
            if not self.what.bucket:
                await anyio.sleep_forever()
            while True:
                await anyio.sleep(self.what.bucket)
                self.buckets.append((time.perf_counter() - began, self.jobs))
        self.stop()


async def _work(what: Drain) -> Drained:
    tally, registry = _Tally(what), HandlerRegistry()
    registry.register(TASK, tally.handler)
    limits = TaskDefaults(
        max_concurrency=what.max_concurrency, rate_per_minute=what.rate_per_minute
    )
    if limits != TaskDefaults():
        registry.register(LIMITED, _limited, defaults=limits)
    tally.worker = Worker(
        what.dsn,
        registry=registry,
        driver="psycopg",
        queues=what.queues,
        concurrency=what.concurrency,
        **what.options,
    )
    sent = _Sent()
    if what.count_statements:
        sent.listen()
    async with anyio.create_task_group() as watching:
        async with anyio.create_task_group() as group:
            await group.start(tally.worker.run)
            began, cpu = time.perf_counter(), _cpu()
            sent.clear()
            print("ready", flush=True)
            watching.start_soon(tally.watch, began)
        watching.cancel_scope.cancel()
    return Drained(
        jobs=tally.jobs,
        first=max(0.0, tally.first - began) if tally.jobs else 0.0,
        ended=tally.ended - began,
        cpu=_cpu() - cpu,
        buckets=tally.buckets,
        statements=dict(sent.times),
        waited=dict(sent.waited),
    )


async def _limited() -> None:
    """Do nothing; its limits are what matters."""


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@attrs.define
class _Sent:
    """Counts statements, by standing in for the driver's method that sends them."""

    times: Counter[str] = attrs.field(factory=Counter)
    waited: dict[str, float] = attrs.field(factory=lambda: defaultdict(float))

    def clear(self) -> None:
        self.times.clear()
        self.waited.clear()

    def listen(self) -> None:
        fetch = PsycopgConnection.fetch
        transaction = PsycopgConnection.transaction

        async def counted(connection: PsycopgConnection, query: Query) -> Sequence[Row]:
            began = time.perf_counter()
            try:
                return await fetch(connection, query)
            finally:
                self.times[query.statement.name] += 1
                self.waited[query.statement.name] += time.perf_counter() - began

        def begun(connection: PsycopgConnection) -> Any:
            self.times["begin, commit"] += 2
            return transaction(connection)

        patched: Any = PsycopgConnection
        patched.fetch, patched.transaction = counted, begun


def main() -> None:
    """Work as the first argument says, and print what was done."""
    given = Drain(**json.loads(sys.argv[1]))
    print(json.dumps(attrs.asdict(anyio.run(_work, given))), flush=True)


if __name__ == "__main__":
    main()
