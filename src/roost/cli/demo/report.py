"""The demo's table of results and timings."""

from __future__ import annotations

from pathlib import Path

from roost.cli.demo.outcome import Outcome, Recount, Row
from roost.cli.demo.screen import Screen
from roost.cli.demo.troubles import Troubles

MOST_FAILURES = 10
"""How many failed files are named."""


def show_report(screen: Screen, outcome: Outcome, counted: Recount, troubles: Troubles) -> None:
    """Print what became of the jobs."""
    screen.say("")
    screen.table(
        ["task", "jobs", "completed", "discarded", "attempts", "retries"],
        [_line(task, outcome.rows) for task in ("index", "fingerprint", "summary", "all")],
    )
    screen.say("")
    _show_failures(screen, outcome, troubles)
    screen.say(f"Rolled back on purpose: job {outcome.rolled_back}, which never was in the table.")
    _show_totals(screen, outcome)
    _show_times(screen, outcome)
    if counted.changed:
        screen.say(
            f"{len(counted.changed)} file(s) changed meanwhile; their counts are not compared."
        )


def _line(task: str, rows: tuple[Row, ...]) -> list[str]:
    chosen = [row for row in rows if task in ("all", row.task)]
    attempts = sum(row.attempt for row in chosen)
    numbers = (
        len(chosen),
        sum(row.state == "completed" for row in chosen),
        sum(row.state == "discarded" for row in chosen),
        attempts,
        attempts - len(chosen),
    )
    return [task, *(f"{number:,}" for number in numbers)]


def _show_failures(screen: Screen, outcome: Outcome, troubles: Troubles) -> None:
    failed = [row for row in outcome.rows if row.state == "discarded"]
    for row in failed[:MOST_FAILURES]:
        path = row.args.get("path") or row.args["paths"][0]
        error = str((row.errors or [{}])[-1].get("error", "")).splitlines() or [""]
        screen.say(f"Failed for good after {row.attempt} attempts: {Path(path).name}: {error[0]}")
    if len(failed) > MOST_FAILURES:
        screen.say(f"... and {len(failed) - MOST_FAILURES} more.")
    for row in outcome.rows:
        if row.args.get("path") == str(troubles.late):
            screen.say(
                f"{troubles.late.name} was still being written at first: {row.state} at "
                f"attempt {row.attempt}."
            )


def _show_totals(screen: Screen, outcome: Outcome) -> None:
    for row in outcome.rows:
        if row.task == "summary" and row.result is not None:
            names = ("files", "lines", "words", "definitions", "bytes")
            screen.say(
                "Indexed: " + ", ".join(f"{row.result[name]:,} {name}" for name in names) + "."
            )


def _show_times(screen: Screen, outcome: Outcome) -> None:
    times = outcome.times
    rate = times.straight / times.straight_seconds if times.straight_seconds else 0.0
    screen.say(
        f"{times.total:.2f} s in all, waits before retries included. {times.straight:,} jobs went "
        f"through at once: {rate:,.0f} jobs/s."
    )
    screen.say(
        f"Pickup, from insert to claim: p50 {times.pickup * 1000:.1f} ms with every slot busy, "
        f"{times.idle_pickup * 1000:.1f} ms by the idle worker (the summary)."
    )
