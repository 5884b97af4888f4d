"""The command ``roost top``: options, and the loop of the live view."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from roost._drivers.redact import redact
from roost.cli.client import CommandClient
from roost.cli.options import Dsn, resolve_dsn
from roost.cli.output import AsJson, examples, fail, print_json
from roost.cli.top.frame import draw
from roost.cli.top.reader import Reader
from roost.cli.top.snapshot import read_snapshot
from roost.cli.top.view import View
from roost.exceptions import InvalidSettingError

if TYPE_CHECKING:
    from roost.cli.top.terminal import Terminal

EPILOG = examples("roost top", "roost top --interval 10", "roost top --once")
CLOCK = 1.0
"""Seconds between two frames without anything new: ages go on."""
SHORTEST, LONGEST = 0.2, 3_600.0
DEFAULT_WIDTH = 80


def top(
    *,
    interval: Annotated[
        float, typer.Option(help="Seconds between two readings, 0.2 to 3600.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
    as_json: AsJson = False,
    dsn: Dsn = None,
) -> None:
    """Show the queues, the running jobs and the newest failures, live.

    Keys pause or resume a queue, and cancel or retry a job, each after a question. It works in 80
    columns. While the database is away, it shows the last reading and goes on. --json prints one
    reading and exits.
    """
    if not SHORTEST <= interval <= LONGEST:  # also refuses nan
        raise InvalidSettingError(f"--interval must be from 0.2 to 3600 seconds, not {interval:g}")
    with CommandClient(dsn, "top") as client:
        view = View(source=_source(resolve_dsn(dsn)), interval=interval)
        if once or as_json:
            _print_once(client, view, as_json=as_json)
            return
        if sys.platform == "win32" or not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise InvalidSettingError(
                "the live view needs a Unix terminal; pass --once for one frame, or --json"
            )
        stopped_by = _run(client, view)
    if (crash := view.crash) is not None:
        fail(f"the view can't go on: {type(crash).__name__}: {' '.join(str(crash).split())}")
    if stopped_by in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(stopped_by, signal.SIG_DFL)
        os.kill(os.getpid(), stopped_by)  # so that the caller sees how it ended


def _source(dsn: str) -> str:
    """Return hosts and database of a DSN, for the title.

    Without ``urlsplit``: it refuses passwords that Postgres accepts, and its error shows them.
    """
    shown = redact(dsn)
    _, is_url, rest = shown.partition("://")
    return rest.partition("?")[0].rpartition("@")[2] if is_url else shown


def _print_once(client: CommandClient, view: View, *, as_json: bool) -> None:
    snapshot = read_snapshot(client)
    if as_json:
        print_json(snapshot)
        return
    view.record_reading(snapshot)
    width = shutil.get_terminal_size((DEFAULT_WIDTH, 0)).columns
    console = Console(width=width, highlight=False)
    for line in draw(view, width=width, height=None, now=datetime.now(UTC)):
        console.print(line, no_wrap=True, crop=True)


def _run(client: CommandClient, view: View) -> signal.Signals | None:
    """Show the live view until the user or a signal ends it; return the signal."""
    from roost.cli.top.terminal import Terminal  # needs a Unix

    try:
        with Terminal() as terminal:
            _show(client, view, terminal)
            return terminal.stopped_by
    except OSError:  # the terminal is gone: its signal comes later, or not at all
        return signal.SIGHUP


def _show(client: CommandClient, view: View, terminal: Terminal) -> None:
    reader = Reader(client, interval=view.interval, wake=terminal.wake)
    while not view.ended and terminal.stopped_by is None:
        columns, lines = terminal.size()
        terminal.show(draw(view, width=columns, height=lines, now=datetime.now(UTC)))
        for key in terminal.keys(timeout=CLOCK):
            confirmed = view.press(key)
            if confirmed is not None:
                view.message = f"{confirmed.action.value} {confirmed.key} ..."
                reader.do(confirmed)
        reader.show_answers(view)
