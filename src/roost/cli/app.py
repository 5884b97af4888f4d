"""All commands, and the exit code of an error. Each command has a file beside this one."""

from __future__ import annotations

import sys

import typer

from roost.cli import cron, schema
from roost.cli.demo import demo
from roost.cli.run import run
from roost.exceptions import InvalidSettingError, RoostError

app = typer.Typer(
    name="roost",
    help="A background job queue for asyncio and trio whose only infrastructure is Postgres.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # joins the lines of a docstring's paragraph
    # Rich tracebacks show the values of variables, such as a DSN with its password.
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(schema.init)
app.command()(demo)
app.add_typer(cron.app, name="cron")
app.add_typer(schema.migrate, name="migrate")


def main() -> None:
    """Run this process's command line and exit: 0 success, 1 failure, 2 wrong usage."""
    try:
        app(prog_name="roost")
    except RoostError as error:
        typer.echo(f"roost: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidSettingError) else 1)
