"""``roost init`` and ``roost migrate``: the schema of a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from roost._drivers import psycopg_sync
from roost._drivers.base import run_sync
from roost._drivers.redact import redact
from roost._ops import schema
from roost._sql import Migration
from roost.cli.options import Dsn, resolve_dsn
from roost.cli.output import AsJson, Columns, Yes, confirm, examples, print_json, show, show_done
from roost.exceptions import InvalidSettingError

migrate = typer.Typer(help="Apply, undo, list and print migrations.", no_args_is_help=True)


def init(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Create Roost's schema or bring it up to date. Safe to repeat and to run several at once."""
    _up(resolve_dsn(dsn), as_json=as_json)


@migrate.command()
def up(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Apply all missing migrations, in one transaction."""
    _up(resolve_dsn(dsn), as_json=as_json)


@migrate.command()
def down(
    *,
    to: Annotated[
        int,
        typer.Option("--to", min=0, help="The version to go back to; 0 removes all of Roost."),
    ],
    yes: Yes = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Undo all migrations above a version, newest first, in one transaction. Their data is lost."""
    address = resolve_dsn(dsn)
    with psycopg_sync.connect(address, application_name="roost migrate") as connection:
        steps = run_sync(connection, schema.status())
        undone = [step for step in steps if step.applied and step.version > to]
        if not undone:
            nothing = f"Nothing to undo: no migration above {to} is applied."
            show_done(nothing, as_json=as_json, undone=[])
            return
        names = ", ".join(f"{step.version:04} {step.name}" for step in reversed(undone))
        what = "This removes every job" if to == 0 else "What they added is lost"
        confirm(f"Undo {names} in {redact(address)}? {what}.", yes=yes)
        with connection.transaction():
            reverted = run_sync(connection, schema.revert(to=to), timeout=schema.MIGRATION_TIMEOUT)
        _report("undone", reverted, as_json=as_json)


@migrate.command(epilog=examples("roost migrate status", "roost migrate status --json"))
def status(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the migrations, and whether each is applied. Exits with 1 if one is missing."""
    with psycopg_sync.connect(resolve_dsn(dsn), application_name="roost migrate") as connection:
        steps = run_sync(connection, schema.status())
    show(steps, _COLUMNS, as_json=as_json, empty="There is no migration.")
    if not all(step.applied for step in steps):
        raise typer.Exit(1)


@migrate.command()
def sql(
    *,
    above: Annotated[
        int,
        typer.Option("--above", min=0, help="The version that the database has; 0: none."),
    ] = 0,
    down_to: Annotated[
        int | None,
        typer.Option(
            "--down-to", min=0, help="Print how to go back to this version; 0 removes all."
        ),
    ] = None,
) -> None:
    """Print the migrations as SQL, for an administrator who runs it with psql. Connects to nothing.

    The SQL is one transaction. Run it with "psql -v ON_ERROR_STOP=1 -f FILE".
    """
    if down_to is None:
        typer.echo(schema.script(above=above), nl=False)
    elif above:
        raise InvalidSettingError("--above and --down-to can't be combined")
    else:
        typer.echo(schema.revert_script(to=down_to), nl=False)


_COLUMNS: Columns[schema.Step] = {
    "VERSION": lambda step: f"{step.version:04}",
    "NAME": lambda step: step.name,
    "STATE": lambda step: "applied" if step.applied else "missing",
    "OF": lambda step: "this Roost" if step.known else "a newer Roost",
}


def _up(dsn: str, *, as_json: bool) -> None:
    with (
        psycopg_sync.connect(dsn, application_name="roost migrate") as connection,
        connection.transaction(),
    ):
        applied = run_sync(connection, schema.apply(), timeout=schema.MIGRATION_TIMEOUT)
    if applied or as_json:
        _report("applied", applied, as_json=as_json)
    else:
        typer.echo(f"Nothing to do: the schema has version {schema.newest()}.")


def _report(done: str, steps: Sequence[Migration], *, as_json: bool) -> None:
    lines = [f"{done:<7}  {step.version:04} {step.name}" for step in steps]
    if as_json:
        print_json({done: [step.version for step in steps]})
    else:
        typer.echo("\n".join(lines))
