"""The command's tree and its way out. Each command is a file of its own beside this one."""

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
    rich_markup_mode="markdown",  # so that the lines of a docstring's paragraph are joined
    # Its tracebacks show the values of variables, and a DSN may be one of them.
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(schema.init)
app.command()(demo)
app.add_typer(cron.app, name="cron")
app.add_typer(schema.migrate, name="migrate")


def main() -> None:
    """Run the command line of this process and exit: 0 done, 1 failed, 2 asked wrongly."""
    try:
        app(prog_name="roost")
    except RoostError as error:
        typer.echo(f"roost: {error}", err=True)
        sys.exit(2 if isinstance(error, InvalidSettingError) else 1)
