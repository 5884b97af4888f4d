"""All commands, `roost --version`, and the exit code of an error. Each command has its own file."""

from __future__ import annotations

import io
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, cast

import typer

from roost._interrupt import INTERRUPTED
from roost._model.version import roost_version
from roost.cli import cron, jobs, limits, queues, schema, tasks
from roost.cli.bench import EPILOG as BENCH_EPILOG
from roost.cli.bench import bench
from roost.cli.demo import demo
from roost.cli.dev import dev
from roost.cli.doctor import EPILOG as DOCTOR_EPILOG
from roost.cli.doctor import doctor
from roost.cli.enqueue import EPILOG as ENQUEUE_EPILOG
from roost.cli.enqueue import enqueue
from roost.cli.health import EPILOG as HEALTH_EPILOG
from roost.cli.health import health
from roost.cli.output import examples, print_error
from roost.cli.requeue import requeue
from roost.cli.run import run
from roost.cli.settings import Root
from roost.cli.status import status
from roost.cli.top import EPILOG as TOP_EPILOG
from roost.cli.top import top
from roost.cli.workers import workers
from roost.exceptions import InvalidJobError, InvalidSettingError, RoostError

RUN_EXAMPLES = examples(
    "roost run -m shop.tasks",
    "roost run -m shop.tasks -q web=8 -q bulk=2 --workers 2",
    "roost run -m shop.app:worker --reload",
)
WRONG_CALL = 2
DRIVERS = ("psycopg", "asyncpg")

# Older versions of typer use click, newer ones have a copy of it.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])

app = typer.Typer(
    name="roost",
    cls=Root,
    help="A background job queue for asyncio and trio whose only infrastructure is Postgres.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # joins the lines of a docstring's paragraph
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


app.command(epilog=RUN_EXAMPLES)(run)
app.command()(schema.init)
app.command()(demo)
app.command(epilog=examples("roost dev -m shop.tasks"))(dev)
app.command(epilog=DOCTOR_EPILOG)(doctor)
app.command(epilog=BENCH_EPILOG)(bench)
app.command(epilog=HEALTH_EPILOG)(health)
app.command(epilog=TOP_EPILOG)(top)
app.command(epilog=examples("roost status", "roost status --json"))(status)
app.command(epilog=ENQUEUE_EPILOG)(enqueue)
app.command(epilog=examples("roost requeue --discarded --queue mail"))(requeue)
app.command(epilog=examples("roost workers", "roost workers --json"))(workers)
app.add_typer(jobs.app, name="jobs")
app.add_typer(queues.app, name="queue")
app.add_typer(limits.app, name="limit")
app.add_typer(tasks.app, name="tasks")
app.add_typer(cron.app, name="cron")
app.add_typer(schema.migrate, name="migrate")


def main() -> None:
    """Run this process's command line and exit: 0 done, 1 not done, 2 wrong call, 130 Ctrl-C."""
    sys.exit(_run())


def _run() -> int:
    """Run the command line and return the exit code. An error is one line on stderr."""
    code = 1
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
    except BrokenPipeError:
        # As in `roost jobs list | head`. Python's exit would flush stdout again and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _print_usage(error: Exception) -> None:
    """Print what is wrong with the call, and where the right one is described."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return  # the help was printed
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]  # click's error
    context: typer.Context | None = error.ctx  # type: ignore[attr-defined]
    command = "roost" if context is None else context.command_path
    print_error(f"{message.rstrip('.')}. See `{command} --help`")
