"""A night shift: 20,000 jobs with five troubles, found and mended by the command line alone.

The script below reads `--json` only; the table is read once, at the end.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import JobInsert

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand, StartsRoost

TASKS = """
import pathlib

import anyio
import roost

HERE = pathlib.Path(__file__).parent


@roost.job("mail")
async def mail() -> None: ...


@roost.job("flaky")
async def flaky(job: roost.Job) -> None:
    if job.attempt == 1:
        raise ConnectionError("the mail server hung up")


@roost.job("poisoned", max_attempts=1)
async def poisoned() -> None:
    if not (HERE / "mended").exists():
        raise ValueError("no such column: nane")


@roost.job("report", max_concurrency=1)
async def report(stuck: bool = False) -> None:
    if stuck:
        await anyio.sleep_forever()


@roost.job("export")
async def export(job: roost.Job) -> None:
    if job.attempt == 1:
        await anyio.sleep_forever()
"""
LEASES = (
    *("--orphan-stale-after", "3", "--heartbeat-interval", "1"),
    *("--orphan-reaper-interval", "1"),
)
UNSAFE = ("--ignore", "settings")
"""The test's server is fast, not safe."""
JOBS = {"mail": 19_000, "flaky": 200, "poisoned": 300, "report": 21, "export": 4, "renamed": 100}
BILLING = 375
"""Jobs of the task mail in the queue billing, which is paused."""

Says = Callable[..., Any]


@pytest.fixture
def says(dsn: str, run_command: RunsCommand) -> Says:
    """Return a function that runs a command with ``--json`` and returns what it printed."""

    def run(*arguments: object, code: int | None = 0) -> Any:
        done = run_command(*arguments, "--json", ROOST_DSN=dsn)
        assert code is None or done.code == code, done
        return json.loads(done.out)

    return run


LOOK_INTERVAL = 0.5
"""Seconds between two commands that wait for something: each takes a core from the workers."""


def eventually(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` is true, long enough for a machine under load."""

    def look() -> object:
        seen = condition()
        if not seen:
            time.sleep(LOOK_INTERVAL)  # sleeps: see LOOK_INTERVAL
        return seen

    until(look, within=90.0)


def enqueue_all(table: JobTable) -> None:
    for task, number in JOBS.items():
        queue = "exports" if task == "export" else "mail"
        table.add_all([JobInsert(task, queue=queue, max_attempts=2)] * number)
    table.add_all([JobInsert("mail", queue="billing")] * BILLING)
    stuck = table.value("select min(id) from roost.jobs where task = 'report'")
    table.change(stuck, """args = '{"stuck": true}', priority = -1""")
    table.script("update roost.jobs set max_attempts = 1 where task = 'poisoned'")


def troubles(says: Says) -> dict[str, list[dict[str, Any]]]:
    """Return the troubles that the doctor finds, by check."""
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in says("doctor", *UNSAFE, code=None):
        if finding["level"] == "trouble":
            found.setdefault(finding["check"], []).append(finding)
    return found


def queue_named(says: Says, name: str) -> dict[str, Any]:
    [found] = [queue for queue in says("queue", "list") if queue["name"] == name]
    return dict(found)


def jobs_of(says: Says, task: str, state: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = says(
        *("jobs", "list", "--task", task, "--state", state, "--limit", 1_000)
    )
    return found


@pytest.mark.timeout(300)
def test_a_night_shift_by_the_command_line(
    dsn: str, table: JobTable, tmp_path: Path, roost_command: StartsRoost, says: Says
) -> None:
    (tmp_path / "night.py").write_text(TASKS)
    # A worker is killed while it runs four exports. No other one is there. It starts meanwhile.
    victim = roost_command(
        *("run", "-m", "night", "-q", "exports", "--concurrency", "4", *LEASES), ROOST_DSN=dsn
    )
    enqueue_all(table)
    says("queue", "pause", "billing")

    eventually(lambda: len(jobs_of(says, "export", "executing")) == 4)
    held = {worker["id"]: worker["executing"] for worker in says("workers")}
    assert list(held.values()) == [4]
    victim.signal(signal.SIGKILL)
    victim.ends()

    status = says("status")
    assert {queue["name"] for queue in status["queues"]} == {"mail", "billing", "exports"}
    assert [worker["id"] for worker in status["workers"]] == list(held)

    # The doctor finds the dead worker, and that none is left; its advice is to start one.
    eventually(lambda: "dead_workers" in troubles(says))
    found = troubles(says)
    [dead] = found["dead_workers"]
    assert (dead["data"]["id"] in held, dead["data"]["executing"]) == (True, 4)
    assert "start a worker" in dead["advice"]
    assert found["workers"][0]["seen"] == "no worker is running, and jobs are waiting"
    assert {trouble["subject"] for trouble in found["unserved_queues"]} == {"mail", "billing"}
    [orphan, *_] = jobs_of(says, "export", "executing")
    assert says("jobs", "why", orphan["id"])["reason"] == "worker_dead"
    worker = roost_command(
        *("run", "-m", "night", "-q", "mail", "-q", "billing", "-q", "exports"),
        *("--concurrency", "16", *LEASES),
        ROOST_DSN=dsn,
    )
    eventually(lambda: len(jobs_of(says, "export", "completed")) == 4)
    assert {job["errors"][0]["attempt"] for job in jobs_of(says, "export", "completed")} == {1}
    assert "dead_workers" not in troubles(says)

    # A queue is paused.
    billing = queue_named(says, "billing")
    assert (billing["available"], billing["paused_at"] is None) == (BILLING, False)
    [waiting] = says("jobs", "list", "--queue", "billing", "--limit", 1)
    assert says("jobs", "why", waiting["id"])["reason"] == "queue_paused"
    says("queue", "resume", "billing")
    eventually(lambda: queue_named(says, "billing")["available"] == 0)

    # A task is poisoned: its jobs fail for good. They run again when it is mended.
    eventually(lambda: queue_named(says, "mail")["discarded"] == JOBS["poisoned"])
    failed = says("jobs", "list", "--state", "discarded", "--limit", 1_000)
    assert Counter(job["task"] for job in failed) == {"poisoned": JOBS["poisoned"]}
    assert {job["errors"][0]["error"] for job in failed} == {"ValueError: no such column: nane"}
    (tmp_path / "mended").touch()
    requeued = says("requeue", "--discarded", "--task", "poisoned", "--yes")
    assert requeued == {"requeued": JOBS["poisoned"]}

    # A limit is full: one job holds it, and 20 wait.
    eventually(lambda: len(jobs_of(says, "report", "executing")) == 1)
    [report, *others] = jobs_of(says, "report", "available")
    assert len(others) == 19
    why = says("jobs", "why", report["id"])
    assert why["reason"] == "concurrency_limit"
    [holder] = why["data"]["executing_ids"]
    assert says("jobs", "show", holder)["args"] == {"stuck": True}
    says("jobs", "cancel", holder)
    eventually(lambda: len(jobs_of(says, "report", "completed")) == 20)

    # A task was renamed, and no worker knows the old name.
    eventually(lambda: queue_named(says, "mail")["retryable"] == 0)
    eventually(lambda: len(jobs_of(says, "poisoned", "completed")) == JOBS["poisoned"])
    found = troubles(says)
    assert set(found) == {"unknown_tasks"}
    [unknown] = found["unknown_tasks"]
    assert (unknown["subject"], unknown["data"]["jobs"]) == ("renamed", JOBS["renamed"])
    deleted = says("jobs", "delete", "--task", "renamed", "--yes")
    assert deleted == {"deleted": JOBS["renamed"]}

    # The morning: nothing waits, and the doctor has nothing to say.
    eventually(lambda: all(not queue["executing"] for queue in says("queue", "list")))
    assert all(
        queue[state] == 0
        for queue in says("queue", "list")
        for state in ("available", "scheduled", "retryable", "blocked", "discarded")
    )
    assert troubles(says) == {}
    assert not [finding for finding in says("doctor", *UNSAFE) if finding["level"] != "ok"]
    worker.signal()
    assert worker.ends() == 0
    total = sum(JOBS.values()) + BILLING
    assert total == 20_000
    assert table.states() == {"completed": total - JOBS["renamed"] - 1, "cancelled": 1}
