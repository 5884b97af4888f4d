"""``roost dev``: an embedded Postgres and a worker that starts anew at changes, in one command."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import typer

from roost._drivers import psycopg_sync
from roost._drivers.base import run_sync
from roost._interrupt import INTERRUPTED
from roost._ops import schema
from roost.cli.backend import check_backend
from roost.cli.dev_database import DATA_DIR
from roost.cli.logs import configure
from roost.cli.options import DSN_VARIABLES, takes_options_of
from roost.cli.output import examples, print_warning
from roost.cli.processes import exit_after
from roost.cli.reload import Reloader, check_reload, module_folders
from roost.cli.run import run
from roost.cli.shutdown import stop_signals
from roost.cli.worker_process import same_command
from roost.embedded import Server, server

EPILOG = examples("roost dev -m shop.tasks")


@takes_options_of(run, without={"dsn", "once", "workers", "reload", "supervised"})
def dev(**options: Any) -> None:
    """Run a worker for development, with a Postgres of its own and without a DSN.

    Starts an embedded Postgres with the data folder .roost/pg in the current folder, creates
    Roost's schema, and runs a worker that starts anew when a .py file of its modules changes. While
    this runs, other roost commands in this folder and below it find the database by themselves. A
    signal ends the worker and the Postgres; the data stays. Needs
    pip install 'anyroost[embedded,reload]'.
    """
    for number in stop_signals():
        code = INTERRUPTED if number == signal.SIGINT else 0
        signal.signal(number, lambda *_, code=code: sys.exit(code))
    check_backend(options["backend"], uvloop=options["uvloop"], driver=options["driver"])
    check_reload()
    configure(options["log_level"], as_json=options["log_json"])
    folders = module_folders(options["module"])
    with server(DATA_DIR) as postgres:
        _create_schema(postgres.dsn)
        _introduce(postgres)
        arguments = sys.argv[sys.argv.index("dev") + 1 :]
        command = same_command("run", *arguments, "--dsn", postgres.dsn)
        environment = {**os.environ, "ROOST_DSN": postgres.dsn}
        # Its exit leaves the block, so Postgres is stopped, while signals are ignored.
        exit_after(options["backend"], Reloader(command, folders, environment=environment).run)


def _create_schema(dsn: str) -> None:
    with (
        psycopg_sync.connect(dsn, application_name="roost dev") as connection,
        connection.transaction(),
    ):
        run_sync(connection, schema.apply(), timeout=schema.MIGRATION_TIMEOUT)


def _introduce(postgres: Server) -> None:
    """Print the DSN, and what to do next."""
    typer.echo(
        f"Postgres {postgres.version} runs, with its data in {postgres.data_dir}\n"
        f"  DSN: {postgres.dsn}\n"
        "In this folder, other commands find it by themselves. In another terminal, try:\n"
        "  roost status\n"
        "  roost enqueue TASK --args '{}'\n"
        "In your own program, pass the DSN to AsyncRoost or Roost.\n"
        "Ctrl-C ends the worker and this Postgres."
    )
    sys.stdout.flush()
    for name in filter(os.environ.get, DSN_VARIABLES):
        print_warning(f"{name} is set: other commands use that database, and not this one")
