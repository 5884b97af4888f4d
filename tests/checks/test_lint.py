"""Lint, format, types and layers, as tests, so that one command checks everything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("src", "tests", "property_tests", "bench", "examples", "conftest.py", "dev.py")
LINT_IMPORTS = "import sys; from importlinter.cli import lint_imports_command as m; sys.exit(m())"


def test_ruff_finds_nothing() -> None:
    passes("-m", "ruff", "check", *present())


def test_ruff_would_format_nothing() -> None:
    passes("-m", "ruff", "format", "--check", "--diff", *present())


def test_mypy_accepts_all_types() -> None:
    passes("-m", "mypy", "--strict", *present())


def test_pyright_reads_the_typed_calls() -> None:
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed (npm install --global pyright)")
    done = subprocess.run(
        [pyright, "--pythonpath", sys.executable, "tests/types"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_imports_keep_to_the_layers() -> None:
    passes("-c", LINT_IMPORTS, "--no-logo")


def present() -> list[str]:
    """Return the parts of the project that have code."""
    paths = [ROOT / name for name in CODE]
    return [path.name for path in paths if path.is_file() or any(path.rglob("*.py"))]


def passes(*command: str) -> None:
    """Run a Python program in the root; fail with its output if it finds something."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)
