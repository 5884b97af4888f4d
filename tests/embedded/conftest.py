"""Run users of an embedded server as processes, so that tests can kill them."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
from tests.support.conformance.cases import until

from roost.embedded import EmbeddedPostgresError, remove

# Everything is imported before privileges are dropped: the user who remains may not be able to
# read this Python's library.
USER = """
import encodings.idna, fcntl, os, pwd, subprocess, sys
from roost.embedded import server
data_dir, uid = sys.argv[1:]
if int(uid) >= 0:
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
with server(data_dir, settings={"fsync": False, "dynamic_shared_memory_type": "mmap"}) as pg:
    print("in", pg.dsn, flush=True)
    sys.stdin.read()
print("out", flush=True)
"""

_numbers = itertools.count(1)


@attrs.frozen
class User:
    """A process that is in a `server` block, or enters it."""

    process: subprocess.Popen[str]

    def entered(self) -> str:
        """Wait until it is in the block, and return its DSN."""
        assert self.process.stdout is not None
        word, _, dsn = self.process.stdout.readline().strip().partition(" ")
        assert word == "in", f"the user said {word!r} {dsn!r}"
        return dsn

    def leave(self) -> None:
        """Let it leave the block, and wait for its end."""
        out, _ = self.process.communicate(timeout=60)
        assert out.endswith("out\n")
        assert self.process.returncode == 0

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait(timeout=10)


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    """Return a function that starts a user of a data folder, as this or another OS user."""
    started: list[subprocess.Popen[str]] = []

    def start(data_dir: Path, *, uid: int = -1) -> User:
        process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir), str(uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return User(process)

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def data_dir(run_folder: Path) -> Iterator[Path]:
    """Yield a data folder that does not exist yet, and remove it with its server afterwards."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    folder = run_folder / f"pg-embedded-{worker}-{next(_numbers)}"
    yield folder
    for data in (folder, *folder.parent.glob(f"{folder.name}-*")):
        with suppress(EmbeddedPostgresError):  # the run's end tries again
            remove(data)


@pytest.fixture(params=["default", "debian-15"])
def each_postgres(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with the Postgres of `find_binaries`, and with Debian's Postgres 15."""
    if request.param == "debian-15":
        debian = Path("/usr/lib/postgresql/15/bin")
        if not (debian / "postgres").exists():
            pytest.skip(f"there is no Postgres in {debian}")
        monkeypatch.setenv("ROOST_PG_BIN", str(debian))


@attrs.frozen
class Postmaster:
    """The server process of a data folder."""

    pid: int

    @property
    def is_alive(self) -> bool:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except FileNotFoundError:
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait_until_gone()

    def wait_until_gone(self) -> None:
        """Wait for its end. Its pid file is deleted a moment earlier."""
        until(lambda: not self.is_alive)


@pytest.fixture
def postmaster() -> Callable[[Path], Postmaster]:
    """Return a function that finds the server process of a data folder."""

    def look_up(data_dir: Path) -> Postmaster:
        return Postmaster(int((data_dir / "cluster" / "postmaster.pid").read_text().split()[0]))

    return look_up
