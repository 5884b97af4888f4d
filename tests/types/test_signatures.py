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

import pytest

from roost import AsyncRoost, Roost, Worker

ROOT = Path(__file__).parents[2]
DSN = "postgresql://"


def read_only(client: AsyncRoost, blocking: Roost) -> None:
    """Be read by type checkers, and never called."""
    assert_type(client.worker(queues=["mail"], concurrency=4, hooks=None), Worker)
    client.worker(concurrency="4")  # type: ignore[arg-type]  # what is tested
    client.worker(speed=11)  # type: ignore[call-arg]  # what is tested
    client.worker(registry=None)  # type: ignore[call-arg]  # the client's own is passed on
    client.worker(["mail"])  # type: ignore[call-arg]  # keywords only
    assert_type(blocking.enqueue("work", args={"n": 1}, queue="mail", conn=None), int)
    blocking.enqueue("work", priority="1")  # type: ignore[arg-type]  # what is tested
    blocking.enqueue("work", speed=11)  # type: ignore[call-arg]  # what is tested
    Worker(DSN, concurrency="4")  # type: ignore[arg-type]  # what is tested
    Worker(DSN, speed=11)  # type: ignore[call-arg]  # what is tested


SHOWN: dict[str, Callable[..., Any]] = {
    "roost.Worker": Worker,
    "roost.AsyncRoost.worker": AsyncRoost.worker,
    "roost.Roost.enqueue": Roost.enqueue,
    "roost.Roost.enqueue_many": Roost.enqueue_many,
    "roost.Roost.wait_for": Roost.wait_for,
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
        assert set(re.findall(r"(\w+): ", shown)) - {"self"} == parameters


BLOCKING = [name for name, _ in inspect.getmembers(Roost, inspect.isfunction) if name[0] != "_"]


@pytest.mark.parametrize("verb", BLOCKING)
def test_a_blocking_verb_has_the_parameters_of_the_async_one(verb: str) -> None:
    def shown(kind: type) -> list[tuple[object, ...]]:
        parameters = inspect.signature(getattr(kind, verb)).parameters.values()
        return [(each.name, each.kind, each.default, each.annotation) for each in parameters]

    assert shown(Roost) == shown(AsyncRoost)


def test_the_blocking_client_has_each_verb() -> None:
    verbs = {name for name in dir(AsyncRoost) if name[0] != "_"}
    # A transaction is opened on a connection of the application's own, and a worker is async.
    assert verbs - set(BLOCKING) == {"transaction", "worker"}
