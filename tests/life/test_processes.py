"""Handlers in processes of their own: their output and their end do not affect the worker."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from tests.support.conformance.cases import eventually
from tests.support.job_table import JobTable
from tests.support.working import working

from roost import HandlerRegistry, Worker, job
from roost._worker.handlers import process

pytestmark = pytest.mark.anyio

MakeWorker = Callable[..., Worker]

MODULE = """
import atexit, json, os, pickle, signal, subprocess, sys, time
from pathlib import Path

class Bomb:
    def __init__(self, path):
        self.path = path
    def __reduce__(self):
        return Path.touch, (Path(self.path),)

def where():
    return os.getpid()

def echo(text):
    return text

def prints(path):
    print("a harmless line of the handler", flush=True)
    os.write(1, pickle.dumps(Bomb(path)))
    os.write(2, b"and one to stderr\\n")
    return "printed"

def writes_everywhere(path):
    for fd in range(3, 64):
        try:
            os.write(fd, pickle.dumps(Bomb(path)) * 10)
        except OSError:
            pass
    return "written"

def forges(text):
    for fd in range(3, 64):
        try:
            os.write(fd, (1).to_bytes(8, "big") + len(text).to_bytes(8, "big") + text.encode())
        except OSError:
            pass
    time.sleep(60)  # sleeps: until it is ended

def exits():
    os._exit(7)

def dies():
    os.kill(os.getpid(), signal.SIGSEGV)

def closes():
    for fd in range(3, 64):
        try:
            os.close(fd)
        except OSError:
            pass

def starts(path):
    nap = "import time; time.sleep(600)"  # sleeps: until it is ended
    child = subprocess.Popen([sys.executable, "-c", nap])
    Path(path + ".new").write_text(json.dumps([os.getpid(), child.pid]))
    os.rename(path + ".new", path)
    time.sleep(600)  # sleeps: until it is ended

def leaves_a_program(path):
    nap = "import time; time.sleep(600)"  # sleeps: until it is ended
    child = subprocess.Popen([sys.executable, "-c", nap])
    atexit.register(lambda: Path(path).write_text(str(child.pid)))
    return child.pid

def terminates_a_program():
    nap = "import time; time.sleep(600)"  # sleeps: until it is ended
    child = subprocess.Popen([sys.executable, "-c", nap])
    child.terminate()
    return child.wait(30)

def terminates_a_fork():
    pid = os.fork()
    if not pid:
        time.sleep(600)  # sleeps: until it is ended
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def ignores_signals():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
    return "still here"
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Yield a module that processes can import."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "roost_process_tasks.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("roost_process_tasks")
    sys.path.remove(str(folder))
    del sys.modules["roost_process_tasks"]


@pytest.fixture
def run(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any
) -> Callable[..., Any]:
    """Return a function that runs jobs one after the other and returns their final rows."""
    for name in ("where", "echo", "prints", "writes_everywhere", "forges", "exits", "dies"):
        job(name, run_in="process", registry=registry)(getattr(tasks, name))
    for name in ("closes", "terminates_a_program", "terminates_a_fork", "ignores_signals"):
        job(name, run_in="process", registry=registry)(getattr(tasks, name))

    async def run(*names: str, **args: Any) -> list[Any]:
        ids = [
            table.add(name, args={} if name == "where" else args, max_attempts=1, priority=priority)
            for priority, name in enumerate(names)
        ]
        with anyio.fail_after(60):
            await make_worker(concurrency=1).run_once()
        return [table.get(job_id) for job_id in ids]

    return run


def gone(pid: int) -> bool:
    """Say whether a process has ended, including one that is not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_output_of_a_handler_does_not_enter_the_channel(
    run: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    [ended] = await run("prints", path=str(tmp_path / "bomb"))
    assert (ended.state, ended.result) == ("completed", "printed")
    assert not (tmp_path / "bomb").exists()
    printed = capfd.readouterr()
    assert "a harmless line of the handler\n" in printed.out
    assert "and one to stderr\n" in printed.err


async def test_bytes_that_a_handler_writes_into_the_channel_are_never_unpickled(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    broken, after = await run("writes_everywhere", "where", path=str(tmp_path / "bomb"))
    assert broken.state == "discarded"
    assert broken.errors[0]["error"].startswith("HandlerProcessError: the process of the handler")
    assert after.state == "completed"
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[1, 2", "answered no JSON"),
        ("[1, 2]", "no known answer"),
        ('{"result": 5}', "no known answer"),
        ('{"result": "[1"}', "answered no JSON"),
        ('{"error": {"error": 5}}', "no known answer"),
        ('{"snooze": -5}', "no known answer"),
        ("[" * 100_000, ""),
    ],
)
async def test_a_forged_answer_is_a_failure(run: Callable[..., Any], text: str, error: str) -> None:
    [ended] = await run("forges", text=text)
    assert ended.state == "discarded"
    assert error in ended.errors[0]["error"]


async def test_the_error_names_the_exit_code_or_the_signal(run: Callable[..., Any]) -> None:
    exited, died, closed, after = await run("exits", "dies", "closes", "where")
    assert exited.errors[0]["error"] == (
        "HandlerProcessError: the process of the handler ended with exit code 7 before it answered"
    )
    assert died.errors[0]["error"] == (
        "HandlerProcessError: the process of the handler was killed by SIGSEGV (11) before it "
        "answered"
    )
    assert closed.errors[0]["error"].startswith("HandlerProcessError: the process of the handler")
    assert after.state == "completed"


async def test_a_process_serves_one_job_after_the_other(run: Callable[..., Any]) -> None:
    jobs = await run("where", "where", "where")
    assert len({job.result for job in jobs}) == 1
    assert await eventually_gone(jobs[0].result)


async def test_large_arguments_and_results_arrive(run: Callable[..., Any]) -> None:
    text = "ü" * 3_000_000
    [ended] = await run("echo", text=text)
    assert ended.result == text


async def test_a_result_above_the_bound_is_replaced_by_a_note(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_ANSWER_BYTES", 1_000)
    refused, after = await run("echo", "where", text="x" * 5_000)
    assert refused.state == "discarded"
    assert after.state == "completed"


async def test_stop_signals_do_not_end_a_handler_but_end_its_programs(
    run: Callable[..., Any],
) -> None:
    there, program, fork = await run("ignores_signals", "terminates_a_program", "terminates_a_fork")
    assert there.result == "still here"
    assert (program.result, fork.result) == (-signal.SIGTERM, -signal.SIGTERM)


async def test_a_cancel_kills_programs_that_the_process_started(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any, tmp_path: Path
) -> None:
    job("starts", run_in="process", registry=registry)(tasks.starts)
    path = tmp_path / "pids"
    table.add("starts", args={"path": str(path)})
    async with working(make_worker(shutdown_timeout=0)):
        await eventually(path.exists, within=30)
    for pid in json.loads(path.read_text()):
        assert await eventually_gone(pid)


@pytest.mark.timing  # the process has a second to end
async def test_an_idle_process_ends_by_itself_at_the_stop_and_its_programs_are_killed(
    table: JobTable, registry: HandlerRegistry, make_worker: MakeWorker, tasks: Any, tmp_path: Path
) -> None:
    job("leaves", run_in="process", registry=registry)(tasks.leaves_a_program)
    path = tmp_path / "pid"
    job_id = table.add("leaves", args={"path": str(path)})
    await make_worker().run_once()
    pid = int(path.read_text())
    assert table.get(job_id).result == pid
    assert await eventually_gone(pid)


async def eventually_gone(pid: int) -> bool:
    await eventually(lambda: gone(pid), within=20)
    return True


def test_only_the_child_unpickles() -> None:
    source = Path(process.__file__).parents[1]
    unpickling = {
        file.name
        for file in source.rglob("*.py")
        if any(word in file.read_text() for word in ("pickle.load", "Unpickler", "to_process"))
    }
    assert unpickling == {"process_child.py"}
