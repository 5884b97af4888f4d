"""`roost run` logs what it runs with and where that comes from, and never a password."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

WORKER = """
import functools
import roost
from tasks import quick

def begin(secret): ...

worker = roost.AsyncRoost("postgresql://me:geheim@127.0.0.1:1/own").worker(
    queues=["mail"], shutdown_timeout=9, on_startup=functools.partial(begin, "geheim")
)
"""
UNREACHABLE = "postgresql://me:geheim@127.0.0.1:1/x"


def test_each_setting_has_its_value_and_source(tasks: Path, roost_command: StartsRoost) -> None:
    (tasks / "pyproject.toml").write_text("[tool.roost]\nerror-cap = 7\n")
    run = roost_command(
        *("run", "-m", "tasks", "--concurrency", "3", "--archive-after-seconds", "completed=60"),
        *("--startup-max-retries", "0", "--log-json"),
        ROOST_POLL_INTERVAL="2.5",
        ROOST_QUEUES="mail,post",
        ROOST_DSN=UNREACHABLE,
    )
    assert run.ends() == 1
    [line] = [json.loads(line) for line in run.output.splitlines() if "runs modules" in line]
    settings = line["settings"]

    assert settings["concurrency"] == {"value": 3, "source": "option"}
    assert settings["archive_after_seconds"] == {"value": {"completed": 60.0}, "source": "option"}
    assert settings["poll_interval"] == {"value": 2.5, "source": "ROOST_POLL_INTERVAL"}
    assert settings["queues"] == {"value": ["mail", "post"], "source": "ROOST_QUEUES"}
    assert settings["error_cap"] == {"value": 7, "source": str(tasks / "pyproject.toml")}
    assert settings["shutdown_timeout"] == {"value": 30.0, "source": "default"}
    assert settings["backend"] == {"value": "asyncio", "source": "default"}
    assert (line["modules"], line["dsn_source"]) == (["tasks"], "ROOST_DSN")
    assert line["dsn"] == "postgresql://me:***@127.0.0.1:1/x"
    assert "ROOST_POLL_INTERVAL: poll_interval=2.5;" in line["message"]
    assert "archive_after_seconds={completed: 60.0}" in line["message"]


def test_what_the_worker_of_a_module_says_comes_from_the_module(
    tasks: Path, roost_command: StartsRoost
) -> None:
    (tasks / "application.py").write_text(WORKER)
    run = roost_command(
        *("run", "-m", "application:worker", "--startup-max-retries", "0", "--log-json"),
        ROOST_DSN="postgresql:///ignored",
    )
    assert run.ends() == 1
    [line] = [json.loads(line) for line in run.output.splitlines() if "runs modules" in line]
    settings = line["settings"]

    assert settings["shutdown_timeout"] == {"value": 9, "source": "module"}
    assert settings["queues"] == {"value": ["mail"], "source": "module"}
    assert settings["on_startup"] == {"value": "partial", "source": "module"}
    assert settings["poll_interval"] == {"value": 1.0, "source": "default"}
    assert settings["startup_max_retries"] == {"value": 0, "source": "option"}
    assert (line["dsn"], line["dsn_source"]) == ("postgresql://me:***@127.0.0.1:1/own", "module")
    assert "geheim" not in run.output


@pytest.mark.parametrize(
    "dsn",
    [
        UNREACHABLE,
        "postgresql://127.0.0.1:1/x?user=me&password=ge#heim",
        "postgresql://127.0.0.1:1/x?sslpassword=geheim&connect_timeout=3",
        "postgresql+asyncpg://me:geheim@127.0.0.1:1/x",
        "host=127.0.0.1 port=1 password=geheim",
        r"host=127.0.0.1 port=1 password = 'ge\' heim' user=me",
    ],
)
@pytest.mark.parametrize("option", [True, False], ids=["option", "environment"])
def test_no_password_is_logged(
    option: bool, dsn: str, tasks: Path, roost_command: StartsRoost
) -> None:
    options = ("--log-level", "debug", "--startup-max-retries", "0")
    if option:
        run = roost_command("run", "-m", "tasks", *options, "--dsn", dsn)
    else:
        run = roost_command("run", "-m", "tasks", *options, ROOST_DSN=dsn)
    assert run.ends() == 1
    assert "runs modules tasks on database" in run.output
    assert "heim" not in run.output


def test_a_supervisor_logs_no_password(tasks: Path, roost_command: StartsRoost) -> None:
    run = roost_command(
        *("run", "-m", "tasks", "--workers", "2", "--startup-max-retries", "0"),
        *("--log-level", "debug", "--dsn", UNREACHABLE),
    )
    run.wait_for("no worker runs")
    run.signal()
    assert run.ends() == 0
    assert "geheim" not in run.output
