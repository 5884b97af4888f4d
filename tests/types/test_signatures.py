"""Type checkers and editors see each parameter of a worker and of the clients' verbs.

The functions below are read by mypy, in ``tests/checks``: an ``ignore`` that nothing needs fails
there, which is how a parameter is shown to be known with its type.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

from roost import AsyncRoost, Worker

ROOT = Path(__file__).parents[2]
DSN = "postgresql://"


def read_only(client: AsyncRoost) -> None:
    """Be read by type checkers, and never called."""
    assert_type(client.worker(queues=["mail"], concurrency=4, hooks=None), Worker)
    client.worker(concurrency="4")  # type: ignore[arg-type]  # what is tested
    client.worker(speed=11)  # type: ignore[call-arg]  # what is tested
    client.worker(registry=None)  # type: ignore[call-arg]  # the client's own is passed on
    client.worker(["mail"])  # type: ignore[call-arg]  # keywords only
    Worker(DSN, concurrency="4")  # type: ignore[arg-type]  # what is tested
    Worker(DSN, speed=11)  # type: ignore[call-arg]  # what is tested


SHOWN: dict[str, Callable[..., Any]] = {
    "roost.Worker": Worker,
    "roost.AsyncRoost.worker": AsyncRoost.worker,
}


def test_a_type_checker_shows_the_parameters_themselves(tmp_path: Path) -> None:
    snippet = tmp_path / "shown.py"
    names = "".join(f"reveal_type({name})\n" for name in SHOWN)
    snippet.write_text(f"import roost\n{names}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(snippet)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    revealed = re.findall('Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(SHOWN), done.stdout + done.stderr
    for shown, function in zip(revealed, SHOWN.values(), strict=True):
        parameters = inspect.signature(function).parameters.keys() - {"self"}
        assert set(re.findall(r"(\w+): ", shown)) == parameters
