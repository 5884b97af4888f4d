"""dev.py handles its arguments. Each run of the tests checks the environment that it builds."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEV = Path(__file__).parents[2] / "dev.py"


@pytest.fixture(scope="module")
def dev() -> Any:
    spec = importlib.util.spec_from_file_location("roost_dev", DEV)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n0"],
        ["-n", "4"],
        ["--numprocesses=3"],
        ["-p", "no:xdist"],
        ["--pdb"],
        ["-xvs"],
        ["--capture=no"],
        ["--co", "-q"],
        ["-h"],
    ],
)
def test_arguments_that_choose_or_need_one_process_are_unchanged(
    dev: Any, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    assert dev.in_parallel(arguments) == []


@pytest.mark.parametrize("arguments", [[], ["-k", "claim"], ["-x", "-q"], ["tests/checks"]])
def test_other_runs_use_several_processes(
    dev: Any, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    assert "-n" in dev.in_parallel(arguments)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-n 0")
    assert dev.in_parallel(arguments) == []


def test_no_command_prints_the_usage() -> None:
    done = call()
    assert done.returncode == 0
    assert "dev.py demo" in done.stdout


def test_an_unknown_command_is_refused_with_the_usage() -> None:
    done = call("dmeo")
    assert done.returncode == 2
    assert "dev.py demo" in done.stderr


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEV, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
