"""One trial of each scenario, in a fresh database. A trial returns its figures by name."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg
from bench.lab import median, percentile
from bench.meter import server_cpu
from bench.peers.children import REPLY_TIMEOUT, Child, ContestantError, ask, run, started
from bench.peers.common import BATCH
from bench.peers.contestants import Contestant

Figures = Mapping[str, float]

WARM_UP = 50
"""Pickups that are not counted."""
EVERY = 0.02
"""Seconds between two enqueues of a pickup trial, on average."""
SETTLE = 1.5
"""Seconds until a worker that has started, or has got its load, is in a steady state."""


def drain(
    who: Contestant, dsn: str, *, jobs: int, concurrency: int, processes: int = 1, burn: int = 0
) -> Figures:
    """Return the rate from the first handler's start until the last job is finished, committed.

    The rule is the same for all. When the last handler has ended, the worker is asked to stop, so
    that it doesn't wait for more verdicts before it writes. Then the table is read each millisecond
    until no job is left. With several processes, only jobs count that finish after the last process
    has begun; the processes run on, and the reading begins a little before the end.

    The CPU microseconds per job are those of the workers' processes and, if it runs here, of the
    server's, from the first handler's start until the last one's end. Other load on the machine
    changes them much less than the rate.

    :param burn: microseconds for which each job computes.
    """
    done = 0
    with psycopg.connect(dsn, autocommit=True) as conn, ExitStack() as stack:
        run(who, "setup", dsn)
        run(who, "fill", dsn, jobs=jobs)
        conn.execute("vacuum analyze")
        conn.execute("checkpoint")
        last = jobs if processes == 1 else 0
        workers = [
            stack.enter_context(
                started(who, "work", dsn, concurrency=concurrency, jobs=last, burn=burn)
            )
            for _ in range(processes)
        ]
        if processes == 1:
            first = workers[0].wait_for("first")
            before = _cpu(conn, workers)
            while workers[0].wait_for("count") < jobs:
                pass
            used = _cpu(conn, workers)
            workers[0].request_stop()
        else:
            for worker in workers:
                worker.wait_for("first")
            done, first = _one(conn, who.peer.finished, jobs), time.monotonic_ns()
            before = _cpu(conn, workers)
            _when(conn, who.peer.finished, jobs, most_left=2 * BATCH, pause=0.05)
            used = _cpu(conn, workers)
        ended = _when(conn, who.peer.finished, jobs, pause=0.001)
    counted = jobs - done
    return {
        "jobs/s": counted / (ended - first) * 1e9,
        **{name: (used[name] - start) / counted * 1e6 for name, start in before.items()},
    }


def enqueue(who: Contestant, dsn: str, *, jobs: int) -> Figures:
    """Return how long a single enqueue takes, one after the other."""
    run(who, "setup", dsn)
    times = ask(who, "enqueue", dsn, "times", jobs=jobs)
    return {"p50 ms": median(times), "p99 ms": percentile(times, 99)}


def bulk(who: Contestant, dsn: str, *, rows: int, idle_worker: bool = False) -> Figures:
    """Return the rate of enqueueing batches; with a worker the jobs are due when all is over."""
    run(who, "setup", dsn)
    with ExitStack() as stack:
        if idle_worker:
            stack.enter_context(started(who, "work", dsn))
            time.sleep(SETTLE)
        seconds = ask(who, "bulk", dsn, "seconds", rows=rows, later=idle_worker)
    return {"rows/s": rows / seconds}


def pickup(
    who: Contestant,
    dsn: str,
    *,
    jobs: int,
    concurrency: int | None = None,
    naps: int = 0,
    rate: float = 0.0,
) -> Figures:
    """Return the time from before the enqueue until the handler starts.

    :param concurrency: of the worker; None: its default.
    :param naps: how many of the worker's slots are taken by jobs that sleep all the time.
    :param rate: noop jobs per second that another process enqueues meanwhile.
    """
    run(who, "setup", dsn)
    total = jobs + WARM_UP
    with ExitStack() as stack:
        worker = stack.enter_context(
            started(who, "work", dsn, concurrency=concurrency, jobs=1, stamps=total)
        )
        run(who, "fill", dsn, jobs=1)
        worker.wait_for("first")
        if naps or rate:
            load = {"rate": rate, "naps": naps, "seconds": REPLY_TIMEOUT}
            stream = stack.enter_context(started(who, "stream", dsn, **load))
            time.sleep(SETTLE)
        run(who, "produce", dsn, jobs=total, every=EVERY)
        delays = worker.wait_for("delays")[WARM_UP:]
        if naps or rate:
            stream.kill()
            worker.kill()
    return {"p50 ms": median(delays), "p99 ms": percentile(delays, 99)}


def _cpu(conn: psycopg.Connection, workers: Sequence[Child]) -> dict[str, float]:
    """Return the CPU seconds so far, of all threads of the workers and of the server."""
    worker = 0.0
    for one in workers:
        threads = Path(f"/proc/{one.process.pid}/task").glob("*/schedstat")
        worker += sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
    server = server_cpu(conn)
    return {"worker us": worker, **({} if server is None else {"server us": server})}


def _when(
    conn: psycopg.Connection, counting: str, jobs: int, *, most_left: int = 0, pause: float
) -> int:
    """Count finished jobs until at most ``most_left`` of ``jobs`` are left, and return the time."""
    until = time.monotonic() + REPLY_TIMEOUT
    finished = 0
    while time.monotonic() < until:
        asked = time.monotonic()
        finished = _one(conn, counting, jobs)
        if finished >= jobs - most_left:
            return time.monotonic_ns()
        # A slow count runs less often: counting uses at most half of a core.
        time.sleep(max(pause, time.monotonic() - asked))
    raise ContestantError(f"{finished} of {jobs} jobs are finished")


def _one(conn: psycopg.Connection, counting: str, jobs: int) -> int:
    row = conn.execute(counting.encode(), {"jobs": jobs}).fetchone()
    assert row is not None
    return int(row[0])
