"""A handler in a process ends when its worker is stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.job_table import JobTable

if TYPE_CHECKING:
    from tests.cli.conftest import Roost, StartsRoost

pytestmark = pytest.mark.parametrize("backend", ["asyncio", "asyncio --uvloop", "trio"])

TASKS = """
import json, os, pathlib, subprocess, sys, time
import roost

HERE = pathlib.Path(__file__).parent

@roost.job("works", run_in="process", max_attempts=5)
def works():
    nap = "import time; time.sleep(600)"  # sleeps: until it is ended
    program = subprocess.Popen([sys.executable, "-c", nap])
    print("pids", json.dumps([os.getpid(), program.pid]), flush=True)
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return "in time"
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def start(
    roost_command: StartsRoost, backend: str, dsn: str, *options: str
) -> tuple[Roost, list[int]]:
    """Start a worker; when its job runs, return it with the pids of the job and of its program."""
    run = roost_command(
        "run",
        *("-m", "tasks", "--backend", *backend.split(), "--shutdown-timeout", "600"),
        *options,
        ROOST_DSN=dsn,
    )
    run.wait_for("pids [")
    [line] = [line for line in run.output.splitlines() if line.startswith("pids ")]
    return run, json.loads(line.removeprefix("pids "))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_does_not_shorten_its_grace(
    backend: str,
    tasks: Path,
    dsn: str,
    table: JobTable,
    roost_command: StartsRoost,
    number: signal.Signals,
) -> None:
    job_id = table.add("works")
    run, (pid, _) = start(roost_command, backend, dsn)
    os.kill(pid, number)  # as systemd and a terminal do
    run.signal(number)
    run.wait_for("worker is stopping")
    assert os.getsid(pid) != os.getsid(run.process.pid)
    (tasks / "go").touch()
    assert run.ends() == 0
    ended = table.get(job_id)
    assert (ended.state, ended.result) == ("completed", "in time")


def test_it_dies_with_a_killed_worker(
    backend: str, tasks: Path, dsn: str, table: JobTable, roost_command: StartsRoost
) -> None:
    table.add("works")
    run, pids = start(roost_command, backend, dsn)
    run.signal(signal.SIGKILL)
    assert run.ends() == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "an orphan goes on"
        time.sleep(0.01)


def test_it_is_killed_when_the_lease_of_its_stopped_worker_ends(
    backend: str, tasks: Path, dsn: str, table: JobTable, roost_command: StartsRoost
) -> None:
    table.add("works")
    lease = ("--orphan-stale-after", "5", "--heartbeat-interval", "0.5")
    run, pids = start(roost_command, backend, dsn, *lease)
    began = time.monotonic()
    while time.monotonic() < began + 6:
        assert not gone(pids[0]), run.output  # while the lease is renewed
        time.sleep(0.05)
    run.signal(signal.SIGSTOP)
    left = table.value("select extract(epoch from expires_at - now()) from roost.workers")
    deadline = time.monotonic() + float(left)
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "it goes on while others may run the job"
        time.sleep(0.01)
    run.signal(signal.SIGKILL)
    run.signal(signal.SIGCONT)
