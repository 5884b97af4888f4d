"""Two parts of the scale table: inserts while a worker runs, and a long drain."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any, TypeAlias

import attrs
import psycopg
from bench.draining import Drain, Drained, drained, working
from bench.lab import Table, median
from bench.meter import server_cpu
from bench.producing import Produce, Produced, go, produced, producers, rate
from bench.situations import EMPTY, Situation, Start, check, clone, prepared

PRODUCERS = 8
SETTLING = 0.3
"""Seconds after which an idle worker waits for notifications."""

Measure: TypeAlias = Callable[..., tuple[Table, Any]]


def producing(server_dsn: str, *, rounds: int, quick: bool) -> tuple[Table, Any]:
    """Insert single rows from eight processes, with and without a worker.

    Jobs that are due in an hour cause no notification, so their rate shows the cost of one.
    """
    waiting, seconds = (1_000, 0.3) if quick else (100_000, 3.0)
    full = Situation(name="waiting", title="")
    cases: list[tuple[str, str, Callable[[str], Meanwhile]]] = [
        (
            "none announced",
            "due in an hour, no worker",
            lambda dsn: without_worker(dsn, seconds, 3600.0),
        ),
        ("no worker", "due now, no worker", lambda dsn: without_worker(dsn, seconds, 0.0)),
        (
            "elsewhere",
            "idle worker on another queue",
            lambda dsn: with_worker(dsn, seconds, "other"),
        ),
        ("idle", "worker on an empty queue", lambda dsn: with_worker(dsn, seconds, "default")),
    ]
    trials: dict[str, list[Meanwhile]] = {name: [] for name, _, _ in cases}
    busy = f"worker with {waiting:,} waiting"
    trials[busy] = []
    with (
        prepared(server_dsn, EMPTY, jobs=0) as empty,
        prepared(server_dsn, full, jobs=waiting) as filled,
    ):
        for turn in range(rounds):
            for name, _, case in cases if turn % 2 == 0 else reversed(cases):
                with clone(server_dsn, empty) as dsn:
                    trials[name].append(case(dsn))
            with clone(server_dsn, filled) as dsn:
                trials[busy].append(with_worker(dsn, seconds, "default", idle=False))
    base = median([one.inserted for one in trials["none announced"]])
    rows = [
        [
            title,
            f"{median([one.inserted for one in trials[name]]):,.0f}",
            f"{median([one.inserted for one in trials[name]]) / base:.2f}",
            f"{median([one.drained for one in trials[name]]):,.0f}",
        ]
        for name, title in [*((name, title) for name, title, _ in cases), (busy, busy)]
    ]
    return (
        Table(
            title=f"{PRODUCERS} processes insert single rows, medians of {rounds} rounds",
            columns=["jobs and worker", "inserts/s", "of the first", "drained/s meanwhile"],
            rows=rows,
            note="Jobs that are due in more than a minute cause no notification.",
        ),
        {name: [attrs.asdict(one) for one in some] for name, some in trials.items()},
    )


@attrs.frozen
class Meanwhile:
    """Rows inserted and jobs drained per second, at the same time."""

    inserted: float
    drained: float
    producers: list[Produced]
    worker: Drained | None = None


def without_worker(dsn: str, seconds: float, later: float) -> Meanwhile:
    """Insert without a worker."""
    with producers(Produce(dsn=dsn, seconds=seconds, later=later), PRODUCERS) as processes:
        go(processes)
        done = produced(processes)
    return Meanwhile(rate(done), 0.0, done)


def with_worker(dsn: str, seconds: float, queue: str, *, idle: bool = True) -> Meanwhile:
    """Insert while a worker serves `queue`.

    :param idle: whether the worker gets time before, to find the queue empty.
    """
    # A worker that has jobs begins with them at once; the producers end at about the same time.
    lasts = seconds + SETTLING * 2 if idle else seconds
    what = Drain(dsn=dsn, jobs=None, seconds=lasts, queues=[queue])
    with (
        psycopg.connect(dsn, autocommit=True) as conn,
        producers(Produce(dsn=dsn, seconds=seconds), PRODUCERS) as processes,
    ):
        start = Start.of(conn)
        with working(what) as worker:
            if idle:
                conn.execute("select pg_sleep(%s)", (SETTLING,))
            go(processes)
            done = produced(processes)
            out, _ = worker.communicate()
        end = drained(out, worker.returncode)
        inserted = sum(one.rows for one in done)
        start = attrs.evolve(start, rows=start.rows + inserted, waiting=start.waiting + inserted)
        check(conn, start, drained=end.jobs)
    return Meanwhile(rate(done), end.jobs / (seconds if idle else end.ended), done, end)


def long(server_dsn: str, *, rounds: int, quick: bool) -> tuple[Table, Any]:
    """Drain many jobs and read the rate and the CPU time of the server every few seconds.

    The CPU time shows whether the drain slows down or the machine is busy with something else.
    """
    jobs, bucket = (5_000, 0.1) if quick else (300_000, 5.0)
    line = Situation(name="long", title="")
    del rounds  # one is long enough
    used: list[float] = []
    with (
        prepared(server_dsn, line, jobs=jobs) as template,
        clone(server_dsn, template) as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        start = Start.of(conn)
        with working(Drain(dsn=dsn, jobs=jobs, bucket=bucket)) as worker:
            while worker.poll() is None:
                used.append(server_cpu(conn) or 0.0)
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(bucket)
            used.append(server_cpu(conn) or 0.0)
            out, _ = worker.communicate()
        done = drained(out, worker.returncode)
        check(conn, start, drained=jobs)
    ends = [*done.buckets, (done.ended, done.jobs)]
    rows = []
    for before, after, cpu in zip([(0.0, 0), *ends], ends, pairwise(used), strict=False):
        count = after[1] - before[1] or 1
        rows.append(
            [
                f"{before[0]:.1f} - {after[0]:.1f}",
                f"{count / (after[0] - before[0]):,.0f}",
                f"{(cpu[1] - cpu[0]) / count * 1e6:.1f}",
            ]
        )
    whole = f"{(used[-1] - used[0]) / jobs * 1e6:.1f}"
    return (
        Table(
            title=f"Draining {jobs:,} jobs",
            columns=["seconds", "jobs/s", "CPU of the server, us/job"],
            rows=[*rows, ["all", f"{done.rate:,.0f}", whole]],
        ),
        {**attrs.asdict(done), "server_cpu": used},
    )


MEASURES: list[Measure] = [producing, long]
