"""Run the command as a process, and read its output while it runs."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol, Self

import attrs
import pytest

from roost.cli import main

STEP_TIMEOUT = 60.0
"""Seconds to wait for a step that takes less than one second on an idle machine."""

TASKS = """
import pathlib
import threading

import anyio
import roost

HERE = pathlib.Path(__file__).parent


@roost.job("quick")
async def quick(number: int = 0) -> int:
    return number + 1


@roost.job("waits_for_file")
async def waits_for_file() -> str:
    print("job has started", flush=True)
    while not (HERE / "go").exists():
        await anyio.sleep(0.01)  # sleeps: polls for a file of the test
    return "file found"


@roost.job("for_ever")
async def for_ever() -> None:
    print("job has started", flush=True)
    await anyio.sleep_forever()


@roost.job("ignores_cancel")
async def ignores_cancel() -> None:
    print("job has started", flush=True)
    while True:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass


@roost.job("stuck_thread")
def stuck_thread() -> None:
    print("job has started", flush=True)
    threading.Event().wait()  # a handler that can't be ended


@roost.job("blocks_the_loop")
async def blocks_the_loop() -> None:
    print("job has started", flush=True)
    threading.Event().wait()  # a handler that can't be ended
"""


class Roost:
    """One process of ``python -m roost``."""

    def __init__(
        self, arguments: tuple[str, ...], *, folder: Path, env: dict[str, str], terminal: bool
    ) -> None:
        self._lines: list[str] = []
        self._news = threading.Condition()
        ours, theirs = os.openpty() if terminal else (None, None)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "roost", *arguments],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if theirs is None else theirs,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._output = self.process.stdout
        if ours is not None and theirs is not None:
            os.close(theirs)
            self._output = os.fdopen(ours, encoding="utf-8", errors="replace")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self._output is not None
        self._output.close()

    @property
    def output(self) -> str:
        """The output to stdout and stderr until now."""
        return "".join(self._lines)

    def wait_for(self, text: str, *, times: int = 1) -> None:
        """Wait until ``text`` has been printed ``times`` times."""
        deadline = time.monotonic() + STEP_TIMEOUT
        with self._news:
            while self.output.count(text) < times:
                if not self._news.wait(deadline - time.monotonic()) or self._over():
                    assert self.output.count(text) >= times, f"no {text!r} in:\n{self.output}"

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal. The system may merge two equal signals into one."""
        self.process.send_signal(number)

    def ends(self) -> int:
        """Wait for the end and return the exit code."""
        try:
            code = self.process.wait(STEP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {STEP_TIMEOUT} s:\n{self.output}")
        self._reader.join()
        return code

    def _over(self) -> bool:
        return not self._reader.is_alive()

    def _read(self) -> None:
        assert self._output is not None
        with suppress(OSError):  # a terminal's end without a process at its other one
            for line in self._output:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()


class StartsRoost(Protocol):
    def __call__(self, *arguments: str, terminal: bool = False, **variables: str) -> Roost: ...


@pytest.fixture
def roost_command(tmp_path: Path) -> Iterator[StartsRoost]:
    """Return a function that starts the command in the test's folder; it ends with the test.

    With ``terminal`` its output is a terminal.
    Keywords are environment variables; a DSN of this process's environment is not passed on.
    """
    with ExitStack() as started:

        def start(*arguments: str, terminal: bool = False, **variables: str) -> Roost:
            env = {k: v for k, v in os.environ.items() if k not in ("ROOST_DSN", "DATABASE_URL")}
            env |= {"COLUMNS": "200", "NO_COLOR": "1", "ROOST_LOG_JSON": "0", **variables}
            process = Roost(arguments, folder=tmp_path, env=env, terminal=terminal)
            return started.enter_context(process)

        yield start


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Return the test's folder, with a module ``tasks`` in it."""
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


@attrs.frozen
class Done:
    """What a command has printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output as JSON."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The cells of the output's lines, without the headings."""
        return [re.split(r" {2,}", line.strip()) for line in self.out.splitlines()[1:]]


class RunsCommand(Protocol):
    def __call__(self, *arguments: object, stdin: str = "", **variables: str) -> Done: ...


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> RunsCommand:
    """Return a function that runs the command in this process, since a new one takes a second.

    Keywords are environment variables; those of this process with ``ROOST_`` are not passed on.
    """
    for name in os.environ:
        if name.startswith("ROOST_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: str = "", **variables: str) -> Done:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["roost", *map(str, arguments)])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            capfd.readouterr()
            with pytest.raises(SystemExit) as stop:
                main()
        said = capfd.readouterr()
        return Done(int(stop.value.code or 0), said.out, said.err)

    return run
