"""Compare Roost with other job queues for Postgres: drain, enqueue, bulk, pickup; and producers.

Every trial has a fresh database and processes of its own. In each round every case has one trial,
and the order turns with each round, so that a noisy neighbor hits all of them. A case's ratio is
the median, over the rounds, of its figure against the base's of the same round: only ratios of one
run may be compared.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench import producers, trials
from bench.lab import Table, fresh_database, laboratory, machine, median, spread, write_results
from bench.peers.children import ContestantError
from bench.peers.contestants import (
    BASE,
    CONTESTANTS,
    FLOOR,
    OBAN,
    ROOST,
    WITH_IDS,
    Contestant,
    why_missing,
)
from bench.trials import Figures


@attrs.frozen
class Case:
    """A case: it has one trial a round, and is compared with another case."""

    name: str
    base: str
    trial: Callable[[str], Figures]


@attrs.frozen(kw_only=True)
class Scenario:
    """A table of the result."""

    key: str
    title: str
    cases: Sequence[Case]
    note: str = ""


@attrs.frozen(kw_only=True)
class Size:
    """How much is done in a trial."""

    jobs: int = 20_000
    enqueues: int = 2_000
    rows: int = 50_000
    pickups: int = 500
    seconds: float = 4.0


QUICK = Size(jobs=2_000, enqueues=200, rows=3_000, pickups=60, seconds=1.0)
FLOOR_NOTE = (
    "(bare) is no queue: an insert that notifies, and an update that claims, into a table with one"
    " index, on asyncpg. A queue that commits both can hardly be faster."
)
SCENARIOS = ("drain", "enqueue", "bulk", "pickup", "producers")


def scenarios(size: Size, names: Sequence[str]) -> list[Scenario]:
    """Return all scenarios, for the contestants of these names."""
    chosen = [
        who
        for who in CONTESTANTS
        if who is BASE or (_is_named(who, names) and not why_missing(who.peer))
    ]
    # These differ from others of the same peer only in a drain.
    capped = [who for who in chosen if who.driver not in ("uncapped", "deleting")]
    return [
        *(_drain(size, chosen, concurrency) for concurrency in (32, 128)),
        _two_processes(size, burn=0),
        _two_processes(size, burn=200),
        _each(
            "enqueue",
            "Single enqueue, one after another, each in a transaction of its own",
            [*capped, *FLOOR],
            partial(trials.enqueue, jobs=size.enqueues),
            note=FLOOR_NOTE,
        ),
        _bulk(size, capped, idle_worker=False),
        _bulk(size, [who for who in capped if who.peer is not OBAN], idle_worker=True),
        _each(
            "pickup",
            "Pickup by an idle worker with its default concurrency",
            [*capped, *FLOOR],
            partial(trials.pickup, jobs=size.pickups),
            note=f"One job each {trials.EVERY * 1e3:.0f} ms or so, from before the enqueue call"
            f" until the handler has started. {FLOOR_NOTE}",
        ),
        _loaded(size, [who for who in capped if who.name in ("roost", "pgqueuer")]),
        _producers(size),
    ]


def _is_named(who: Contestant, names: Sequence[str]) -> bool:
    return not names or any(who.peer.script.startswith(name) for name in names)


def _each(
    key: str,
    title: str,
    contestants: Sequence[Contestant],
    trial: Callable[..., Figures],
    note: str = "",
) -> Scenario:
    cases = [Case(who.name, BASE.name, partial(trial, who)) for who in contestants]
    return Scenario(key=key, title=title, cases=cases, note=note)


def _drain(size: Size, contestants: Sequence[Contestant], concurrency: int) -> Scenario:
    def trial(who: Contestant, dsn: str) -> Figures:
        return trials.drain(who, dsn, jobs=int(size.jobs * who.share), concurrency=concurrency)

    note = (
        "From the first handler's start until every job is finished and committed: when the last"
        " handler has ended the worker is asked to stop, so that it writes what it holds, and the"
        " table is read until no job is left. procrastinate has 15 % of the jobs. graphile-worker"
        " runs with a local queue of 500 jobs and batched completions; it deletes a job when it"
        " completes, and checks no lease. Roost does the same, and checks the lease, in the lines"
        " with deleting: delete_after_seconds is 0 there. pgqueuer moves the job to its log, and"
        " all others keep it with its outcome."
    )
    title = f"Drain of {size.jobs:,} ready no-op jobs at concurrency {concurrency}"
    return _each("drain", title, contestants, trial, note)


def _two_processes(size: Size, burn: int) -> Scenario:
    jobs = size.jobs if burn else 2 * size.jobs

    def trial(processes: int, dsn: str) -> Figures:
        return trials.drain(BASE, dsn, jobs=jobs, concurrency=32, processes=processes, burn=burn)

    what = f"jobs that compute for {burn} us each" if burn else "no-op jobs"
    return Scenario(
        key="drain",
        title=f"Drain of {jobs:,} {what} by one and two worker processes, 32 slots each",
        cases=[
            Case("roost, 1 process", "roost, 1 process", partial(trial, 1)),
            Case("roost, 2 processes", "roost, 1 process", partial(trial, 2)),
        ],
        note="On two cores one process and the server fill both where jobs do nothing; where they"
        " compute, the processes do, and the second finds room as long as the server needs little.",
    )


def _bulk(size: Size, contestants: Sequence[Contestant], *, idle_worker: bool) -> Scenario:
    title, note = "Bulk enqueue, 1,000 rows a call", ""
    if idle_worker:
        title += ", with a listening idle worker"
        note = "The jobs are due in 45 s, so that the worker is notified of them, and stays idle."
    both = [*contestants[:1], WITH_IDS, *contestants[1:]]
    trial = partial(trials.bulk, rows=size.rows, idle_worker=idle_worker)
    return _each("bulk", title, both, trial, note)


def _loaded(size: Size, contestants: Sequence[Contestant]) -> Scenario:
    rates: dict[str, float] = {}

    def stream(who: Contestant, dsn: str) -> Figures:
        if who.name not in rates:
            with fresh_database(dsn) as other:
                jobs = max(2_000, size.jobs // 4)
                rates[who.name] = trials.drain(who, other, jobs=jobs, concurrency=32)["jobs/s"]
        rate = rates[who.name] / 2
        return trials.pickup(who, dsn, jobs=size.pickups, concurrency=32, rate=rate)

    def idle(who: Contestant, dsn: str) -> Figures:
        return trials.pickup(who, dsn, jobs=size.pickups, concurrency=32)

    def slots(who: Contestant, dsn: str) -> Figures:
        return trials.pickup(who, dsn, jobs=size.pickups, concurrency=32, naps=16)

    cases = [
        Case(f"{who.name}, {name}", f"{who.name}, idle", partial(trial, who))
        for who in contestants
        for name, trial in (("idle", idle), ("16 slots taken", slots), ("stream", stream))
    ]
    return Scenario(
        key="pickup",
        title="Pickup by a worker with 32 slots that is half busy",
        cases=cases,
        note="Half of the slots are taken by jobs that sleep; or another process enqueues no-op"
        " jobs at half of the rate at which this contestant drains (measured in this run), which"
        " on two cores leaves no idle processor. Ratios against the contestant's own idle worker.",
    )


def _producers(size: Size) -> Scenario:
    workers: tuple[producers.Worker, ...] = ("none", "idle", "full", "draining")
    cases = [
        Case(
            f"worker: {worker}{', no notification' if silent else ''}",
            f"worker: {worker}, no notification",
            partial(producers.produce, seconds=size.seconds, worker=worker, silent=silent),
        )
        for worker in workers
        for silent in (True, False)
    ]
    return Scenario(
        key="producers",
        title="Eight producers of single jobs, with notifications as they are and without any",
        cases=cases,
        note="idle: a worker listens, and no job is due yet. full: all its slots are taken."
        " draining: it runs what is produced. Ratios against the same without notifications.",
    )


Trials = dict[str, list[Figures | None]]
"""Of each case the figures of every round; None: it failed."""


def measure(server_dsn: str, scenario: Scenario, rounds: int) -> Trials:
    """Run the rounds, and print the figures as they come."""
    print(f"\n{scenario.title}", flush=True)
    done: Trials = {case.name: [] for case in scenario.cases}
    for turn in range(rounds):
        for case in scenario.cases if turn % 2 == 0 else reversed(scenario.cases):
            figures: Figures | None = None
            try:
                with fresh_database(server_dsn) as dsn:
                    figures = case.trial(dsn)
            except ContestantError as error:
                print(f"  {case.name}: {error}", flush=True)
            done[case.name].append(figures)
            shown = ", ".join(f"{value:,.2f} {name}" for name, value in (figures or {}).items())
            print(f"  {turn + 1}/{rounds} {case.name:<28} {shown}", flush=True)
    return done


def table(scenario: Scenario, done: Trials) -> Table:
    """Return medians, the least and the greatest, and the ratios."""
    some = next((f for figures in done.values() for f in figures if f), {})
    columns = [""]
    for name in some:
        columns += [name, "least to most", "ratio"]
    rows = []
    for case in scenario.cases:
        row = [case.name]
        for name in some:
            values = [figures[name] for figures in done[case.name] if figures]
            ratios = [
                figures[name] / base[name]
                for figures, base in zip(done[case.name], done.get(case.base, []), strict=False)
                if figures and base
            ]
            low, high = spread(values) if values else (0.0, 0.0)
            row += [
                _number(median(values)) if values else "failed",
                f"{_number(low)} to {_number(high)}" if values else "",
                f"x {median(ratios):.2f}" if ratios else "",
            ]
        rows.append(row)
    return Table(title=scenario.title, columns=columns, rows=rows, note=scenario.note)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def main() -> None:
    """Measure what the command line asks for, print the tables and store them."""
    known = {who.peer.name: who.peer for who in CONTESTANTS}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", help="a superuser's URL of a server; default: an embedded one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=Size().jobs, help="of a drain")
    parser.add_argument("--only", help=f"some of {','.join(SCENARIOS)}")
    parser.add_argument(
        "--peers", help=f"some of {','.join(sorted(known))}; roost, the base, always takes part"
    )
    parser.add_argument("--quick", action="store_true", help="one round of a few jobs: does it run")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else SCENARIOS
    if unknown := {*only} - {*SCENARIOS}:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}")
    names = args.peers.split(",") if args.peers else []
    if unknown := {*names} - {*known}:
        parser.error(f"there is no peer {', '.join(sorted(unknown))}")
    asked = [peer for name, peer in known.items() if not names or name in names]
    skipped = {peer.name: reason for peer in asked if (reason := why_missing(peer))}
    for name, reason in skipped.items():
        print(f"{name} is skipped: {reason}", flush=True)
    size = QUICK if args.quick else Size(jobs=args.jobs)
    rounds = 1 if args.quick else args.rounds
    with laboratory(args.dsn) as server_dsn:
        facts = machine(server_dsn)
        tables, raw = [], {}
        for scenario in scenarios(size, names):
            if scenario.key in only:
                done = measure(server_dsn, scenario, rounds)
                raw[scenario.title] = done
                tables.append(table(scenario, done))
                print(f"\n{tables[-1].text()}", flush=True)
    facts["peers"] = ", ".join(
        requirement
        for peer in asked
        if peer is not ROOST and peer.name not in skipped
        for requirement in peer.requirements[:1]
    )
    if skipped:
        facts["skipped"] = ", ".join(f"{name}: {reason}" for name, reason in skipped.items())
    if not args.quick:
        # A run of some scenarios does not replace one of others.
        name = "-".join(["compare", *([] if len(only) == len(SCENARIOS) else only)])
        report = write_results(name, machine=facts, tables=tables, raw=raw)
        print(f"written to {os.path.relpath(report)}")


if __name__ == "__main__":
    main()
