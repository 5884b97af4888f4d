"""The queues that are compared: their packages, their scripts, and a count of finished jobs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
from bench.lab import ROOT

SCRIPTS = ROOT / "bench" / "peers"
ENVIRONMENTS = ROOT / "bench" / ".envs"


@attrs.frozen(kw_only=True)
class Peer:
    """A package and its script."""

    script: str
    requirements: Sequence[str]
    """Installed into an environment of its own; none: it runs in ours."""
    finished: str
    """SQL that counts the jobs that are finished and committed."""


ROOST = Peer(
    script="roost_queue.py",
    requirements=(),
    finished="select count(*) from roost.jobs where state = 'completed'",
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
    Contestant("pgqueuer", PGQUEUER),
    Contestant("pgqueuer, uvloop", PGQUEUER, "uvloop"),
    Contestant("pgqueuer, uncapped", PGQUEUER, "asyncio", "uncapped"),
    Contestant("pgqueuer, uncapped, uvloop", PGQUEUER, "uvloop", "uncapped"),
    Contestant("oban", OBAN, "uvloop"),
    Contestant("awa", AWA),
    Contestant("procrastinate", PROCRASTINATE, share=0.15),
)
FLOOR = (Contestant("(bare)", BARE), Contestant("(bare, uvloop)", BARE, "uvloop"))
"""Not queues: what single jobs cost on this machine at least."""
WITH_IDS = Contestant("roost, ids", ROOST, "asyncio", "ids")


def python_for(peer: Peer) -> str:
    """Return the interpreter of the peer's environment, and make that if it is missing."""
    if not peer.requirements:
        return sys.executable
    name = peer.script.removesuffix("_queue.py")
    folder = ENVIRONMENTS / f"{name}-{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / "bin" / "python"
    stamp = folder / "requirements.txt"
    wanted = "".join(f"{requirement}\n" for requirement in peer.requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing {name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-qqq", *peer.requirements]
        subprocess.run(install, check=True)
        stamp.write_text(wanted)
    return str(python)


def script(peer: Peer) -> Path:
    """Return the peer's script."""
    return SCRIPTS / peer.script
