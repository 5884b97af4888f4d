"""The command ``roost demo`` and its options. What it takes to run is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roost.cli.options import Backend, ChosenBackend


def demo(
    *,
    path: Annotated[
        Path | None,
        typer.Option(help="The folder to index. Default: the sources and docs of this project."),
    ] = None,
    backend: ChosenBackend = Backend.ASYNCIO,
    concurrency: Annotated[
        int | None, typer.Option(help="How many jobs run at once. Default: as roost run.")
    ] = None,
    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn",
            help="A database to use, in a queue of the demo's own. Default: a fresh database of an "
            "embedded Postgres in .roost/pg, dropped afterwards.",
        ),
    ] = None,
) -> None:
    """Index a folder tree with real jobs, and check every count without them.

    Each file is a job, and so is each folder. Some files can't be indexed and are tried again; one
    enqueue is rolled back on purpose; a last job sums up. Exits with 1 if a count is wrong.
    """
    from roost.cli.demo.staging import stage

    stage(path=path, backend=backend, concurrency=concurrency, dsn=dsn)
