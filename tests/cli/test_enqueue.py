"""`roost enqueue` inserts a job, and waits for its end if asked."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.job_table import JobTable

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand, StartsRoost


def test_the_options_are_the_columns_of_the_job(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    parent = table.add()
    done = run_command(
        *("enqueue", "send", "--args", '{"to": "Zoë"}', "--queue", "mail", "--priority", "-5"),
        *("--max-attempts", "3", "--timeout-seconds", "9", "--unique-key", "k", "--tag", "a"),
        *("--tag", "b", "--metadata", '{"trace": 1}', "--depends-on", parent, "--json"),
        *("--at", "2036-06-01T12:00+02:00", "--dsn", dsn),
    )
    assert done.json == {"job_id": parent + 1, "task": "send"}
    job = table.get(parent + 1)
    assert (job.task, job.args, job.queue, job.priority) == ("send", {"to": "Zoë"}, "mail", -5)
    assert (job.max_attempts, job.timeout_seconds, job.unique_key) == (3, 9, "k")
    assert (job.tags, job.metadata, job.depends_on) == (["a", "b"], {"trace": 1}, [parent])
    assert job.scheduled_at.isoformat() == "2036-06-01T10:00:00+00:00"


def test_a_delay_counts_from_now_by_the_database(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    done = run_command("enqueue", "send", "--in", "1h30m", "--dsn", dsn)
    assert (done.code, done.out) == (0, "enqueued send as job 1\n")
    delay = "select extract(epoch from scheduled_at - inserted_at)::int from roost.jobs"
    assert table.value(delay) == 5_400


@pytest.mark.parametrize("given", ["-", "@args.json"])
def test_args_come_from_the_input_or_a_file(
    given: str, dsn: str, table: JobTable, tmp_path: Path, run_command: RunsCommand
) -> None:
    (tmp_path / "args.json").write_text('{"day": 1}')
    done = run_command("enqueue", "send", "--args", given, "--dsn", dsn, stdin='{"day": 1}')
    assert done.code == 0, done.err
    assert table.get(1).args == {"day": 1}


def test_a_taken_key_is_an_error_unless_the_call_says_what_to_do(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    table.add("send", unique_key="k")
    enqueue = ["enqueue", "send", "--unique-key", "k", "--dsn", dsn]
    done = run_command(*enqueue)
    assert (done.code, done.out) == (1, "")
    assert "job 1 is active with unique_key 'k'" in done.err
    assert run_command(*enqueue, "--on-conflict", "return").out == "enqueued send as job 1\n"
    replace = (*enqueue, "--on-conflict", "replace", "--args", '{"day": 2}')
    assert run_command(*replace).out == "enqueued send as job 1\n"
    assert table.get(1).args == {"day": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--args [1]", "--args must be a JSON object, not [1]"),
        ("--args {", "--args is not JSON"),
        (f"--args {'[' * 99_999}", "--args is nested too deeply"),
        ("--args @nowhere.json", "can't read nowhere.json of --args"),
        ("--args - --metadata -", "can't both come from the input"),
        ("--metadata 1", "--metadata must be a JSON object"),
        ("--in 5x", "'5x' is no duration: write 90 (seconds), 5m, 1h30m or 2d"),
        ("--at noon", "'noon' is no time"),
        ("--in 5m --at 2036-06-01", "--in and --at exclude each other"),
        ("--timeout 5", "--timeout is for --wait"),
        ("--max-attempts 0", "max_attempts must be"),
        ("--on-conflict return", "needs a unique_key"),
        ("--on-conflict skip", "Invalid value for '--on-conflict'"),
    ],
)
def test_a_wrong_call_enqueues_nothing(
    options: str, message: str, dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    done = run_command("enqueue", "send", *options.split(), "--dsn", dsn)
    assert done.code == 2, done.err
    assert message in done.err
    assert done.err.count("\n") == 1
    assert table.states() == {}


def test_an_unknown_parent_is_not_done(dsn: str, table: JobTable, run_command: RunsCommand) -> None:
    done = run_command("enqueue", "send", "--depends-on", 7, "--dsn", dsn)
    assert done.code == 1
    assert table.states() == {}


MODULE = """
import roost

@roost.job("greet", queue="hello", max_attempts=1, tags=["polite"])
async def greet(name: str) -> str:
    if not name:
        raise ValueError("nobody")
    return f"hello {name}"
"""


def test_a_module_has_the_defaults_of_its_tasks(
    dsn: str, table: JobTable, tmp_path: Path, roost_command: StartsRoost
) -> None:
    (tmp_path / "greetings.py").write_text(MODULE)
    done = roost_command("enqueue", "greet", "-m", "greetings", ROOST_DSN=dsn)
    assert done.ends() == 0, done.output
    job = table.get(1)
    assert (job.queue, job.max_attempts, job.tags) == ("hello", 1, ["polite"])
    done = roost_command("enqueue", "great", "-m", "greetings", ROOST_DSN=dsn)
    assert done.ends() == 2
    assert done.output == "roost: the modules have no task 'great'; they have greet\n"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_wait_ends_as_the_job_does(
    backend: str, dsn: str, table: JobTable, tmp_path: Path, roost_command: StartsRoost
) -> None:
    (tmp_path / "greetings.py").write_text(MODULE)
    enqueue = ["enqueue", "greet", "-q", "hello", "--max-attempts", "1", "--wait"]
    worker = roost_command(
        *("run", "-m", "greetings", "-q", "hello", "--backend", backend), ROOST_DSN=dsn
    )
    good = roost_command(*enqueue, "--args", '{"name": "Ada"}', ROOST_DSN=dsn)
    bad = roost_command(*enqueue, "--args", '{"name": ""}', "--json", ROOST_DSN=dsn)
    assert good.ends() == 0, good.output
    assert '"hello Ada"\n' in good.output
    assert bad.ends() == 1
    found, _ = json.JSONDecoder().raw_decode(bad.output[bad.output.index("{") :])
    assert (found["state"], found["result"]) == ("discarded", None)
    assert found["errors"][0]["error"] == "ValueError: nobody"
    assert f"job {found['job_id']} was discarded: ValueError: nobody" in bad.output
    worker.signal()
    assert worker.ends() == 0


def test_a_wait_has_a_timeout(dsn: str, table: JobTable, run_command: RunsCommand) -> None:
    done = run_command("enqueue", "send", "--wait", "--timeout", "0.1", "--dsn", dsn)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        "enqueued send as job 1",
        "roost: job 1 has not ended within 0.1 s",
    ]
    assert table.states() == {"available": 1}


def test_a_ctrl_c_ends_the_wait_and_leaves_the_job(
    dsn: str, table: JobTable, roost_command: StartsRoost
) -> None:
    waiting = roost_command("enqueue", "send", "--wait", ROOST_DSN=dsn)
    waiting.wait_for("enqueued send as job 1")
    waiting.signal(signal.SIGINT)
    assert waiting.ends() == 130
    assert waiting.output == "enqueued send as job 1\n"
    assert table.states() == {"available": 1}
