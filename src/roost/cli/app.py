"""All commands, `roost --version`, and the exit code of an error. Each command has its own file."""

from __future__ import annotations

import errno
import io
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, cast

import typer

from roost._interrupt import INTERRUPTED
from roost._model.version import roost_version
from roost.cli.lazy import MARKUP, LazyCommand, LazyGroup
from roost.cli.output import print_error
from roost.cli.settings import Root
from roost.exceptions import InvalidJobError, InvalidSettingError, RoostError

WRONG_CALL = 2
DRIVERS = ("psycopg", "asyncpg")

# Older versions of typer use click, newer ones have a copy of it.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])

COMMANDS = {
    "run": LazyCommand("run:run", "Run a worker until a signal stops it."),
    "init": LazyCommand(
        "schema:init",
        "Create Roost's schema or bring it up to date. Safe to repeat and to run several at once.",
    ),
    "demo": LazyCommand(
        "demo:demo", "Run jobs, kill their worker in the middle, and check that none was lost."
    ),
    "dev": LazyCommand(
        "dev:dev", "Run a worker for development, with a Postgres of its own and without a DSN."
    ),
    "doctor": LazyCommand(
        "doctor:doctor",
        "Examine the database, the workers and the queues. Exit with 1 if there is trouble.",
    ),
    "bench": LazyCommand(
        "bench:bench",
        "Measure this database and machine: enqueue, run, and the time from enqueue to start.",
    ),
    "health": LazyCommand(
        "health:health",
        "Check a worker, for probes that run a command. Exit codes: 0 healthy, 1 not, 2 wrong "
        "call.",
    ),
    "top": LazyCommand(
        "top:top", "Show the queues, the running jobs and the newest failures, live."
    ),
    "status": LazyCommand(
        "status:status",
        "Show the queues, the workers, and how many attempts ended in the last minute, hour and "
        "day.",
    ),
    "enqueue": LazyCommand("enqueue:enqueue", "Enqueue a job."),
    "requeue": LazyCommand(
        "requeue:requeue",
        "Make all discarded jobs available again, of a queue or a task, after counting and asking.",
    ),
    "workers": LazyCommand("workers:workers", "List the workers, as of their last heartbeat."),
    "jobs": LazyCommand("jobs:app", "List, show, explain, retry, cancel and delete jobs."),
    "queue": LazyCommand("queues:app", "List, pause and resume queues."),
    "limit": LazyCommand("limits:app", "List, set and clear the limits of tasks."),
    "tasks": LazyCommand("tasks:app", "List tasks, or export what they take."),
    "cron": LazyCommand("cron:app", "List, add, remove, pause, resume and run cron entries."),
    "migrate": LazyCommand("schema:migrate", "Apply, undo, list and print migrations."),
}
"""All commands, in the order of the help. A module is imported when its command is invoked."""


class _Commands(LazyGroup, Root):
    table = COMMANDS


app = typer.Typer(
    name="roost",
    cls=_Commands,
    help="A background job queue for asyncio and trio whose only infrastructure is Postgres.",
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    # Rich tracebacks show the values of variables, such as a DSN with its password.
    pretty_exceptions_enable=False,
)


def _print_versions(wanted: bool) -> None:
    if not wanted:
        return
    typer.echo(f"roost {roost_version()}")
    typer.echo(f"{platform.python_implementation()} {platform.python_version()}")
    for driver in DRIVERS:
        try:
            typer.echo(f"{driver} {version(driver)}")
        except PackageNotFoundError:
            continue
    raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_versions,
            help="Print the versions of Roost, Python and the database drivers, and exit.",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run this process's command line and exit: 0 done, 1 not done, 2 wrong call, 130 Ctrl-C."""
    sys.exit(_run())


def _run() -> int:
    """Run the command line and return the exit code. An error is one line on stderr."""
    code = 1
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # its encoding may lack a sign
    try:
        answer = app(prog_name="roost", standalone_mode=False)
        sys.stdout.flush()
        code = answer if isinstance(answer, int) else 0  # an int is the code of a `typer.Exit`
    except RoostError as error:
        wrong_call = isinstance(error, (InvalidJobError, InvalidSettingError))
        # Postgres's messages have several lines. A wrong call's may show code, so it keeps them.
        print_error(str(error) if wrong_call else " ".join(str(error).split()))
        code = WRONG_CALL if wrong_call else 1
    except _UsageError as error:
        _print_usage(error)
        code = WRONG_CALL
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.Abort as abort:
        if isinstance(abort.__cause__ or abort.__context__, KeyboardInterrupt):
            code = INTERRUPTED
        else:
            print_error("nothing was changed")
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        if error.errno == errno.ENOSPC:
            print_error(f"can't write: {error.strerror}")
        # Else as in `roost jobs list | head`. Python's exit would flush stdout again and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _open_closed_streams() -> None:
    """Replace standard streams that the caller has closed, as in ``<&-``: Python has None there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(nothing, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _print_usage(error: Exception) -> None:
    """Print what is wrong with the call, and where the right one is described."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return  # the help was printed
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]  # click's error
    message = message.replace(": Value error, ", ": ")  # pydantic's, which typer uses
    context: typer.Context | None = error.ctx  # type: ignore[attr-defined]
    command = "roost" if context is None else context.command_path
    print_error(f"{message.rstrip('.')}. See `{command} --help`")
