"""`roost run --reload` starts the worker anew when a file of the user's modules changes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable
from tests.support.processes import is_gone, worker_pids

from roost.cli.reload import ChangeFilter, module_folders

if TYPE_CHECKING:
    from tests.cli.conftest import Roost, StartsRoost

BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])

SHOP = """
import anyio
import roost

@roost.job("answer")
async def answer() -> str:
    return "{answer}"

@roost.job("for_ever")
async def for_ever() -> None:
    print("job has started", flush=True)
    await anyio.sleep_forever()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return the file of the module ``shop.tasks``."""
    (tmp_path / "shop").mkdir()
    file = tmp_path / "shop" / "tasks.py"
    file.write_text(SHOP.format(answer="first"))
    return file


def reloading(start: StartsRoost, backend: str, dsn: str, *options: str) -> Roost:
    run = start(
        *("run", "-m", "shop.tasks", "--reload", "--backend", backend, *options), ROOST_DSN=dsn
    )
    run.wait_for("worker is ready")
    return run


def wait_until_completed(table: JobTable, job_id: int, run: Roost) -> object:
    until(lambda: table.get(job_id).state == "completed", within=60)
    return table.get(job_id).result


@BOTH
def test_a_changed_file_is_in_force_for_the_next_job(
    backend: str, dsn: str, table: JobTable, shop: Path, roost_command: StartsRoost
) -> None:
    run = reloading(roost_command, backend, dsn)
    assert wait_until_completed(table, table.add("answer"), run) == "first"
    shop.write_text(SHOP.format(answer="second"))
    run.wait_for("changed: tasks.py")
    run.wait_for("worker is ready", times=2)
    assert wait_until_completed(table, table.add("answer"), run) == "second"

    run.signal(signal.SIGINT)
    assert run.ends() == 0
    assert table.workers() == []


@BOTH
def test_a_module_that_cant_be_imported_waits_for_the_next_change(
    backend: str, dsn: str, table: JobTable, shop: Path, roost_command: StartsRoost
) -> None:
    run = reloading(roost_command, backend, dsn)
    shop.write_text("def broken(:\n")
    run.wait_for("it starts anew at the next change")
    assert "SyntaxError" in run.output
    assert f'File "{shop}", line 1' in run.output
    shop.write_text(SHOP.format(answer="repaired"))
    run.wait_for("worker is ready", times=2)
    assert wait_until_completed(table, table.add("answer"), run) == "repaired"

    run.signal()
    assert run.ends() == 0


@BOTH
def test_a_stop_while_it_waits_for_a_change_is_in_order(
    backend: str, dsn: str, shop: Path, roost_command: StartsRoost
) -> None:
    shop.write_text("def broken(:\n")
    run = roost_command(
        *("run", "-m", "shop.tasks", "--reload", "--backend", backend), ROOST_DSN=dsn
    )
    run.wait_for("the worker ended with exit code 2; it starts anew at the next change")
    run.signal()
    assert run.ends() == 0


@BOTH
def test_a_running_job_is_returned_after_a_short_grace(
    backend: str, dsn: str, table: JobTable, shop: Path, roost_command: StartsRoost
) -> None:
    job_id = table.add("for_ever")
    run = reloading(roost_command, backend, dsn, "--shutdown-timeout", "600")
    run.wait_for("job has started")
    shop.write_text(SHOP.replace("await anyio.sleep_forever()", "return"))
    wait_until_completed(table, job_id, run)
    assert table.get(job_id).attempt == 1

    run.signal()
    assert run.ends() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers 2", "--reload and --workers exclude each other"),
        ("--once", "--reload and --once exclude each other"),
    ],
)
def test_what_reload_excludes_is_refused(
    options: str, message: str, shop: Path, roost_command: StartsRoost
) -> None:
    run = roost_command("run", "-m", "shop.tasks", "--reload", *options.split())
    assert run.ends() == 2
    assert message in run.output


HIDES_WATCHFILES = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "watchfiles" else find(name, *rest)
"""


@pytest.mark.parametrize("command", ["run --reload -m shop.tasks"])
def test_without_watchfiles_the_error_names_the_extra(
    command: str, shop: Path, roost_command: StartsRoost
) -> None:
    (shop.parent / "site").mkdir()
    (shop.parent / "site" / "sitecustomize.py").write_text(HIDES_WATCHFILES)
    run = roost_command(*command.split(), PYTHONPATH=str(shop.parent / "site"))
    assert run.ends() == 2
    assert run.output == "roost: watchfiles is not installed: pip install 'anyroost[reload]'\n"


@pytest.mark.parametrize(
    ("name", "watched"),
    [
        ("tasks.py", True),
        ("deep/down/tasks.py", True),
        ("tasks.pyc", False),
        ("notes.txt", False),
        ("__pycache__/tasks.py", False),
        (".git/hooks/hook.py", False),
        (".venv/lib/module.py", False),
        ("env/lib/python3.11/module.py", False),
        ("node_modules/gyp/tool.py", False),
    ],
)
def test_only_the_users_python_files_are_watched(name: str, watched: bool, tmp_path: Path) -> None:
    folder = tmp_path / ".hidden" / "project"
    (folder / "env").mkdir(parents=True)
    (folder / "env" / "pyvenv.cfg").touch()
    assert ChangeFilter([folder])(None, str(folder / name)) is watched


def test_the_folders_of_modules_are_found_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for package in (here / "shop" / "inner", there / "library"):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ValueError\n")
    (here / "shop" / "__init__.py").write_text("raise ValueError\n")
    (there / "single.py").write_text("raise ValueError\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(there)
    before = [*sys.path]

    assert module_folders(["shop.inner.tasks:registry"]) == [here / "shop"]
    assert module_folders(["library", "shop", "shop"]) == [here / "shop", there / "library"]
    assert module_folders(["single", "library.tasks"]) == [there]
    assert module_folders(["nowhere.tasks", "", "./shop.py"]) == [here]
    assert sys.path == before


@BOTH
def test_the_worker_stops_in_order_when_the_reloader_is_killed(
    backend: str, dsn: str, table: JobTable, shop: Path, roost_command: StartsRoost
) -> None:
    job_id = table.add("for_ever")
    run = reloading(roost_command, backend, dsn, "--shutdown-timeout", "0.2")
    run.wait_for("job has started")
    run.signal(signal.SIGKILL)
    [pid] = worker_pids(run.output)
    until(lambda: is_gone(pid), within=60)
    assert (table.get(job_id).state, table.get(job_id).attempt) == ("available", 0)
