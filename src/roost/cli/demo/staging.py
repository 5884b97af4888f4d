"""One run of the demo: make the place, play the scenario, show its outcome and check it."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import typer

from roost import embedded
from roost._drivers.redact import redact
from roost.cli.backend import check_backend, run_on
from roost.cli.demo.check import find_faults
from roost.cli.demo.outcome import Outcome, recount
from roost.cli.demo.place import fresh_database, own_queue, unique_name
from roost.cli.demo.report import show_report
from roost.cli.demo.scenario import Plan, ShowsProgress, play
from roost.cli.demo.screen import Screen
from roost.cli.demo.tree import find_tree
from roost.cli.demo.troubles import ORIGINAL, make_troubles
from roost.cli.logs import configure
from roost.cli.options import Backend, LogLevel

MOST_FAULTS = 20
"""How many faults are named."""


def stage(*, path: Path | None, backend: Backend, concurrency: int | None, dsn: str | None) -> None:
    """Run the demo; the parameters are those of the command.

    :raises typer.Exit: with 1 when a count is wrong, with 130 when a signal ended it.
    """
    check_backend(backend)
    configure(LogLevel.ERROR)
    # As for a keyboard's interrupt: whatever was made is taken away again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    screen = Screen.of_stdout()
    tree = find_tree(path)
    screen.say(f"{len(tree.files):,} files in {tree.shown_as}; loop: {backend.value}.")
    if tree.left_out:
        screen.say(f"Left out: {tree.left_out} larger than 16 MB, or with a name that is no text.")
    screen.say(
        f"Beside them, in a temporary folder, three copies of Roost's own {ORIGINAL.name}: one cut "
        "off in the middle, one stored as UTF-16, one still being written when its job first runs."
    )
    name = unique_name()
    with make_troubles() as troubles, _place(screen, dsn, name) as address:
        plan = Plan(dsn=address, queue=name, tree=tree, troubles=troubles, concurrency=concurrency)
        with screen.progress() as progress:
            outcome = run_on(backend, partial(_play_until_signal, plan, progress))
        if outcome is None:
            raise typer.Exit(130)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            counted = recount(tree, late=str(troubles.late))
    show_report(screen, outcome, counted, troubles)
    faults = find_faults(outcome, counted, troubles)
    if faults:
        for fault in faults[:MOST_FAULTS]:
            typer.echo(f"roost: wrong: {fault}", err=True)
        typer.echo(f"roost: the demo failed: {len(faults)} count(s) are wrong", err=True)
        raise typer.Exit(1)
    screen.say(
        "All counts are right: the handlers', the table's, and a plain loop's over the files.",
        style="bold green",
    )


@contextmanager
def _place(screen: Screen, dsn: str | None, name: str) -> Iterator[str]:
    """Yield the DSN of the database to use."""
    if dsn is not None:
        screen.say(f"Database: {redact(dsn)}, queue {name}.")
        with own_queue(dsn, name):
            yield dsn
        return
    with embedded.server() as server, fresh_database(server.dsn, name):
        screen.say(f"Database: {name}, on an embedded Postgres {server.version}.")
        yield server.dsn_for(name)


async def _play_until_signal(plan: Plan, progress: ShowsProgress) -> Outcome | None:
    """Return the outcome; ``None``: a signal came, and everything was stopped in order."""
    outcome = None
    async with anyio.create_task_group() as group:

        async def stop_at_signal() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
                async for _ in received:
                    group.cancel_scope.cancel()
                    return

        group.start_soon(stop_at_signal)
        outcome = await play(plan, progress)
        group.cancel_scope.cancel()
    return outcome
