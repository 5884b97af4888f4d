"""A hanging test is ended, and a failed test of timing is run again, as planted tests show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HANGING = """
    import anyio, pytest

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param

    @pytest.mark.anyio
    async def test_hangs():
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()

    def test_passes():
        pass
"""
TIMING = """
    import pathlib, pytest

    def runs(name):
        file = pathlib.Path(__file__).with_name(name)
        count = int(file.read_text()) + 1 if file.exists() else 1
        file.write_text(str(count))
        return count

    @pytest.mark.timing
    def test_fails_once():
        assert runs("once") > 1

    @pytest.mark.timing
    def test_fails_twice():
        assert runs("twice") > 2

    def test_without_the_mark():
        assert runs("plain") > 1
"""


def run(folder: Path, planted: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run planted tests with the project's settings of pytest."""
    file = folder / "test_planted.py"
    file.write_text("\n".join(line[4:] for line in planted.splitlines()))
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), str(file)),
            *("--rootdir", str(folder), "-q", "-p", "tests.support.timing"),
            *("-p", "no:cacheprovider", *options),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_every_test_has_a_time_limit(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("timeout")) > 0
    assert pytestconfig.getini("timeout_method") == "thread"


SHORT = ("-o", "timeout=3", "-o", "faulthandler_timeout=2")


def test_a_hanging_test_fails_with_its_stacks_and_the_others_continue(tmp_path: Path) -> None:
    done = run(tmp_path, HANGING, *SHORT, "-n", "1")
    assert done.returncode == 1
    for backend in ("asyncio", "trio"):
        assert f"crashed while running 'test_planted.py::test_hangs[{backend}]'" in done.stdout
    assert "2 failed, 1 passed" in done.stdout
    assert "in run_test" in done.stderr


def test_a_hanging_test_ends_a_run_in_one_process(tmp_path: Path) -> None:
    done = run(tmp_path, HANGING, *SHORT, "-n", "0")
    assert done.returncode == 1
    assert "Timeout" in done.stdout + done.stderr


def test_a_test_of_timing_is_run_again_and_listed(tmp_path: Path) -> None:
    done = run(tmp_path, TIMING, "-n", "0", "-k", "once")
    assert done.returncode == 0
    assert (tmp_path / "once").read_text() == "2"
    assert "test_fails_once: failed, and passed when it was run again" in done.stdout
    assert done.stdout.count("FLAKY") == 1


@pytest.mark.parametrize(
    ("test", "counter", "runs"),
    [("test_fails_twice", "twice", "2"), ("test_without_the_mark", "plain", "1")],
)
def test_a_second_failure_fails_the_run(test: str, counter: str, runs: str, tmp_path: Path) -> None:
    done = run(tmp_path, TIMING, "-n", "0", "-k", test)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert (tmp_path / counter).read_text() == runs
    assert "FLAKY" not in done.stdout
