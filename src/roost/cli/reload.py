"""Run one worker process, and start it anew when a file of the user's modules changes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost.cli.output import print_error
from roost.cli.shutdown import stop_signals
from roost.cli.worker_process import WorkerProcess
from roost.exceptions import InvalidSettingError

logger = StructuredLogger("roost.cli")

RELOAD_GRACE = 3.0
"""Seconds that running jobs get at a reload, or --shutdown-timeout if that is less."""
IGNORED = frozenset({"__pycache__", "node_modules", "site-packages"})
"""Names of folders whose files are not watched, besides those that begin with a dot."""


def check_reload() -> None:
    """Check that the package that watches files is installed.

    :raises InvalidSettingError: it is not.
    """
    if find_spec("watchfiles") is None:
        raise InvalidSettingError("watchfiles is not installed: pip install 'anyroost[reload]'")


def module_folders(names: Iterable[str]) -> list[Path]:
    """Return the folders of the modules of ``-m``: that of a package, else that of the file.

    They are not imported, because a module may be broken now and right after the next change.
    """
    found: set[Path] = set()
    for name in names:
        spec = _find(name.partition(":")[0].partition(".")[0])
        if spec is not None and spec.submodule_search_locations:
            found.update(map(Path, spec.submodule_search_locations))
        elif spec is not None and spec.has_location and spec.origin:
            found.add(Path(spec.origin).parent)
        else:
            found.add(Path.cwd())
    resolved = {folder.resolve() for folder in found}
    return sorted(each for each in resolved if not resolved.intersection(each.parents))


def _find(top: str) -> ModuleSpec | None:
    before = sys.path[:]
    sys.path.insert(0, str(Path.cwd()))  # as the worker does
    try:
        return find_spec(top)
    except (ImportError, ValueError):  # no such module, or not the name of one
        return None
    finally:
        sys.path[:] = before


class ChangeFilter:
    """Whether a changed file matters: ``.py`` files, but not those of virtual environments."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = frozenset(folders)

    def __call__(self, _change: object, path: str) -> bool:
        """Return whether the file at ``path`` is one of the user's modules."""
        file = Path(path)
        if file.suffix != ".py":
            return False
        for folder in file.parents:
            if folder in self._folders:
                return True
            if folder.name in IGNORED or folder.name.startswith("."):
                return False
            if (folder / "pyvenv.cfg").exists():
                return False
        return True


class Reloader:
    """Keeps a worker process running, and starts it anew when a file in ``folders`` changes."""

    def __init__(
        self,
        command: Sequence[str],
        folders: Sequence[Path],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = command
        self._folders = folders
        self._environment = environment
        self._process: WorkerProcess | None = None
        self._stopping = False
        self._changed = anyio.Event()

    async def run(self) -> int:
        """Run until a signal stops it, and return the exit code."""
        logger.info(
            "the worker starts anew at a change of a .py file in %(folders)s",
            folders=list(map(str, self._folders)),
        )
        async with anyio.create_task_group() as group:
            await group.start(self._handle_signals)  # before there is a process
            group.start_soon(self._watch)
            code = await self._run_again_and_again()
            group.cancel_scope.cancel()
        return code

    async def _run_again_and_again(self) -> int:
        while True:
            self._changed = anyio.Event()
            self._process = WorkerProcess(self._command, number=1, environment=self._environment)
            ended = await self._process.run()
            if ended.error is not None:
                print_error(ended.error)
            if self._stopping:
                return int(not ended.in_order)
            if not self._changed.is_set():
                logger.warning(
                    "the worker ended %(how)s; it starts anew at the next change", how=ended.how
                )
            await self._changed.wait()
            if self._stopping:
                return 0

    async def _handle_signals(self, *, task_status: TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(*stop_signals()) as received:
            task_status.started()
            async for number in received:
                logger.info("signal received: %(signal)s", signal=signal.Signals(number).name)
                self._stopping = True
                self._changed.set()
                if self._process is not None:
                    self._process.request_stop()

    async def _watch(self) -> None:
        try:
            await self._restart_at_changes()
        except OSError as error:  # for example the system's limit of watched folders
            logger.critical(
                "files can't be watched, so changes are not noticed: %(error)s", error=str(error)
            )

    async def _restart_at_changes(self) -> None:
        from watchfiles import awatch

        async for files in awatch(*self._folders, watch_filter=ChangeFilter(self._folders)):
            names = sorted({Path(name).name for _, name in files})
            logger.info("changed: %(files)s", files=names)
            self._changed.set()
            if self._process is not None:
                await self._stop(self._process)

    async def _stop(self, process: WorkerProcess) -> None:
        process.request_stop()
        with anyio.move_on_after(RELOAD_GRACE):
            await process.ended.wait()
        if not process.ended.is_set():
            process.request_stop()
