"""The queues that are compared: their packages, their scripts, and a count of finished jobs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
from bench.lab import ROOT

SCRIPTS = ROOT / "bench" / "peers"
ENVIRONMENTS = ROOT / "bench" / ".envs"
MODULES = "ROOST_BENCH_MODULES"
"""The environment variable that tells a script of Node where its packages are."""
OLDEST_NODE = 20


@attrs.frozen(kw_only=True)
class Peer:
    """A package and its script."""

    script: str
    requirements: Sequence[str]
    """Installed into an environment of its own; none: it runs in ours."""
    finished: str
    """SQL that counts the jobs that are finished and committed, of the ``%(jobs)s`` that were
    enqueued."""

    @property
    def name(self) -> str:
        """The script's name, without its ending."""
        return self.script.partition("_queue.")[0]

    @property
    def uses_node(self) -> bool:
        """Whether the script runs in Node."""
        return self.script.endswith(".mjs")


ROOST = Peer(
    script="roost_queue.py",
    requirements=(),
    # Where completed jobs are not kept, they are gone.
    finished="select %(jobs)s - count(*) from roost.jobs where state <> 'completed'",
)
PGQUEUER = Peer(
    script="pgqueuer_queue.py",
    requirements=("pgqueuer[asyncpg]==1.6.0", "asyncpg==0.32.0", "uvloop==0.23.0"),
    # A finished job is moved to the log.
    finished="select count(*) from pgqueuer_log where status = 'successful'",
)
OBAN = Peer(
    script="oban_queue.py",
    requirements=("oban==0.7.0", "psycopg[binary]==3.3.9", "uvloop==0.23.0"),
    finished="select count(*) from oban_jobs where state = 'completed'",
)
AWA = Peer(
    script="awa_queue.py",
    requirements=("awa-pg==0.6.9",),
    # Its view of all jobs would take half a minute.
    finished="select (select coalesce(sum(completed_count), 0) from awa.receipt_completion_batches)"
    " + (select count(*) from awa.done_entries)",
)
PROCRASTINATE = Peer(
    script="procrastinate_queue.py",
    requirements=("procrastinate==3.10.0", "psycopg[binary]==3.3.9"),
    finished="select count(*) from procrastinate_jobs where status = 'succeeded'",
)
GRAPHILE = Peer(
    script="graphile_queue.mjs",
    requirements=("graphile-worker@0.18.0", "pg@8.23.1"),
    # A job is deleted when it completes.
    finished="select %(jobs)s - count(*) from graphile_worker._private_jobs",
)
BARE = Peer(
    script="bare_queue.py",
    requirements=("asyncpg==0.32.0", "uvloop==0.23.0"),
    finished="select count(*) from bare where state = 'completed'",
)


@attrs.frozen
class Contestant:
    """A peer, on a loop, with a driver."""

    name: str
    peer: Peer
    loop: str = "asyncio"
    driver: str = ""
    share: float = 1.0
    """Share of a drain's jobs that it gets. A slow one gets fewer; only rates are compared."""


BASE = Contestant("roost", ROOST)
"""The base of all ratios: psycopg on asyncio, with default settings."""
CONTESTANTS = (
    BASE,
    Contestant("roost, uvloop", ROOST, "uvloop"),
    Contestant("roost, trio", ROOST, "trio"),
    Contestant("roost, asyncpg", ROOST, "asyncio", "asyncpg"),
    Contestant("roost, asyncpg, uvloop", ROOST, "uvloop", "asyncpg"),
    Contestant("roost, deleting", ROOST, "asyncio", "deleting"),
    Contestant("roost, deleting, uvloop", ROOST, "uvloop", "deleting"),
    Contestant("roost, deleting, trio", ROOST, "trio", "deleting"),
    Contestant("pgqueuer", PGQUEUER),
    Contestant("pgqueuer, uvloop", PGQUEUER, "uvloop"),
    Contestant("pgqueuer, uncapped", PGQUEUER, "asyncio", "uncapped"),
    Contestant("pgqueuer, uncapped, uvloop", PGQUEUER, "uvloop", "uncapped"),
    Contestant("oban", OBAN, "uvloop"),
    Contestant("awa", AWA),
    Contestant("procrastinate", PROCRASTINATE, share=0.15),
    Contestant("graphile-worker", GRAPHILE, "node"),
)
FLOOR = (Contestant("(bare)", BARE), Contestant("(bare, uvloop)", BARE, "uvloop"))
"""Not queues: what single jobs cost on this machine at least."""
WITH_IDS = Contestant("roost, ids", ROOST, "asyncio", "ids")


def why_missing(peer: Peer) -> str | None:
    """Return why the peer can't take part on this machine; ``None``: it can."""
    if not peer.uses_node:
        return None
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return f"there is no {'npm' if node else 'node'} on the PATH"
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        return f"node is {version.strip()}, and {OLDEST_NODE} or newer is needed"
    return None


def command(peer: Peer) -> list[str]:
    """Return the words that run the peer's script; install its packages if they are missing."""
    program = "node" if peer.uses_node else str(_python(peer))
    return [program, str(SCRIPTS / peer.script)]


def environment(peer: Peer) -> dict[str, str]:
    """Return the environment variables of the peer's script."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}  # the scripts in Python import `bench`
    if peer.uses_node:
        variables[MODULES] = str(_node_modules(peer))
    return variables


def _python(peer: Peer) -> Path:
    """Return the interpreter of the peer's environment, and make that if it is missing."""
    if not peer.requirements:
        return Path(sys.executable)
    folder = ENVIRONMENTS / f"{peer.name}-{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    if not _is_installed(peer, folder):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-qqq", *peer.requirements]
        subprocess.run(install, check=True)
        _stamp(peer, folder)
    return python


def _node_modules(peer: Peer) -> Path:
    """Return the folder that holds the peer's ``node_modules``; install them if they are missing.

    It lies outside the checkout, in the user's cache.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "roost-bench" / peer.name
    if not _is_installed(peer, folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # Without a package.json npm would install into the next folder above that has one.
        (folder / "package.json").write_text("{}")
        quiet = ["--silent", "--no-audit", "--no-fund", "--no-package-lock", "--no-save"]
        subprocess.run(["npm", "install", *quiet, *peer.requirements], cwd=folder, check=True)
        _stamp(peer, folder)
    return folder


def _is_installed(peer: Peer, folder: Path) -> bool:
    stamp = folder / "requirements.txt"
    if stamp.is_file() and stamp.read_text() == _wanted(peer):
        return True
    print(f"installing {peer.name} …", flush=True)
    return False


def _stamp(peer: Peer, folder: Path) -> None:
    """Record what is installed; the installation is complete only now."""
    (folder / "requirements.txt").write_text(_wanted(peer))


def _wanted(peer: Peer) -> str:
    return "".join(f"{requirement}\n" for requirement in peer.requirements)
