"""The command ``roost demo``: its options, its database, and what it prints."""

from __future__ import annotations

import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from roost.cli.options import Backend, ChosenBackend

if TYPE_CHECKING:
    from roost.cli.demo.scenario import Outcome

DELETE_JOBS = """
do $$ begin
    if to_regclass('roost.jobs') is not null then
        delete from roost.jobs where queue = '{}';
    end if;
end $$
"""


def demo(
    *,
    backend: ChosenBackend = Backend.ASYNCIO,
    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn",
            help="A database to use. The demo adds a queue and a table, and removes both. Default: "
            "a new database on an embedded Postgres in .roost/pg, dropped at the end.",
        ),
    ] = None,
) -> None:
    """Run jobs, kill their worker in the middle, and check that none was lost.

    Each job counts the lines of one of Roost's own files, and a last job adds up the counts. A
    worker is killed while it runs some of them; a second worker rescues these and finishes. Exits
    with 1 if a job was lost, finished twice, or counted wrongly.
    """
    import anyio

    from roost.cli.backend import check_backend, run_on
    from roost.cli.demo.check import find_faults, rescued
    from roost.cli.demo.scenario import play
    from roost.cli.logs import configure
    from roost.cli.options import LogLevel

    async def play_until_signal(dsn: str, queue: str) -> Outcome | None:
        outcome = None
        async with anyio.create_task_group() as group:

            async def stop_at_signal() -> None:
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
                    async for _ in received:
                        group.cancel_scope.cancel()
                        return

            group.start_soon(stop_at_signal)
            outcome = await play(dsn, queue, backend, typer.echo)
            group.cancel_scope.cancel()
        return outcome

    check_backend(backend)
    configure(LogLevel.ERROR, as_json=False)
    # Outside the event loop, too, a SIGTERM removes what the demo made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    name = f"roost_demo_{uuid.uuid4().hex[:12]}"
    with _database(dsn, name) as address:
        typer.echo(f"Event loop: {backend.value}.")
        outcome = run_on(backend, partial(play_until_signal, address, name))
    if outcome is None:
        raise typer.Exit(130)
    faults = find_faults(outcome)
    for fault in faults[:20]:
        typer.echo(f"roost: wrong: {fault}", err=True)
    if faults:
        typer.echo(f"roost: the demo failed: {len(faults)} faults", err=True)
        raise typer.Exit(1)
    [total] = [row.result for row in outcome.rows if row.id == outcome.total]
    typer.echo(
        f"\n{len(outcome.rows)} jobs completed, {len(rescued(outcome))} of them in a second "
        f"attempt. {total:,} lines, as a plain loop counts them.\n"
        "No job was lost, and none finished twice."
    )


@contextmanager
def _database(dsn: str | None, name: str) -> Iterator[str]:
    """Yield the DSN of the database to use, and remove afterwards what the demo made."""
    from roost import embedded

    if dsn is not None:
        typer.echo(f"Database: the one of --dsn, with a queue and a table {name}.")
        try:
            yield dsn
        finally:
            _run(dsn, f'drop table if exists "{name}"')
            _run(dsn, DELETE_JOBS.format(name))
        return
    with embedded.server() as server:
        typer.echo(f"Database: {name}, on an embedded Postgres {server.version}.")
        _run(server.dsn, f'create database "{name}"')
        try:
            yield server.dsn_for(name)
        finally:
            _run(server.dsn, f'drop database "{name}" with (force)')


def _run(dsn: str, script: str) -> None:
    from roost._drivers import psycopg_sync
    from roost._ops.query import Query
    from roost._sql import Statement

    with psycopg_sync.connect(dsn, application_name="roost demo") as connection:
        connection.fetch(Query(Statement("demo", script, script=True)))
