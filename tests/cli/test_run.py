"""`roost run` runs the tasks of modules in the current folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from tests.support.job_table import JobTable

from roost import WorkerSettings
from roost.cli.options import PYTHON_ONLY

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

LOOPS = [["--backend", "asyncio"], ["--backend", "asyncio", "--uvloop"], ["--backend", "trio"]]


@pytest.mark.parametrize("loop", LOOPS, ids=" ".join)
def test_it_runs_the_jobs_of_a_module_in_the_current_folder(
    loop: list[str], dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    before = table.add("waits_for_file", queue="mail")
    other = table.add("quick", queue="other")
    run = roost_command("run", "-m", "tasks", "-q", "mail", "-q", "post", *loop, ROOST_DSN=dsn)
    run.wait_for("job has started")
    while_running = table.add("quick", args={"number": 7}, queue="post")
    (tasks / "go").touch()

    wait_until_ended(table, before, while_running)

    run.signal()
    assert run.ends() == 0
    assert table.get(before).result == "file found"
    assert table.get(while_running).result == 8
    assert table.get(other).state == "available"
    assert table.workers() == []


def test_once_runs_the_available_jobs_and_exits(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    ids = [table.add("quick", args={"number": number}) for number in range(5)]

    run = roost_command("run", "-m", "tasks", "--once", "--dsn", dsn)

    assert run.ends() == 0
    assert "no more jobs: 5 have run, 0 of them failed" in run.output
    assert [table.get(job_id).result for job_id in ids] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [(["0"], False), (["completed=0", "discarded=9"], False), (["completed=9"], True)],
)
def test_completed_jobs_are_kept_as_long_as_the_options_say(
    seconds: list[str],
    kept: bool,
    dsn: str,
    table: JobTable,
    tasks: Path,
    roost_command: StartsRoost,
) -> None:
    table.add("quick")
    options = [
        f"--{verb}-after-seconds={text}" for verb in ("delete", "archive") for text in seconds
    ]

    run = roost_command("run", "-m", "tasks", "--once", "--dsn", dsn, *options)

    assert run.ends() == 0, run.output
    assert table.states() == ({"completed": 1} if kept else {})


@pytest.mark.parametrize(
    ("options", "concurrency"), [("", 3), ("--concurrency 2", 2), ("--concurrency 4", 4)]
)
def test_queues_get_slots_of_their_own(
    options: str,
    concurrency: int,
    dsn: str,
    table: JobTable,
    tasks: Path,
    roost_command: StartsRoost,
) -> None:
    queues = ["-q", "mail=2", "-q", "post=1"]
    run = roost_command("run", "-m", "tasks", *queues, *options.split(), "--dsn", dsn)
    run.wait_for("worker is ready")
    [row] = table.rows("select queues, concurrency from roost.workers")
    assert row == (["mail", "post"], concurrency)
    run.signal()
    assert run.ends() == 0


def test_once_says_how_many_jobs_failed(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    table.add("quick", args={"number": 1})
    table.add("quick", args={"number": "text"}, max_attempts=1)
    table.add("quick", args={"number": "text"}, max_attempts=5)
    run = roost_command("run", "-m", "tasks", "--once", "--dsn", dsn)
    assert run.ends() == 0
    assert "WARNING roost.cli: no more jobs: 3 have run, 2 of them failed" in run.output


def test_once_that_is_stopped_does_not_say_that_no_job_is_left(
    tasks: Path, roost_command: StartsRoost
) -> None:
    run = roost_command("run", "-m", "tasks", "--once", "--dsn", "postgresql://127.0.0.1:1/nowhere")
    run.wait_for("database unavailable at start")
    run.signal()
    assert run.ends() == 0
    assert "stopped, jobs may be left: 0 have run" in run.output
    assert "no more jobs" not in run.output


INTERRUPTS_ITSELF = """
import os, signal, sys
class AtImport:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ.get("INTERRUPT_AT"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, AtImport())
"""


@pytest.mark.parametrize(
    "module",
    ["roost._client", "attrs", "roost.cli", "typer", "tasks", "anyio._backends._asyncio"],
)
def test_a_ctrl_c_while_it_starts_ends_it_without_a_traceback(
    module: str, dsn: str, tasks: Path, roost_command: StartsRoost
) -> None:
    (tasks / "site").mkdir()
    (tasks / "site" / "sitecustomize.py").write_text(INTERRUPTS_ITSELF)
    run = roost_command(
        *("run", "-m", "tasks", "--dsn", dsn), PYTHONPATH=str(tasks / "site"), INTERRUPT_AT=module
    )
    assert run.ends() == 130
    # It may have logged what it runs with.
    assert [line for line in run.output.splitlines() if "runs modules tasks" not in line] == []


def test_importing_the_library_leaves_signals_alone(tmp_path: Path) -> None:
    code = (
        "import signal, roost, roost.cli\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("optimize", ["1", "2"])
@pytest.mark.parametrize("loop", LOOPS, ids=" ".join)
def test_it_runs_without_assertions_and_docstrings(
    loop: list[str],
    optimize: str,
    dsn: str,
    table: JobTable,
    tasks: Path,
    roost_command: StartsRoost,
) -> None:
    job_id = table.add("quick", args={"number": 1})
    run = roost_command(
        *("run", "-m", "tasks", "--once", "--dsn", dsn, *loop), PYTHONOPTIMIZE=optimize
    )
    assert run.ends() == 0, run.output
    assert table.get(job_id).result == 2
    shown = roost_command("run", "--help", PYTHONOPTIMIZE=optimize)
    assert shown.ends() == 0
    assert "--shutdown-timeout" in shown.output


def test_the_tasks_of_several_registries_are_served_together(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    (tasks / "mine").mkdir()
    (tasks / "mine" / "own.py").write_text(
        "import roost\n"
        "registry = roost.HandlerRegistry()\n"
        "@roost.job('of_my_own', registry=registry)\n"
        "def of_my_own(): return 'mine'\n"
    )
    own, shared = table.add("of_my_own"), table.add("quick")

    run = roost_command(
        "run", "-m", "mine.own:registry", "-m", "tasks", "--once", "--log-json", ROOST_DSN=dsn
    )

    assert run.ends() == 0
    assert table.get(own).result == "mine"
    assert table.get(shared).result == 1
    assert "2 have run, 0 of them failed" in run.output


def test_a_worker_that_crashes_exits_with_1_and_says_why(
    empty_dsn: str, tasks: Path, roost_command: StartsRoost
) -> None:
    run = roost_command("run", "-m", "tasks", ROOST_DSN=empty_dsn)
    assert run.ends() == 1
    assert "roost: the worker crashed: SchemaError: " in run.output
    assert "run `roost init`" in run.output
    assert "Traceback" not in run.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "nowhere"], "can't import 'nowhere': No module named 'nowhere'. Run the "),
        (["-m", "broken"], 'broken.py", line 2, in <module>'),
        (["-m", "broken"], "ValueError: while importing"),
        (["-m", "tasks.py"], "name a module, not a file: -m tasks\n"),
        (["-m", "./tasks.py"], "name a module, not a file: -m tasks\n"),
        (["-m", "./tasks.py:registry"], "name a module, not a file: -m tasks:registry\n"),
        (["-m", "inner/tasks.py"], "name a module, not a file: -m inner.tasks\n"),
        (["-m", "inner/tasks"], "name a module, not a file: -m inner.tasks\n"),
        (["-m", "inner/__init__.py"], "name a module, not a file: -m inner\n"),
        (["-m", "../tasks.py"], "name a module, not a file: -m tasks, from the folder "),
        (["-m", "my-tasks.py"], "'my-tasks.py' can't be one: rename it"),
        (["-m", "bare"], "the module 'bare' registers no task"),
        (
            ["-m", "tasks:registry"],
            "HandlerRegistry, a Worker or WorkerSettings, but the module has no such name",
        ),
        (["-m", "tasks:roost"], "WorkerSettings, but it is of type module\n"),
        (["-m", "tasks:__file__"], "WorkerSettings, but it is of type str\n"),
        (["-m", "tasks", "--concurrency", "0"], "concurrency must be a whole number"),
        (["-m", "tasks", "--backend", "trio", "--uvloop"], "can't be used on trio"),
        (["-m", "tasks", "--backend", "curio"], "Invalid value"),
        ([], "Missing option"),
    ],
)
def test_a_wrong_call_exits_with_2_and_says_what_is_wrong(
    arguments: list[str], message: str, tasks: Path, roost_command: StartsRoost
) -> None:
    (tasks / "broken.py").write_text("def f(): raise ValueError('while importing')\nf()\n")
    (tasks / "bare.py").write_text("")
    run = roost_command("run", *arguments, ROOST_DSN="postgresql://127.0.0.1:1/none")
    assert run.ends() == 2
    assert message in run.output


def test_a_module_that_another_one_imported_first_has_its_tasks(
    dsn: str, tasks: Path, roost_command: StartsRoost
) -> None:
    (tasks / "all_tasks.py").write_text("import tasks\n")
    run = roost_command("run", "-m", "all_tasks", "-m", "tasks", "--once", ROOST_DSN=dsn)
    assert run.ends() == 0


@pytest.mark.parametrize("arguments", [["init"], ["run", "-m", "tasks"], ["migrate", "status"]])
def test_a_call_without_a_dsn_exits_with_2(
    arguments: list[str], tasks: Path, roost_command: StartsRoost
) -> None:
    run = roost_command(*arguments)
    assert run.ends() == 2
    assert "--dsn" in run.output
    assert "ROOST_DSN" in run.output


UNUSABLE = "postgresql://me:geheim@127.0.0.1:1/x"


@pytest.mark.parametrize(
    ("dsn", "command"),
    [
        (UNUSABLE, "run -m tasks --startup-max-retries 0 --log-level debug"),
        (UNUSABLE, "migrate down --to 0"),
        (UNUSABLE, f"demo --dsn {UNUSABLE}"),
        (UNUSABLE, "init"),
        ("postgresql://me:ge%%heim@127.0.0.1:1/x", "init"),
        ("postgresql://me:geheim@127.0.0.1:1/x?nonsense=1", "run -m tasks"),
        ("host=127.0.0.1 port=1 password=geheim", "init"),
        ("mysql://me:geheim@127.0.0.1/x", "run -m tasks"),
    ],
)
def test_no_password_is_printed_when_connecting_fails(
    command: str, dsn: str, tasks: Path, roost_command: StartsRoost
) -> None:
    run = roost_command(*command.split(), ROOST_DSN=dsn)
    assert run.ends() in (1, 2)
    assert "roost: " in run.output
    assert "heim" not in run.output


def test_every_setting_of_a_worker_that_text_can_express_is_an_option(
    roost_command: StartsRoost,
) -> None:
    run = roost_command("run", "--help")
    assert run.ends() == 0
    for field in attrs.fields(WorkerSettings):
        if field.name not in {*PYTHON_ONLY, "queues"}:
            option = "--" + field.name.replace("_", "-")
            assert option in run.output


APPLICATION = """
from contextlib import asynccontextmanager

import roost

registry = roost.HandlerRegistry()


@asynccontextmanager
async def lifespan(worker):
    print("lifespan begins", flush=True)
    yield {"greeting": f"{worker.settings.concurrency} slots"}
    print("lifespan ends", flush=True)


@roost.job("greet", registry=registry)
async def greet(state: roost.State) -> str:
    return state.greeting


@roost.job("greet")
async def greet_too(state: roost.State) -> str:
    return f"again {state.greeting}"


client = roost.AsyncRoost("DSN", registry=registry)
worker = client.worker(queues=["mail"], concurrency=3, lifespan=lifespan)
settings = roost.WorkerSettings(queues=["mail"], concurrency=5, lifespan=lifespan)
"""


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        (["-m", "application:worker"], "3 slots"),
        (["-m", "application:worker", "--concurrency", "4"], "4 slots"),
        (["-m", "application:settings", "--dsn", "DSN"], "again 5 slots"),
        (["-m", "application:worker", "--backend", "trio"], "3 slots"),
    ],
    ids=" ".join,
)
def test_it_runs_the_worker_of_an_application(
    arguments: list[str],
    result: str,
    dsn: str,
    table: JobTable,
    tasks: Path,
    roost_command: StartsRoost,
) -> None:
    (tasks / "application.py").write_text(APPLICATION.replace("DSN", dsn), encoding="utf-8")
    job_id, other = table.add("greet", queue="mail"), table.add("greet")
    run = roost_command("run", "--once", *(dsn if each == "DSN" else each for each in arguments))
    assert run.ends() == 0
    assert table.get(job_id).result == result
    assert table.get(other).state == "available"
    assert run.output.index("lifespan begins") < run.output.index("lifespan ends")


def test_options_that_are_passed_override_those_of_the_application(
    dsn: str, empty_dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    text = APPLICATION.replace("DSN", empty_dsn)
    (tasks / "application.py").write_text(text, encoding="utf-8")
    job_id = table.add("greet")
    run = roost_command(
        *("run", "--once", "-m", "application:worker", "-q", "default", "--dsn", dsn)
    )
    assert run.ends() == 0
    assert table.get(job_id).result == "3 slots"


USES_ITS_WORKER = """
import roost


@roost.job("greet")
async def greet(state: roost.State) -> list[object]:
    worker.request_stop()
    return [state.before, state.begun, worker.id is not None, worker.settings.concurrency]


def begin() -> None:
    worker.state.begun = True


worker = roost.AsyncRoost("DSN").worker(concurrency=3, on_startup=begin)
worker.state.before = 1
"""


@pytest.mark.parametrize("options", [(), ("--concurrency", "5")], ids=["as it is", "overridden"])
def test_the_worker_of_an_application_runs_itself_and_no_copy(
    options: tuple[str, ...],
    dsn: str,
    table: JobTable,
    tasks: Path,
    roost_command: StartsRoost,
) -> None:
    text = USES_ITS_WORKER.replace("DSN", dsn)
    (tasks / "own.py").write_text(text, encoding="utf-8")
    job_id = table.add("greet")
    assert roost_command("run", "-m", "own:worker", *options).ends() == 0
    assert table.get(job_id).result == [1, True, True, 5 if options else 3]


def test_only_one_worker_can_be_named(dsn: str, tasks: Path, roost_command: StartsRoost) -> None:
    (tasks / "application.py").write_text(APPLICATION.replace("DSN", dsn), encoding="utf-8")
    run = roost_command(*("run", "-m", "application:worker", "-m", "application:settings"))
    assert run.ends() == 2
    assert "'application:settings' is a second worker" in run.output


def wait_until_ended(table: JobTable, *ids: int) -> None:
    """Wait until the jobs are completed."""
    table.script(
        """
        do $$ begin
            for _ in 1..6000 loop
                if (select bool_and(completed_at is not null) from roost.jobs where id in (IDS))
                then return; end if;
                perform pg_sleep(0.01);
            end loop;
            raise 'the jobs have not ended';
        end $$
        """.replace("IDS", ", ".join(map(str, ids)))
    )


@pytest.mark.parametrize("chosen", ["option", "dsn"])
def test_it_runs_on_asyncpg(
    chosen: str, dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    job_id = table.add("waits_for_file")
    option = ["--driver", "asyncpg"] if chosen == "option" else []
    if chosen == "dsn":
        dsn = dsn.replace("postgresql://", "postgresql+asyncpg://")
    run = roost_command("run", "-m", "tasks", *option, ROOST_DSN=dsn)
    run.wait_for("job has started")
    (tasks / "go").touch()
    wait_until_ended(table, job_id)
    run.signal()
    assert run.ends() == 0
    assert table.get(job_id).result == "file found"
    assert table.workers() == []


def test_a_thread_that_asyncpgs_worker_leaves_behind_is_released(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    job_id = table.add("stuck_thread")
    run = roost_command(
        "run",
        "-m",
        "tasks",
        "--shutdown-timeout",
        "0",
        ROOST_DSN=dsn.replace("postgresql://", "postgresql+asyncpg://"),
    )
    run.wait_for("job has started")
    run.signal()
    assert run.ends() == 0
    assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)


def test_asyncpg_on_trio_is_refused(dsn: str, tasks: Path, roost_command: StartsRoost) -> None:
    run = roost_command(
        "run", "-m", "tasks", "--driver", "asyncpg", "--backend", "trio", ROOST_DSN=dsn
    )
    assert run.ends() == 2
    assert "asyncpg runs on asyncio" in run.output
