"""``roost run``: run a worker as a process."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import nullcontext
from functools import partial
from typing import Annotated, Any

import anyio
import attrs
import typer

from roost import RoostError, Worker, WorkerSettings
from roost._drivers import psycopg_sync
from roost._drivers.base import run_sync
from roost._interrupt import INTERRUPTED
from roost._model.logs import StructuredLogger
from roost._worker.forced_exit import hand_back
from roost._worker.worker import override
from roost.cli.backend import check_backend, run_on
from roost.cli.http import check_ports, listen
from roost.cli.logs import configure
from roost.cli.modules import Application, load
from roost.cli.options import (
    Backend,
    ChosenBackend,
    ChosenDriver,
    Dsn,
    LogLevel,
    parse_queues,
    passed,
    resolve_dsn,
    takes_worker_settings,
)
from roost.cli.otel import instrument, warn_without_sdk
from roost.cli.output import examples
from roost.cli.processes import check_processes, run_processes
from roost.cli.settings_log import log_settings
from roost.cli.shutdown import Watchdog, exit_with, handle_signals
from roost.cli.supervised import SupervisorLink
from roost.web import probes, serving_on

logger = StructuredLogger("roost.cli")

EPILOG = examples(
    "roost run -m shop.tasks",
    "roost run -m shop.tasks -q web=8 -q bulk=2 --workers 2",
    "roost run -m shop.app:worker --reload",
)

DEFAULT_QUEUES: list[str] = [*(attrs.fields(WorkerSettings).queues.default or ())]


@takes_worker_settings
def run(
    *,
    context: typer.Context,
    module: Annotated[
        list[str],
        typer.Option(
            "--module",
            "-m",
            help="A module with tasks, importable from the current folder; repeat it for several. "
            "package.module:name names a HandlerRegistry, a Worker or WorkerSettings of your own; "
            "options that are passed override what a worker or settings say.",
        ),
    ],
    queue: Annotated[
        list[str],
        typer.Option(
            "--queue",
            "-q",
            help="A queue to serve; repeat it for several. web=8 gives a queue slots of its own: "
            "at most 8 of its jobs run at once.",
        ),
    ] = DEFAULT_QUEUES,
    dsn: Dsn = None,
    backend: ChosenBackend = Backend.ASYNCIO,
    uvloop: Annotated[
        bool, typer.Option("--uvloop/--no-uvloop", help="Use uvloop, on asyncio.")
    ] = False,
    driver: ChosenDriver = None,
    once: Annotated[
        bool, typer.Option("--once", help="Run the jobs that are available now, then exit.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=1,
            help="Worker processes to run. With 2 or more, this process only starts them, passes "
            "signals on, and restarts a process that ends by itself.",
        ),
    ] = 1,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload/--no-reload",
            help="For development: start the worker anew when a .py file changes in the folders of "
            "the modules.",
        ),
    ] = False,
    log_level: Annotated[
        LogLevel, typer.Option(help="The lowest level of log messages to show.")
    ] = LogLevel.INFO,
    log_json: Annotated[
        bool | None,
        typer.Option(
            "--log-json/--no-log-json",
            help="Log JSON, one line a message, or readable lines. Default: readable lines if "
            "stderr is a terminal, else JSON.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="HOST:PORT",
            help="Serve /livez and /readyz there, for probes, and /metrics, for Prometheus. :8080 "
            "listens on all interfaces, port 0 on a free port. With --workers, the second process "
            "listens on the next port, and so on. Needs the extras http and, for metrics, "
            "prometheus.",
            show_default=False,
        ),
    ] = None,
    otel: Annotated[
        bool,
        typer.Option(
            "--otel/--no-otel",
            help="Trace and measure jobs by OpenTelemetry (the extra otel). Configure its SDK in "
            "the module, or start the command by opentelemetry-instrument.",
        ),
    ] = False,
    supervised: Annotated[str | None, typer.Option("--supervised", hidden=True)] = None,
    **settings: Any,
) -> None:
    """Run a worker until a signal stops it.

    The first SIGTERM, SIGINT or SIGHUP stops it. Running jobs get --shutdown-timeout; jobs that
    still run after it are interrupted and released, and their attempt does not count. If a job
    can't be interrupted, it is released too, and the process exits. A second signal ends the
    timeout at once, and a third exits the process. Exit codes: 0 after a stop, 1 after a crash, 2
    for wrong usage, 130 after a Ctrl-C before the worker started. With --once the code is 0 even
    if jobs failed; a message says how many did.

    With --workers, worker processes end when this process ends, even when it is killed. The code is
    1 if one of them did not stop in order.
    """
    # For the time before the worker starts. A container's first process has no default handlers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(INTERRUPTED))
    supervisor = None if supervised is None else SupervisorLink.open(supervised)
    check_backend(backend, uvloop=uvloop, driver=driver)
    check_processes(workers=workers, reload=reload, once=once)
    number = supervisor.number if supervisor is not None and workers > 1 else None
    configure(log_level, as_json=log_json, worker_process=number)
    if supervisor is None and (reload or workers > 1):
        if http is not None:
            check_ports(http, workers=workers)
        run_processes(backend, modules=module, workers=workers, reload=reload, once=once)
    if otel:
        instrument()
    with nullcontext() if supervisor is None else supervisor.reporting_wrong_calls():
        changes = passed(context, settings)
        if passed(context, {"queue": queue}):
            changes["queues"] = parse_queues(queue)
        application = load(module)
        worker = _worker(application, dsn=dsn, driver=driver, **changes)
        log_settings(context, worker, application, modules=module)
        if supervisor is not None:
            supervisor.tell_grace(worker.settings.shutdown_timeout)
        process = 1 if supervisor is None else supervisor.number
        listening = None if http is None else listen(http, process=process)
    if otel:
        warn_without_sdk()
    watchdog = Watchdog(partial(_hand_back, worker))
    crash: BaseException | None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # event loops handle this one
    try:
        crash = run_on(
            backend,
            partial(
                _work,
                worker,
                watchdog=watchdog,
                supervisor=supervisor,
                once=once,
                listening=listening,
            ),
            uvloop=uvloop,
        )
    except KeyboardInterrupt:  # it came before the event loop handled signals
        sys.exit(INTERRUPTED)
    except SystemExit:
        raise
    except BaseException as error:
        logger.critical("the event loop ended: %(error)s", exc_info=error, error=str(error))
        crash = error
    if crash is not None:
        typer.echo(f"roost: the worker crashed: {type(crash).__name__}: {crash}", err=True)
    exit_with(0 if crash is None else 1, watchdog, at_once=worker.abandoned_work() is not None)


def _worker(
    application: Application, *, dsn: str | None, driver: str | None, **settings: Any
) -> Worker:
    """Return the application's own worker, or a new one, with the settings that were passed."""
    registry = application.registry
    match application.worker:
        case Worker() as worker:
            override(worker, dsn=dsn, registry=registry, driver=driver, **settings)
            return worker
        case WorkerSettings() as base:
            settings = attrs.asdict(base, recurse=False) | settings
        case None:
            pass
    return Worker(resolve_dsn(dsn), registry=registry, driver=driver, **settings)


def _hand_back(worker: Worker) -> None:
    """Release the jobs that still run, so that their attempt doesn't count.

    Called immediately before the process exits.
    """
    if (work := worker.abandoned_work()) is None:
        return
    try:
        with (
            psycopg_sync.connect(worker.dsn, application_name="roost forced exit") as connection,
            connection.transaction(),
        ):
            run_sync(connection, hand_back(work))
    except RoostError as error:
        logger.error("jobs not released; a rescue will run them: %(error)s", error=str(error))


async def _work(
    worker: Worker,
    *,
    watchdog: Watchdog,
    supervisor: SupervisorLink | None,
    once: bool,
    listening: socket.socket | None,
) -> Exception | None:
    """Run the worker until it stops. Return the error that it crashed with, if it did.

    :param listening: where to serve its health and metrics meanwhile; ``None``: nowhere.
    """
    served = nullcontext() if listening is None else serving_on(listening, probes(worker))
    stop_requested = False

    def stop() -> None:
        nonlocal stop_requested
        stop_requested = True
        worker.request_stop()

    async with served, anyio.create_task_group() as group:
        group.start_soon(
            partial(
                handle_signals,
                stop,
                watchdog=watchdog,
                grace=worker.settings.shutdown_timeout,
                supervisor=supervisor,
            )
        )
        try:
            if once:
                if supervisor is not None:
                    supervisor.started()
                jobs = await worker.run_once()
                report = logger.warning if worker.failed or stop_requested else logger.info
                end = "stopped, jobs may be left" if stop_requested else "no more jobs"
                report(
                    "%(end)s: %(jobs)d have run, %(failed)d of them failed",
                    end=end,
                    jobs=jobs,
                    failed=worker.failed,
                )
            elif supervisor is not None:
                await worker.run(task_status=supervisor)
            else:
                await worker.run()
        except Exception as error:  # noqa: BLE001  (any error ends this process)
            return error
        finally:
            group.cancel_scope.cancel()
    return None
