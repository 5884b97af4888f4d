"""The command ``roost bench``: options, the question before it, and its output."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import anyio
import typer
from anyio.abc import TaskStatus

from roost._interrupt import INTERRUPTED
from roost.cli.backend import check_backend, run_on
from roost.cli.bench.measure import Figures, Plan, Report, measure
from roost.cli.client import CommandClient
from roost.cli.options import Backend, ChosenBackend, ChosenDriver, Dsn, resolve_dsn
from roost.cli.output import AsJson, Yes, confirm, examples, print_error, print_json
from roost.cli.shutdown import stop_signals
from roost.exceptions import InvalidSettingError

EPILOG = examples("roost bench", "roost bench --concurrency 64 --backend trio --json")
SHORTEST, LONGEST = 1.0, 600.0


def bench(
    *,
    seconds: Annotated[float, typer.Option(help="About how long it measures, 1 to 600.")] = 20.0,
    concurrency: Annotated[
        int, typer.Option(help="The most jobs that the worker runs at once, ≥ 1.")
    ] = 32,
    backend: ChosenBackend = Backend.ASYNCIO,
    driver: ChosenDriver = None,
    yes: Yes = False,
    as_json: AsJson = False,
    dsn: Dsn = None,
) -> None:
    """Measure this database and machine: enqueue, run, and the time from enqueue to start.

    It uses a queue of its own, one worker in this process and jobs that do nothing, and removes
    its jobs afterwards, also after Ctrl-C. It keeps the database busy: other workers get slower, so
    it asks first if there are any. The figures are those of one run: compare runs on one machine
    only. It needs the rights of a producer and a worker that deletes jobs, or the schema's owner.
    """
    if not SHORTEST <= seconds <= LONGEST:
        raise InvalidSettingError(f"--seconds must be from 1 to 600, not {seconds:g}")
    if concurrency < 1:
        raise InvalidSettingError(f"--concurrency must be at least 1, not {concurrency}")
    check_backend(backend, driver=driver)
    _ask_if_in_use(dsn, yes=yes)
    plan = Plan(
        dsn=resolve_dsn(dsn),
        driver=None if driver is None else driver.value,
        backend=backend.value,
        concurrency=concurrency,
        seconds=seconds,
    )
    report = (lambda _: None) if as_json else typer.echo
    figures = run_on(backend, partial(_measure_until_signal, plan, report))
    if figures is None:
        print_error("interrupted; the jobs are removed")
        raise typer.Exit(INTERRUPTED)
    if as_json:
        print_json(figures)


def _ask_if_in_use(dsn: str | None, *, yes: bool) -> None:
    """Ask whether to go on if workers run.

    :raises InvalidSettingError: they do, and no terminal can answer.
    """
    with CommandClient(dsn, "bench") as client:
        now = datetime.now(UTC)
        workers = [worker for worker in client.list_workers() if worker.expires_at > now]
    if workers:
        names = ", ".join(worker.name for worker in workers[:3])
        confirm(
            f"Workers use this database ({len(workers)}: {names}). They get slower, and the "
            "figures get worse. Measure?",
            yes=yes,
        )


async def _measure_until_signal(plan: Plan, report: Report) -> Figures | None:
    """Measure; ``None``: a signal has ended it."""
    figures = None
    measuring = anyio.CancelScope()
    async with anyio.create_task_group() as group:

        async def watch(*, task_status: TaskStatus[None]) -> None:
            # To the end: a second Ctrl-C must not interrupt the removal of the jobs.
            with anyio.open_signal_receiver(*stop_signals()) as received:
                task_status.started()
                async for _ in received:
                    measuring.cancel()

        await group.start(watch)
        with measuring:
            figures = await measure(plan, report)
        group.cancel_scope.cancel()
    return figures
