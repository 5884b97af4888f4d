"""Measure how fast a worker drains a busy table, compared with an empty one.

    python bench/scale.py [--dsn URL] [--rounds 5] [--jobs 20000] [--only NAME,…] [--quick]

One worker process, asyncio and psycopg, concurrency 32, default settings otherwise. Before or after
each drain the same number of jobs is drained from an empty table; the ratio is that pair's, and the
table has its median over the rounds. After each drain the table is checked: every job is complete
after one attempt, and nothing else was changed. A round takes about two and a half minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import attrs
import psycopg
from bench import busy
from bench.draining import Drain, Drained, drain
from bench.lab import Table, laboratory, machine, median, spread, write_results
from bench.meter import server_cpu
from bench.situations import EMPTY, Situation, Start, check, clone, prepared, situations

CONCURRENCY = 32


@attrs.frozen
class Run:
    """A drain, and the CPU seconds of the server meanwhile; 0: it is on another machine."""

    drained: Drained
    server: float

    @property
    def cpu(self) -> float:
        """Return the CPU microseconds per job of worker and server."""
        return (self.drained.cpu + self.server) / self.drained.jobs * 1e6


@attrs.frozen
class Pair:
    """A run in a situation, and the run on an empty table just before or after it."""

    there: Run
    empty: Run

    @property
    def ratio(self) -> float:
        """Return the share of the rate that is left."""
        return self.there.drained.rate / self.empty.drained.rate


def main() -> None:
    """Run the rounds and print the tables."""
    options = arguments()
    jobs = min(options.jobs, 2_000) if options.quick else options.jobs
    lines = {line.name: line for line in situations(quick=options.quick)}
    others = {measure.__name__: measure for measure in busy.MEASURES}
    wanted = options.only.split(",") if options.only else [*lines, *others]
    if not {*lines, *others}.issuperset(wanted):
        sys.exit(f"--only takes some of: {', '.join([*lines, *others])}")
    chosen = [lines[name] for name in wanted if name in lines]
    tables: list[Table] = []
    raw: dict[str, Any] = {}
    with laboratory(options.dsn) as server_dsn:
        about = machine(server_dsn)
        if chosen:
            pairs = compare(server_dsn, chosen, rounds=options.rounds, jobs=jobs)
            tables.append(table(chosen, pairs, rounds=options.rounds, jobs=jobs))
            print(tables[-1].text(), flush=True)
            raw |= {name: [attrs.asdict(pair) for pair in some] for name, some in pairs.items()}
        for name in wanted:
            if name in others:
                shown, trials = others[name](server_dsn, rounds=options.rounds, quick=options.quick)
                tables.append(shown)
                print(shown.text(), flush=True)
                raw[name] = trials
    if not options.dry:
        print(write_results("scale", machine=about, tables=tables, raw=raw))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dsn", help="a superuser's URL; default: an embedded server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=20_000, help="drained in each run")
    parser.add_argument("--only", help="names of situations, with commas between")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows")
    parser.add_argument("--dry", action="store_true", help="write no file of results")
    return parser.parse_args()


def compare(
    server_dsn: str, lines: list[Situation], *, rounds: int, jobs: int
) -> dict[str, list[Pair]]:
    """Drain each situation in each round, in turn after and before an empty table."""
    pairs: dict[str, list[Pair]] = {line.name: [] for line in lines}
    with ExitStack() as stack:
        templates = {
            line.name: stack.enter_context(prepared(server_dsn, line, jobs=jobs))
            for line in [EMPTY, *lines]
        }

        def once(line: Situation) -> Run:
            return round_of(server_dsn, templates[line.name], line)

        once(EMPTY)  # the first run after a start reads every file anew
        for turn in range(rounds):
            for line in lines if turn % 2 == 0 else reversed(lines):
                if turn % 2 == 0:
                    empty = once(EMPTY)
                    pair = Pair(once(line), empty)
                else:
                    there = once(line)
                    pair = Pair(there, once(EMPTY))
                pairs[line.name].append(pair)
                print(
                    f"round {turn + 1}: {line.name:<14} {pair.there.drained.rate:9,.0f} jobs/s,"
                    f" empty {pair.empty.drained.rate:9,.0f}, x{pair.ratio:.2f},"
                    f" CPU x{pair.there.cpu / pair.empty.cpu:.2f}",
                    file=sys.stderr,
                    flush=True,
                )
    return pairs


def round_of(server_dsn: str, template: str, line: Situation) -> Run:
    """Drain one copy and check the table at its end."""
    with (
        clone(server_dsn, template) as dsn,
        psycopg.connect(dsn, autocommit=True) as conn,
    ):
        start = Start.of(conn)
        what = Drain(
            dsn=dsn,
            jobs=start.waiting,
            concurrency=CONCURRENCY,
            queues=line.queue_names(),
            max_concurrency=line.max_concurrency,
            rate_per_minute=line.rate_per_minute,
        )
        with old_snapshot(dsn, line):
            before = server_cpu(conn)
            done = drain(what)
            after = server_cpu(conn)
        if done.jobs != start.waiting:
            raise RuntimeError(f"{line.name}: {done.jobs} calls for {start.waiting} jobs")
        check(conn, start, drained=done.jobs)
        return Run(done, 0.0 if before is None or after is None else after - before)


@contextmanager
def old_snapshot(dsn: str, line: Situation) -> Iterator[None]:
    """Hold a snapshot from before the drain, if the situation has one."""
    if not line.snapshot:
        yield
        return
    with psycopg.connect(dsn) as conn:
        conn.execute("set transaction isolation level repeatable read")
        conn.execute("select count(*) from roost.workers")
        yield


def table(lines: list[Situation], pairs: dict[str, list[Pair]], *, rounds: int, jobs: int) -> Table:
    """Return the table of all situations."""
    rows = []
    everything = [Pair(pair.empty, pair.empty) for line in lines for pair in pairs[line.name]]
    for title, target, some in [
        ("empty table", None, everything),
        *((line.title, line.target, pairs[line.name]) for line in lines),
    ]:
        shares = [pair.ratio for pair in some]
        least, most = spread(shares)
        first = [pair.there.drained.first * 1e3 for pair in some]
        rows.append(
            [
                title,
                f"{median([pair.there.drained.rate for pair in some]):,.0f}",
                f"{median(shares):.2f}",
                f"{least:.2f} - {most:.2f}",
                "" if target is None else f"{target:.2f}",
                f"{median([pair.there.cpu for pair in some]):.1f}",
                f"{median([pair.there.cpu / pair.empty.cpu for pair in some]):.2f}",
                f"{median(first):.1f}",
                f"{max(first):.1f}",
            ]
        )
    return Table(
        title=f"Draining {jobs:,} jobs at concurrency {CONCURRENCY}, medians of {rounds} rounds",
        columns=[
            "in the table",
            "jobs/s",
            "of empty",
            "least - most",
            "wanted",
            "CPU, us/job",
            "of empty",
            "first job, ms",
            "worst",
        ],
        rows=rows,
        note="CPU: of the worker and the server together, the start of the worker's sessions and"
        " autovacuum included; steadier than the clock on a busy machine. First job: from when the"
        " worker is ready until the first handler is called.",
    )


if __name__ == "__main__":
    main()
