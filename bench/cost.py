"""Measure the cost of a job (log, transactions, dead rows, CPU time) and of an idle worker.

    python bench/cost.py [--dsn URL] [--rounds 3] [--jobs 50000] [--idle-seconds 30] [--quick]

It takes about three minutes. CPU times of the server need it on this machine, Linux, and a user
that may read /proc of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import attrs
import psycopg
from bench.draining import Drain, Drained, drain, working
from bench.lab import Table, laboratory, machine, median, write_results
from bench.meter import Cost, Meter, with_rows
from bench.producing import Produce, Produced, go, produced, producers
from bench.situations import EMPTY, clone, prepared

from roost._model.settings import WorkerSettings

DRAINS = (32, 128)
BULK = 1_000
CROWDS = (10, 500)
"""Concurrencies at which the connections are counted."""


@attrs.frozen(kw_only=True)
class Trial:
    """One run.

    :param cpu: seconds of the process that drained or inserted.
    """

    jobs: int
    seconds: float
    cpu: float
    statements: dict[str, int]
    waited: dict[str, float]
    server: Cost


def main() -> None:
    """Measure all, print the tables, and write them to a file."""
    options = arguments()
    jobs = min(options.jobs, 2_000) if options.quick else options.jobs
    seconds = 0.3 if options.quick else 3.0
    idle_seconds = min(options.idle_seconds, 1.0) if options.quick else options.idle_seconds
    with laboratory(options.dsn) as server_dsn:
        about = machine(server_dsn)
        trials = busy(server_dsn, rounds=options.rounds, jobs=jobs, seconds=seconds)
        idling = idle(server_dsn, seconds=idle_seconds)
        crowds = {n: connections(server_dsn, n, seconds=max(seconds / 2, 0.5)) for n in CROWDS}
    tables = [per_job(trials), statements(trials), resting(idling, crowds)]
    for table in tables:
        print(table.text())
    raw: dict[str, Any] = {name: [attrs.asdict(t) for t in some] for name, some in trials.items()}
    raw |= {"idle": idling, "connections": crowds}
    if not options.dry:
        print(write_results("cost", machine=about, tables=tables, raw=raw))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dsn", help="a superuser's URL; default: an embedded server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=50_000, help="drained in each run")
    parser.add_argument("--idle-seconds", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true", help="to see whether all of it works")
    parser.add_argument("--dry", action="store_true", help="write no file of results")
    return parser.parse_args()


# At full speed.


def busy(server_dsn: str, *, rounds: int, jobs: int, seconds: float) -> dict[str, list[Trial]]:
    """Return the trials of each drain and each way to insert."""
    trials: dict[str, list[Trial]] = {}
    with (
        prepared(server_dsn, EMPTY, jobs=jobs) as full,
        prepared(server_dsn, attrs.evolve(EMPTY, name="nothing"), jobs=0) as empty,
    ):
        for _ in range(rounds):
            for concurrency in DRAINS:
                trials.setdefault(f"drain at {concurrency}", []).append(
                    metered(server_dsn, full, draining(jobs, concurrency))
                )
            for bulk, name in ((1, "insert 1"), (BULK, f"insert {BULK:,}")):
                trials.setdefault(name, []).append(
                    metered(server_dsn, empty, inserting(bulk, seconds))
                )
    return trials


def draining(jobs: int, concurrency: int) -> Callable[[str], Drained]:
    """Return a drain of one worker."""

    def run(dsn: str) -> Drained:
        return drain(Drain(dsn=dsn, jobs=jobs, concurrency=concurrency, count_statements=True))

    return run


def inserting(bulk: int, seconds: float) -> Callable[[str], Produced]:
    """Return one process that inserts through the client, without a listener."""

    def run(dsn: str) -> Produced:
        with producers(Produce(dsn=dsn, seconds=seconds, bulk=bulk), 1) as processes:
            go(processes)
            return produced(processes)[0]

    return run


def metered(server_dsn: str, template: str, run: Callable[[str], Drained | Produced]) -> Trial:
    """Run something on a copy of a template and say what it cost."""
    with (
        clone(server_dsn, template) as dsn,
        psycopg.connect(server_dsn, autocommit=True) as conn,
    ):
        meter = Meter(conn, f"{template}_copy")
        before = meter.read()
        done = run(dsn)
        cost = with_rows(meter.read() - before, dsn)
    if isinstance(done, Produced):
        return Trial(
            jobs=done.rows,
            seconds=done.seconds,
            cpu=done.cpu,
            statements={},
            waited={},
            server=cost,
        )
    return Trial(
        jobs=done.jobs,
        seconds=done.ended,
        cpu=done.cpu,
        statements=done.statements,
        waited=done.waited,
        server=cost,
    )


def per_job(trials: dict[str, list[Trial]]) -> Table:
    """Return a column for each kind of trial, a line for each cost."""

    def middle(some: list[Trial], figure: Callable[[Trial], float | None], form: str) -> str:
        values = [value for trial in some if (value := figure(trial)) is not None]
        return format(median(values), form) if values else "?"

    def server(name: str, scale: float = 1.0) -> Callable[[Trial], float | None]:
        def figure(trial: Trial) -> float | None:
            value: float | None = getattr(trial.server.per(trial.jobs), name)
            return None if value is None else value * scale

        return figure

    def sent(trial: Trial) -> float | None:
        return sum(trial.statements.values()) / trial.jobs * 1e3 if trial.statements else None

    lines: list[tuple[str, Callable[[Trial], float | None], str]] = [
        ("jobs/s", lambda trial: trial.jobs / trial.seconds, ",.0f"),
        ("CPU of the client's process, us/job", lambda trial: trial.cpu / trial.jobs * 1e6, ".1f"),
        ("CPU of the server's processes, us/job", server("cpu", 1e6), ".1f"),
        ("statements / 1,000 jobs", sent, ",.1f"),
        ("commits / 1,000 jobs", server("commits", 1e3), ",.1f"),
        ("WAL bytes/job", server("wal"), ",.0f"),
        ("WAL records/job", server("records"), ".1f"),
        ("images of pages in it / 1,000 jobs", server("pages", 1e3), ".1f"),
        ("updates/job", server("updates"), ".2f"),
        ("of them without an index (HOT)", server("hot"), ".2f"),
        ("dead row versions/job", server("dead"), ".2f"),
    ]
    rounds = len(next(iter(trials.values())))
    return Table(
        title=f"The cost of a job, medians of {rounds} rounds",
        columns=["", *trials],
        rows=[
            [title, *(middle(some, figure, form) for some in trials.values())]
            for title, figure, form in lines
        ],
        note="Each run begins after a checkpoint, so the WAL has an image of every page once. "
        "Starting and stopping the worker is in the statements and commits.",
    )


def statements(trials: dict[str, list[Trial]]) -> Table:
    """Return what the worker sent, and how long it waited for the answers."""
    rows = []
    for name, some in trials.items():
        names = sorted({sent for trial in some for sent in trial.waited})
        for statement in names:
            times = median([trial.statements.get(statement, 0) for trial in some])
            waited = median([trial.waited.get(statement, 0.0) for trial in some])
            if times > 2:
                rows.append(
                    [
                        f"{name}: {statement}",
                        f"{times:,.0f}",
                        f"{some[0].jobs / times:,.1f}",
                        f"{waited / times * 1e3:.2f}",
                        f"{waited / some[0].jobs * 1e6:.1f}",
                    ]
                )
    return Table(
        title="Statements of a drain",
        columns=["statement", "times", "jobs each", "ms each", "us/job"],
        rows=rows,
        note="The times are until the answer is read, the worker's other work meanwhile included.",
    )


# At rest.


def idle(server_dsn: str, *, seconds: float) -> dict[str, float]:
    """Return what an idle worker with default settings costs, per second.

    The difference of a long run and a short one leaves out the costs of starting and stopping.
    """
    short = min(2.0, seconds / 2)
    with prepared(server_dsn, attrs.evolve(EMPTY, name="idle"), jobs=0) as template:
        runs = [
            metered(server_dsn, template, resting_for(length))
            for length in (short, short + seconds)
        ]
    cost = runs[1].server - runs[0].server
    sent = sum(runs[1].statements.values()) - sum(runs[0].statements.values())
    return {
        "seconds": seconds,
        "transactions": cost.commits / seconds,
        "statements": sent / seconds,
        "worker_cpu": (runs[1].cpu - runs[0].cpu) / seconds,
        "server_cpu": (cost.cpu or 0.0) / seconds,
        "wal": cost.wal / seconds,
    }


def resting_for(seconds: float) -> Callable[[str], Drained]:
    """Return a worker with default settings that finds nothing."""

    def run(dsn: str) -> Drained:
        defaults = WorkerSettings()
        what = Drain(
            dsn=dsn,
            jobs=None,
            seconds=seconds,
            concurrency=defaults.concurrency,
            queues=list(defaults.queues),
            count_statements=True,
        )
        return drain(what)

    return run


def connections(server_dsn: str, concurrency: int, *, seconds: float) -> int:
    """Return the most connections of a worker whose slots are all taken."""
    with (
        prepared(server_dsn, EMPTY, jobs=2_000) as template,
        clone(server_dsn, template) as dsn,
        psycopg.connect(server_dsn, autocommit=True) as conn,
    ):
        meter = Meter(conn, f"{template}_copy")
        what = Drain(dsn=dsn, jobs=None, seconds=seconds, concurrency=concurrency, nap=0.1)
        most = 0
        with working(what) as worker:
            while worker.poll() is None:
                most = max(most, meter.sessions())
                time.sleep(0.01)
    return most


def resting(idling: dict[str, float], crowds: dict[int, int]) -> Table:
    """Return the table of what a worker costs whether it works or not."""
    rows = [
        ["transactions/s", f"{idling['transactions']:.2f}", "1"],
        ["statements/s", f"{idling['statements']:.2f}", ""],
        ["CPU of the worker, % of a core", f"{idling['worker_cpu'] * 100:.2f}", ""],
        ["CPU of the server, % of a core", f"{idling['server_cpu'] * 100:.2f}", ""],
        ["WAL bytes/s", f"{idling['wal']:,.0f}", ""],
        *(
            [f"connections at concurrency {concurrency}", str(most), "4"]
            for concurrency, most in crowds.items()
        ),
    ]
    return Table(
        title=f"An idle worker with default settings, over {idling['seconds']:g} s; connections",
        columns=["", "measured", "at most"],
        rows=rows,
        note="The server's figures include its own work, such as autovacuum's checks.",
    )


if __name__ == "__main__":
    main()
