"""``roost limit``: list, set and clear the limits of tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from roost import InvalidSettingError, LimitInfo
from roost.cli.client import CommandClient
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Columns, examples, fail, show, show_done

app = typer.Typer(help="List, set and clear the limits of tasks.", no_args_is_help=True)

Task = Annotated[str, typer.Argument(help="The registered name of the task.", metavar="TASK")]


@app.command("list", epilog=examples("roost limit list", "roost limit list --json"))
def list_limits(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the limits that apply, and how much of each is in use.

    STARTED counts the starts of the last minute. SOURCE is code if @job declares the limits, and
    set if one was set for all workers.
    """
    with CommandClient(dsn, "limit list") as client:
        limits = client.list_limits()
    show(limits, COLUMNS, as_json=as_json, empty="No task has a limit.")


@app.command(
    "set",
    epilog=examples(
        "roost limit set sync --max-concurrency 2",
        "roost limit set sync --rate-per-minute 600",
    ),
)
def set_limit(
    task: Task,
    *,
    max_concurrency: Annotated[
        int | None,
        typer.Option(help="The most jobs that run at once, of all workers.", show_default=False),
    ] = None,
    rate_per_minute: Annotated[
        int | None,
        typer.Option(help="The most starts in a minute, of all workers.", show_default=False),
    ] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Set limits of a task at once, without a deploy. They apply instead of those of the code.

    What is not passed stays as it is.
    """
    if max_concurrency is None and rate_per_minute is None:
        raise InvalidSettingError("pass --max-concurrency, --rate-per-minute or both")
    with CommandClient(dsn, "limit set") as client:
        client.set_limit(task, max_concurrency=max_concurrency, rate_per_minute=rate_per_minute)
    show_done(f"limited  {task}", as_json=as_json, limited=task)


@app.command("clear", epilog=examples("roost limit clear sync"))
def clear_limit(task: Task, *, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Remove the limits that were set. Those that the code declares apply again."""
    with CommandClient(dsn, "limit clear") as client:
        if not client.clear_limit(task):
            fail(f"no limit was set for the task {task!r}")
    show_done(f"cleared  {task}", as_json=as_json, cleared=task)


def _source(limit: LimitInfo) -> str:
    is_set = limit.set_max_concurrency is not None or limit.set_rate_per_minute is not None
    return "set" if is_set else "code"


COLUMNS: Columns[LimitInfo] = {
    "TASK": lambda limit: limit.task,
    "RUNNING": lambda limit: limit.executing,
    "AT ONCE": lambda limit: limit.max_concurrency,
    "STARTED": lambda limit: limit.started,
    "A MINUTE": lambda limit: limit.rate_per_minute,
    "FOR EACH": lambda limit: limit.limit_by,
    "SOURCE": _source,
}
