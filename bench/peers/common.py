"""Shared code of all contestants' scripts. Only the standard library: it runs in any environment.

A script is run as ``python <peer>_queue.py VERB OPTIONS``, options being a JSON object, with the
root of the checkout in PYTHONPATH, and prints JSON lines. Its contestant says how to do each thing
once; the loops and the clocks here are the same for all. Times are of `time.monotonic_ns`, which
all processes of a Linux machine share.

Verbs: ``setup`` makes the schema, ``fill`` puts ready jobs in, ``work`` runs a worker until stdin
ends, ``enqueue`` times single enqueues, ``bulk`` times batches, ``produce`` enqueues jobs that
carry the time, and ``stream`` keeps enqueueing batches until stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

QUEUE = "bench"
BATCH = 1_000
LATER = 45
"""Seconds until the jobs are due. A listening worker is woken by them, and stays idle."""


def say(**event: object) -> None:
    """Print an event for the process that measures."""
    print(json.dumps(event), flush=True)


class Tally:
    """The bodies of the handlers: every contestant's handlers call these."""

    def __init__(self, jobs: int, stamps: int, burn: int = 0) -> None:
        self.jobs, self.stamps, self.burn = jobs, stamps, burn
        self.count = 0
        self.delays: list[float] = []

    def noop(self) -> None:
        """Count a job. Print when the first one began, and from time to time how many have run.

        It computes for ``burn`` microseconds of CPU time.
        """
        if not self.count:
            say(first=time.monotonic_ns())
        if self.burn:
            until = time.thread_time_ns() + 1_000 * self.burn
            while time.thread_time_ns() < until:
                pass
        self.count += 1
        if self.count % BATCH == 0 or self.count == self.jobs:
            say(count=self.count)

    def stamp(self, sent: int) -> None:
        """Record how long ago the job was sent, in milliseconds."""
        self.delays.append((time.monotonic_ns() - sent) / 1e6)
        if len(self.delays) == self.stamps:
            say(delays=self.delays)


class Contestant:
    """A job queue. A script implements the methods that raise NotImplementedError."""

    def __init__(self, dsn: str, loop: str, driver: str) -> None:
        self.dsn, self.loop, self.driver = dsn, loop, driver

    async def setup(self) -> None:
        """Make the schema."""
        raise NotImplementedError

    @asynccontextmanager
    async def client(self) -> AsyncIterator[None]:
        """Open what `enqueue` and `bulk` need."""
        raise NotImplementedError
        yield

    async def enqueue(self, task: str, args: dict[str, int]) -> None:
        """Enqueue one job, in a transaction of its own."""
        raise NotImplementedError

    async def bulk(self, numbers: Sequence[int], *, keys: bool, later: bool) -> None:
        """Enqueue a noop job for each number, with unique keys if it has them, due now or later."""
        raise NotImplementedError

    async def work(self, tally: Tally, concurrency: int | None) -> None:
        """Run a worker until `wait_for_stop` returns, then stop it gracefully.

        It has the tasks ``noop``, ``stamp``, with args i and t, and ``nap``, which sleeps for ms.
        """
        raise NotImplementedError

    async def wait_for_stop(self) -> None:
        """Wait until stdin ends."""
        await asyncio.to_thread(sys.stdin.read)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the loop that is running."""
        await asyncio.sleep(seconds)

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `main` on the loop that was asked for."""
        factory = None
        if self.loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())


def main(kind: type[Contestant]) -> None:
    """Run the verb on the command line."""
    verb, options = sys.argv[1], json.loads(sys.argv[2])
    contestant = kind(options.pop("dsn"), options.pop("loop"), options.pop("driver"))

    async def done() -> None:
        await VERBS[verb](contestant, **options)

    contestant.run(done)


async def _setup(contestant: Contestant) -> None:
    await contestant.setup()


async def _fill(contestant: Contestant, jobs: int) -> None:
    async with contestant.client():
        for batch in _batches(jobs):
            await contestant.bulk(batch, keys=False, later=False)


async def _work(
    contestant: Contestant,
    *,
    concurrency: int | None = None,
    jobs: int = 0,
    stamps: int = 0,
    burn: int = 0,
) -> None:
    await contestant.work(Tally(jobs, stamps, burn), concurrency)


async def _enqueue(contestant: Contestant, jobs: int) -> None:
    times = []
    async with contestant.client():
        for number in range(-100, jobs):
            started = time.monotonic_ns()
            await contestant.enqueue("noop", {"i": number})
            if number >= 0:
                times.append((time.monotonic_ns() - started) / 1e6)
    say(times=times)


async def _bulk(contestant: Contestant, *, rows: int, later: bool = False) -> None:
    async with contestant.client():
        await contestant.bulk(range(-BATCH, 0), keys=True, later=later)
        started = time.monotonic_ns()
        for batch in _batches(rows):
            await contestant.bulk(batch, keys=True, later=later)
        say(seconds=(time.monotonic_ns() - started) / 1e9)


async def _produce(contestant: Contestant, *, jobs: int, every: float) -> None:
    """Enqueue jobs that carry the time, about `every` seconds one."""
    async with contestant.client():
        for number in range(jobs):
            await contestant.sleep(every * random.uniform(0.5, 1.5))
            await contestant.enqueue("stamp", {"i": number, "t": time.monotonic_ns()})


async def _stream(
    contestant: Contestant, *, rate: float, naps: int = 0, seconds: float = 0
) -> None:
    """Enqueue some naps of `seconds`, and noop jobs at a rate, a batch each 10 ms."""
    async with contestant.client():
        for _ in range(naps):
            await contestant.enqueue("nap", {"ms": int(seconds * 1_000)})
        started, sent = time.monotonic(), 0
        while rate and time.monotonic() - started < seconds:
            due = int((time.monotonic() - started) * rate) - sent
            if due > 0:
                await contestant.bulk(range(sent, sent + due), keys=False, later=False)
                sent += due
            await contestant.sleep(0.01)


def _batches(rows: int) -> list[range]:
    return [range(at, min(at + BATCH, rows)) for at in range(0, rows, BATCH)]


VERBS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "setup": _setup,
    "fill": _fill,
    "work": _work,
    "enqueue": _enqueue,
    "bulk": _bulk,
    "produce": _produce,
    "stream": _stream,
}
