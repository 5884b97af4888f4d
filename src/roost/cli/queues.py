"""``roost queue``: list, pause and resume queues."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from roost import QueueInfo
from roost._client.admin_calls import PAUSE_TIMEOUT
from roost.cli.client import CommandClient
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Columns, examples, show, show_done
from roost.cli.times import parse_duration, shown_duration

app = typer.Typer(help="List, pause and resume queues.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The queue's name.", metavar="NAME")]


@app.command("list", epilog=examples("roost queue list", "roost queue list --json"))
def list_queues(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the queues with the number of their jobs.

    A number with a + has reached the limit up to which jobs are counted. OLDEST is how long the
    oldest job that can start has been due.
    """
    with CommandClient(dsn, "queue list") as client:
        queues = client.list_queues()
    show(queues, COLUMNS, as_json=as_json, empty="There is no queue: no job, worker or pause.")


@app.command(epilog=examples("roost queue pause mail", "roost queue pause mail --timeout 1m"))
def pause(
    name: Name,
    *,
    timeout: Annotated[
        Any,
        typer.Option(
            help=f"How long to wait until all workers have confirmed. Default: {PAUSE_TIMEOUT:g}s.",
            parser=parse_duration,
            metavar="DURATION",
            show_default=False,
        ),
    ] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Stop workers from starting jobs of a queue. Running jobs go on.

    Returns when all workers of the queue have confirmed. If one does not, it exits with 1 and names
    it; the queue stays paused.
    """
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else PAUSE_TIMEOUT
    with CommandClient(dsn, "queue pause") as client:
        client.pause_queue(name, timeout=seconds)
    show_done(f"paused   {name}", as_json=as_json, paused=name)


@app.command(epilog=examples("roost queue resume mail"))
def resume(name: Name, *, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Let workers start jobs of a paused queue again."""
    with CommandClient(dsn, "queue resume") as client:
        client.resume_queue(name)
    show_done(f"resumed  {name}", as_json=as_json, resumed=name)


def _count(name: str) -> Any:
    def cell(queue: QueueInfo) -> object:
        number: int = getattr(queue, name)
        return f"{number}+" if queue.capped and number >= _MANY else number

    return cell


_MANY = 1_000
"""The smallest limit up to which jobs are counted; see `QueueInfo`."""


COLUMNS: Columns[QueueInfo] = {
    "QUEUE": lambda queue: queue.name,
    "AVAILABLE": _count("available"),
    "RUNNING": _count("executing"),
    "SCHEDULED": _count("scheduled"),
    "RETRYABLE": _count("retryable"),
    "BLOCKED": _count("blocked"),
    "DISCARDED": _count("discarded"),
    "OLDEST": lambda queue: shown_duration(queue.oldest_due_seconds),
    "PAUSED SINCE": lambda queue: queue.paused_at,
}
