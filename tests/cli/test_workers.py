"""`roost run --workers N` runs processes under a supervisor that restarts and stops them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from tests.support.conformance import cases
from tests.support.job_table import JobTable
from tests.support.processes import children, command_of, is_gone, worker_pids

from roost.cli.supervisor import LONGEST_DELAY, RESET_AFTER, Backoff
from roost.cli.worker_process import Ended

if TYPE_CHECKING:
    from typing import Protocol

    from tests.cli.conftest import Roost, StartsRoost

    class StartsWorkers(Protocol):
        def __call__(self, *options: str, grace: str = "600") -> Roost: ...


BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def workers(backend: str, dsn: str, tasks: Path, roost_command: StartsRoost) -> StartsWorkers:
    """Return a function that starts two worker processes and waits until both are ready."""

    def start(*options: str, grace: str = "600") -> Roost:
        run = roost_command(
            *("run", "-m", "tasks", "--workers", "2", "--backend", backend),
            *("--shutdown-timeout", grace, *options),
            ROOST_DSN=dsn,
        )
        run.wait_for("worker is ready", times=2)
        return run

    return start


def pids(run: Roost) -> list[int]:
    return worker_pids(run.output)


def until(condition: Callable[[], bool], run: Roost) -> None:
    try:
        cases.until(condition, within=60)
    except TimeoutError as error:
        error.add_note(run.output)
        raise


@BOTH
def test_each_process_runs_jobs_and_a_signal_stops_all(
    workers: StartsWorkers, table: JobTable, tasks: Path
) -> None:
    run = workers("--concurrency", "1")
    ids = [table.add("waits_for_file") for _ in range(2)]
    run.wait_for("job has started", times=2)
    assert len(table.workers()) == 2
    run.signal()
    run.wait_for("worker is stopping", times=2)
    (tasks / "go").touch()

    assert run.ends() == 0, run.output
    assert [table.get(job_id).state for job_id in ids] == ["completed"] * 2
    assert table.workers() == []
    assert all(map(is_gone, pids(run)))


@BOTH
def test_each_line_says_which_process_has_written_it(
    workers: StartsWorkers, table: JobTable
) -> None:
    run = workers("--log-json", "--concurrency", "1")
    run.signal()
    assert run.ends() == 0, run.output

    lines = [json.loads(line) for line in run.output.splitlines()]
    ready = [line for line in lines if line["message"].startswith("worker is ready")]
    assert {line["worker_process"] for line in ready} == {1, 2}
    started = {line["number"]: line["pid"] for line in lines if "pid" in line and "number" in line}
    for line in ready:
        assert line["worker"].endswith(f":{started[line['worker_process']]}")
    assert "worker_process" not in lines[0]  # the supervisor's


@BOTH
def test_a_signal_that_the_whole_process_group_gets_counts_once(
    workers: StartsWorkers, table: JobTable, tasks: Path
) -> None:
    # As a Ctrl-C in a terminal does, and systemd with its default KillMode.
    job_id = table.add("waits_for_file")
    run = workers()
    run.wait_for("job has started")
    for pid in [run.process.pid, *pids(run)]:
        os.kill(pid, signal.SIGINT)
    run.wait_for("signal received: SIGINT", times=3)
    run.wait_for("worker is stopping", times=2)
    until(lambda: len(table.workers()) == 1, run)
    (tasks / "go").touch()

    assert run.ends() == 0, run.output
    job = table.get(job_id)
    assert (job.state, job.attempt) == ("completed", 1)


@BOTH
def test_a_second_signal_ends_the_grace(workers: StartsWorkers, table: JobTable) -> None:
    job_id = table.add("for_ever")
    run = workers()
    run.wait_for("job has started")
    run.signal()
    run.wait_for("worker is stopping", times=2)
    run.signal()

    assert run.ends() == 0, run.output
    job = table.get(job_id)
    assert (job.state, job.attempt) == ("available", 0)


@BOTH
def test_a_third_signal_ends_the_processes(workers: StartsWorkers, table: JobTable) -> None:
    job_id = table.add("ignores_cancel")
    run = workers()
    run.wait_for("job has started")
    for count in range(1, 4):
        run.signal()
        run.wait_for("signal received", times=count)

    assert run.ends() == 1
    job = table.get(job_id)
    assert (job.state, job.attempt, job.errors) == ("available", 0, [])


@BOTH
def test_a_process_that_blocks_its_loop_gets_the_requests(
    workers: StartsWorkers, table: JobTable
) -> None:
    job_id = table.add("blocks_the_loop")
    run = workers()
    run.wait_for("job has started")
    for count in (1, 2):
        run.signal()
        run.wait_for("signal received", times=count)

    assert run.ends() == 1
    assert "the forced stop took too long" in run.output
    job = table.get(job_id)
    assert (job.state, job.attempt) == ("available", 0)


@BOTH
def test_a_killed_process_is_restarted(workers: StartsWorkers, table: JobTable) -> None:
    run = workers()
    victim = pids(run)[0]
    os.kill(victim, signal.SIGKILL)
    run.wait_for("worker is ready", times=3)

    assert re.search(
        rf"WARNING roost.cli: worker process \d \(pid {victim}\) ended by signal SIGKILL",
        run.output,
    )
    assert len(set(pids(run))) == 3
    run.signal()
    assert run.ends() == 0, run.output


@BOTH
def test_a_process_that_is_stopped_by_itself_is_replaced(
    workers: StartsWorkers, table: JobTable
) -> None:
    run = workers()
    os.kill(pids(run)[1], signal.SIGTERM)
    run.wait_for("worker is ready", times=3)
    assert "ended with exit code 0; restart in 1 s" in run.output
    run.signal()
    assert run.ends() == 0, run.output


@BOTH
def test_the_processes_stop_in_order_when_the_supervisor_is_killed(
    workers: StartsWorkers, table: JobTable
) -> None:
    ids = [table.add("for_ever") for _ in range(2)]
    run = workers("--concurrency", "1", grace="0.2")
    run.wait_for("job has started", times=2)
    run.signal(signal.SIGKILL)
    run.process.wait()

    until(lambda: all(map(is_gone, pids(run))), run)
    for job_id in ids:
        assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)
    assert table.workers() == []
    run.wait_for("the supervisor process is gone", times=2)


@BOTH
def test_a_process_that_does_not_stop_is_killed(workers: StartsWorkers, table: JobTable) -> None:
    run = workers()
    frozen = pids(run)[0]
    os.kill(frozen, signal.SIGSTOP)
    for count in range(1, 4):
        run.signal()
        run.wait_for("signal received", times=count)

    assert run.ends() == 1
    assert f"(pid {frozen}) has not stopped in time and is killed" in run.output
    assert is_gone(frozen)


SLOW_IMPORT = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n"


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_that_are_still_starting_end_too(
    number: signal.Signals, backend: str, tasks: Path, roost_command: StartsRoost
) -> None:
    (tasks / "slow.py").write_text(SLOW_IMPORT)
    run = roost_command(
        *("run", "-m", "slow", "--workers", "2", "--backend", backend), ROOST_DSN="postgresql:///x"
    )
    run.wait_for("importing", times=2)
    run.signal(number)
    assert run.ends() == (0 if number == signal.SIGTERM else -number)
    until(lambda: all(map(is_gone, pids(run))), run)


@BOTH
def test_a_wrong_call_ends_everything_with_2(
    backend: str, tasks: Path, roost_command: StartsRoost
) -> None:
    run = roost_command(
        *("run", "-m", "nowhere", "--workers", "3", "--backend", backend), ROOST_DSN="postgresql://"
    )
    assert run.ends() == 2
    assert run.output.count("can't import 'nowhere'") == 1
    assert run.output.count("roost: ") == 1
    assert len(pids(run)) == 3


@BOTH
def test_a_module_that_breaks_later_ends_no_other_process(
    workers: StartsWorkers, tasks: Path
) -> None:
    run = workers()
    (tasks / "tasks.py").write_text("raise ValueError('half deployed')")
    os.kill(pids(run)[0], signal.SIGKILL)
    run.wait_for("ended with exit code 2; restart in 2 s")
    assert "ValueError: half deployed" in run.output
    assert not is_gone(pids(run)[1])
    run.signal()
    assert run.ends() == 0, run.output


@BOTH
def test_processes_that_all_fail_at_start_are_reported_and_retried(
    backend: str, empty_dsn: str, tasks: Path, roost_command: StartsRoost
) -> None:
    run = roost_command(
        *("run", "-m", "tasks", "--workers", "2", "--backend", backend), ROOST_DSN=empty_dsn
    )
    run.wait_for("CRITICAL roost.cli: no worker runs: each of the 2 processes failed at its start")
    run.wait_for("restart in 2 s")
    run.signal()
    assert run.ends() == 0
    assert "run `roost init`" in run.output


def test_each_process_serves_its_health_on_a_port_of_its_own(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    with socket.socket() as found:  # and hope that the next port is free, too
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    run = roost_command(
        *("run", "-m", "tasks", "--workers", "2", "--http", f"127.0.0.1:{port}"), ROOST_DSN=dsn
    )
    run.wait_for("worker is ready", times=2)
    answers = [
        json.load(urlopen(f"http://127.0.0.1:{each}/livez", timeout=60))
        for each in (port, port + 1)
    ]
    assert sorted(answer["worker_id"] for answer in answers) == sorted(table.workers())
    run.signal()
    assert run.ends() == 0, run.output


@BOTH
def test_once_runs_the_available_jobs_in_several_processes(
    backend: str, dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    ids = [table.add("quick", args={"number": number}) for number in range(30)]
    run = roost_command(
        *("run", "-m", "tasks", "--workers", "2", "--once", "--backend", backend), ROOST_DSN=dsn
    )
    assert run.ends() == 0, run.output
    assert [table.get(job_id).result for job_id in ids] == list(range(1, 31))
    assert len(pids(run)) == 2


def can_be_first_process() -> bool:
    """Return whether this user may start a process with id 1, as in a container."""
    unshare = shutil.which("unshare")
    command = [unshare or "", "--pid", "--fork", "--mount-proc", "true"]
    return (
        bool(unshare) and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


LEAVES_A_ZOMBIE = """
import subprocess
import roost

@roost.job("orphan")
def orphan() -> str:
    # The shell ends before its child, which then belongs to the first process.
    subprocess.run(["sh", "-c", "sleep 0.1 &"], check=True)
    return "left"
"""


@BOTH
@pytest.mark.skipif(not can_be_first_process(), reason="needs the right to make a pid namespace")
def test_as_the_first_process_of_a_container_it_reaps_orphans_and_stops(
    backend: str, dsn: str, table: JobTable, tmp_path: Path
) -> None:
    (tmp_path / "leaves.py").write_text(LEAVES_A_ZOMBIE)
    job_id = table.add("orphan")
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
    command += ["-m", "roost", "run", "-m", "leaves", "--workers", "2", "--backend", backend]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "ROOST_DSN": dsn}, stderr=subprocess.PIPE
    ) as outside:
        try:
            cases.until(lambda: table.get(job_id).state == "completed", within=60)
            [first] = children(outside.pid)
            cases.until(lambda: "sleep" not in "".join(map(command_of, children(first))), within=60)
            assert len(children(first)) == 2
            os.kill(first, signal.SIGTERM)
            assert outside.wait(60) == 0
        finally:
            outside.kill()


def test_the_delay_doubles_and_begins_again_after_a_long_run() -> None:
    backoff = Backoff()
    assert [backoff.next_delay(None) for _ in range(4)] == [1, 2, 4, 8]
    assert backoff.next_delay(RESET_AFTER / 2) == 16
    assert backoff.next_delay(RESET_AFTER) == 1
    assert [backoff.next_delay(0.0) for _ in range(2000)][-1] == LONGEST_DELAY


@pytest.mark.parametrize(
    ("code", "ready_for", "killed", "in_order"),
    [
        (0, 9.0, False, True),
        (1, 9.0, False, False),
        (-signal.SIGTERM, 9.0, False, False),
        (-signal.SIGTERM, None, False, True),
        (1, None, False, True),
        (-signal.SIGKILL, None, True, False),
    ],
)
def test_a_worker_that_was_never_ready_loses_nothing_at_its_end(
    code: int, ready_for: float | None, killed: bool, in_order: bool
) -> None:
    assert Ended(1, code, ready_for, killed).in_order is in_order


@pytest.mark.parametrize("given", ["", "x", "99:1", "0:1", "5", "5:x"])
def test_the_internal_option_is_refused_from_others(
    given: str, tasks: Path, roost_command: StartsRoost
) -> None:
    run = roost_command("run", "-m", "tasks", "--supervised", given)
    assert run.ends() == 2
    assert "--supervised is for processes that `roost run` starts" in run.output
