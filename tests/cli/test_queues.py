"""`roost queue`, `roost workers`, `roost tasks` and `roost requeue`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.job_table import JobTable

from roost import QueueInfo, TaskInfo, WorkerInfo

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand, StartsRoost


def names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def test_queues_are_listed_with_their_jobs(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    assert run_command("queue", "list", "--dsn", dsn).out == (
        "There is no queue: no job, worker or pause.\n"
    )
    for _ in range(3):
        table.change(table.add(queue="mail"), "scheduled_at = now() - interval '90 minutes'")
    table.change(table.add(queue="post"), "state = 'discarded', discarded_at = now()")
    [mail, post] = run_command("queue", "list", "--dsn", dsn).rows
    assert mail == ["mail", "3", "0", "0", "0", "0", "0", "1h30m", "-"]
    assert post == ["post", "0", "0", "0", "0", "0", "1", "-", "-"]
    found = run_command("queue", "list", "--json", "--dsn", dsn).json
    assert [list(queue) for queue in found] == [names(QueueInfo)] * 2
    assert [queue["available"] for queue in found] == [3, 0]


def test_a_queue_is_paused_and_resumed(dsn: str, table: JobTable, run_command: RunsCommand) -> None:
    assert run_command("queue", "pause", "mail", "--dsn", dsn).out == "paused   mail\n"
    since = table.value("select paused_at from roost.queues where name = 'mail'")
    [[*_, shown]] = run_command("queue", "list", "--dsn", dsn).rows
    assert shown == f"{since:%Y-%m-%dT%H:%M:%SZ}"
    assert run_command("queue", "resume", "mail", "--json", "--dsn", dsn).json == {
        "resumed": "mail"
    }
    assert table.value("select count(paused_at) from roost.queues") == 0
    assert "There is no queue" in run_command("queue", "list", "--dsn", dsn).out
    done = run_command("queue", "pause", " ", "--dsn", dsn)
    assert done.code == 2


def test_a_pause_that_a_worker_does_not_confirm_is_not_done(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    table.add_worker(queues=["mail"])
    done = run_command("queue", "pause", "mail", "--timeout", "0.1", "--dsn", dsn)
    assert done.code == 1
    assert "is paused, but these workers have not confirmed it within 0.1 s" in done.err


def test_a_worker_without_heartbeats_is_shown_as_silent_and_then_as_dead(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    table.add_worker("living")
    table.script(f"update roost.workers set expires_at = now() where id = {table.add_worker()}")
    table.script(
        "update roost.workers set heartbeat_interval = 15, "
        f"heartbeat_at = now() - interval '1 minute' where id = {table.add_worker('killed')}"
    )
    assert [row[1:3] for row in run_command("workers", "--dsn", dsn).rows] == [
        ["living", "alive"],
        ["tester", "dead"],
        ["killed", "silent"],
    ]
    assert "dead" in run_command("status", "--dsn", dsn).out


def test_workers_and_tasks_are_listed(
    dsn: str, table: JobTable, tmp_path: Path, roost_command: StartsRoost, run_command: RunsCommand
) -> None:
    assert "start one with `roost run`" in run_command("workers", "--dsn", dsn).out
    assert "no worker has started yet" in run_command("tasks", "list", "--dsn", dsn).out
    (tmp_path / "of_shop.py").write_text(
        "import roost\n"
        "@roost.job('send', queue='mail', rate_per_minute=6, max_concurrency=2)\n"
        "async def send(to: str, copies: int = 1): ...\n"
    )
    worker = roost_command("run", "-m", "of_shop", "-q", "mail", "-q", "post", ROOST_DSN=dsn)
    worker.wait_for("worker is ready")
    [row] = run_command("workers", "--dsn", dsn).rows
    assert row[2:6] == ["alive", "mail,post", "0/4", "0"]
    [found] = run_command("workers", "--json", "--dsn", dsn).json
    assert list(found) == names(WorkerInfo)
    assert (found["tasks"], found["pid"]) == (["send"], worker.process.pid)

    assert run_command("tasks", "list", "--dsn", dsn).rows == [
        ["send", "1", "mail", "2 at once, 6 a minute", "to*,copies"]
    ]
    [task] = run_command("tasks", "list", "--json", "--dsn", dsn).json
    assert list(task) == names(TaskInfo)

    exported = roost_command("tasks", "export", "-m", "of_shop", "--json")  # connects to nothing
    assert exported.ends() == 0, exported.output
    manifest = json.loads(exported.output)
    assert list(manifest) == ["roost", "tasks"]
    [declared] = manifest["tasks"]
    assert declared == {name: task[name] for name in declared}
    assert declared["args_schema"]["required"] == ["to"]
    worker.signal()
    assert worker.ends() == 0


def discarded(table: JobTable, **fields: object) -> int:
    job_id = table.add(**fields)  # type: ignore[arg-type]  # columns of a job
    table.change(job_id, "state = 'discarded', discarded_at = now(), attempt = 1")
    return job_id


def test_discarded_jobs_are_requeued(dsn: str, table: JobTable, run_command: RunsCommand) -> None:
    wanted = discarded(table, queue="mail")
    other = discarded(table)
    requeue = ["requeue", "--discarded", "--queue", "mail", "--dsn", dsn]
    done = run_command(*requeue)
    assert (done.code, done.err) == (
        2,
        "roost: Requeue 1 job? No terminal can answer: pass --yes\n",
    )
    done = run_command(*requeue, "--yes")
    assert (done.code, done.out) == (0, "requeued 1 job\n")
    assert (table.get(wanted).state, table.get(other).state) == ("available", "discarded")
    done = run_command("requeue", "--discarded", "--task", "work", "--yes", "--json", "--dsn", dsn)
    assert done.json == {"requeued": 1}


@pytest.mark.parametrize("options", [[], ["--yes"]])
def test_what_is_requeued_must_be_said(
    options: list[str], dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    discarded(table)
    done = run_command("requeue", *options, "--dsn", dsn)
    assert (done.code, done.err) == (
        2,
        "roost: pass --discarded: it is what `roost requeue` requeues\n",
    )
    assert table.states() == {"discarded": 1}


@pytest.mark.parametrize(
    "arguments",
    [["queue", "list"], ["workers"], ["tasks", "list"], ["jobs", "list"], ["jobs", "show", "1"]],
)
def test_a_database_without_the_schema_says_what_to_do(
    arguments: list[str], empty_dsn: str, run_command: RunsCommand
) -> None:
    done = run_command(*arguments, "--dsn", empty_dsn)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "roost init" in done.err


def test_a_database_that_can_not_be_reached_is_one_line(run_command: RunsCommand) -> None:
    done = run_command("queue", "list", "--dsn", "postgresql://me:secret@127.0.0.1:1/none")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "secret" not in done.err
