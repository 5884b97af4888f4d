"""Run worker processes instead of a worker: ``roost run`` with ``--workers`` or ``--reload``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from roost._interrupt import INTERRUPTED
from roost.cli.backend import run_on
from roost.cli.options import Backend
from roost.cli.reload import Reloader, check_reload, module_folders
from roost.cli.shutdown import SIGNALS
from roost.cli.supervisor import Supervisor
from roost.cli.worker_process import same_command
from roost.exceptions import InvalidSettingError


def check_processes(*, workers: int, reload: bool, once: bool) -> None:
    """Check the options that choose the processes of ``roost run``.

    :raises InvalidSettingError: they exclude each other, or a package is missing.
    """
    if not reload:
        return
    for option, given in (("--workers", workers > 1), ("--once", once)):
        if given:
            raise InvalidSettingError(f"--reload and {option} exclude each other: choose one")
    check_reload()


def run_processes(
    backend: Backend, *, modules: Sequence[str], workers: int, reload: bool, once: bool
) -> NoReturn:
    """Run this command's worker in other processes, and exit when they have ended."""
    command = same_command(*sys.argv[1:])
    if reload:
        exit_after(backend, Reloader(command, module_folders(modules)).run)
    exit_after(backend, Supervisor(command, workers=workers, once=once).run)


def exit_after(backend: Backend, main: Callable[[], Awaitable[int]]) -> NoReturn:
    """Run ``main`` on an event loop and exit with the code that it returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # event loops handle this one
    try:
        code = run_on(backend, main)
    except KeyboardInterrupt:  # it came before the event loop handled signals
        code = INTERRUPTED
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a late signal must not change the exit code
    sys.exit(code)
