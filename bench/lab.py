"""What every measurement here needs: a server, fresh databases, the machine, results on file.

A script that is run by its path puts the root of the checkout on `sys.path` before it imports
this: `sys.path.insert(0, str(Path(__file__).resolve().parents[1]))`.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit

import attrs
import psycopg

from roost.embedded import remove, server

__all__ = [
    "ROOT",
    "Machine",
    "Table",
    "fresh_database",
    "laboratory",
    "machine",
    "median",
    "percentile",
    "spread",
    "write_results",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"

Machine: TypeAlias = dict[str, Any]
"""What the figures were measured on."""

PACKAGES = ("anyroost", "anyio", "psycopg", "psycopg-binary", "asyncpg", "trio", "uvloop")
SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "autovacuum",
)

_numbers = itertools.count(1)


# The server.


@contextmanager
def laboratory(dsn: str | None, *, settings: Mapping[str, object] | None = None) -> Iterator[str]:
    """Yield the DSN of a server's maintenance database: `dsn`, or an embedded server of its own.

    The embedded one has Postgres' default settings, so default durability, and its data on a disk;
    it is stopped and deleted at the end.

    :param dsn: a superuser's URL, ``postgresql://…``.
    :param settings: Postgres settings of the embedded server.
    """
    if dsn is not None:
        yield dsn
        return
    with tempfile.TemporaryDirectory(prefix="roost-bench-", dir=_folder()) as folder:
        try:
            with server(folder, settings=settings) as embedded:
                yield embedded.dsn
        finally:
            remove(folder)


def _folder() -> str | None:
    """Return a folder on a real disk: in memory an fsync would cost nothing."""
    usual = Path(tempfile.gettempdir())
    return "/var/tmp" if _filesystem(usual) == "tmpfs" else None


@contextmanager
def fresh_database(server_dsn: str) -> Iterator[str]:
    """Yield the DSN of a new empty database, after a checkpoint, and drop it at the end."""
    name = f"roost_bench_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        conn.execute(f'create database "{name}" template template0'.encode())
        conn.execute("checkpoint")
    try:
        yield _dsn_for(server_dsn, name)
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as conn:
            conn.execute(f'drop database if exists "{name}" with (force)'.encode())


def _dsn_for(server_dsn: str, database: str) -> str:
    parts = urlsplit(server_dsn)
    # Not urlunsplit: it drops the // of an empty host.
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{quote(database, safe='')}{query}"


# The machine.


def machine(server_dsn: str) -> Machine:
    """Return what the figures depend on: processor, kernel, versions, durability, load, date."""
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        postgres = {name: _show(conn, name) for name in SETTINGS}
        version, folder = _show(conn, "server_version"), _show(conn, "data_directory")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _proc("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgres": f"{version}, data on {_filesystem(Path(folder))}",
        "fdatasync": f"{_sync_ms(ROOT):.2f} ms",
        "settings": ", ".join(f"{name}={value}" for name, value in postgres.items()),
        "packages": ", ".join(f"{name} {at}" for name, at in versions(PACKAGES).items()),
        "commit": _commit(),
    }


def versions(names: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed here."""
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _show(conn: psycopg.Connection, setting: str) -> str:
    row = conn.execute("select current_setting(%s)", (setting,)).fetchone()
    assert row is not None
    return str(row[0])


def _proc(file: str, key: str) -> str:
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return ""


def _memory() -> str:
    total = _proc("/proc/meminfo", "MemTotal").removesuffix(" kB")
    return f"{int(total) / (1 << 20):.0f} GiB" if total else ""


def _filesystem(folder: Path) -> str:
    """Return the kind of file system that `folder` is on, or "?" if this machine can't say."""
    with suppress(OSError):
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
        at = [(point, kind) for point, kind in mounts if folder.is_relative_to(point)]
        # The last of the longest: a mount may lie over another one.
        return max(enumerate(at), key=lambda entry: (len(entry[1][0]), entry[0]))[1][1]
    return "?"


def _sync_ms(folder: Path) -> float:
    """Return what a commit waits for at least: the median time of writing 8 KiB to the disk."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(50):
            file.write(bytes(8192))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return median(times) * 1e3


def _commit() -> str:
    asked = ["git", "-c", "safe.directory=*", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "?"
    return done.stdout.strip()


# The figures.


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the greatest."""
    return min(values), max(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` of them don't exceed."""
    ordered = sorted(values)
    at = max(0, -int(-len(ordered) * percent // 100) - 1)
    return ordered[at]


@attrs.frozen(kw_only=True)
class Table:
    """A table of results; cells are text already."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    """Printed under the table."""

    def text(self) -> str:
        """Return it as Markdown that can be read as it is: the first column left, others right."""
        lines = [list(self.columns), *(list(row) for row in self.rows)]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        rule = ["-" * widths[0], *("-" * max(1, width - 1) + ":" for width in widths[1:])]
        cells = [
            [
                cell.rjust(widths[at]) if at else cell.ljust(widths[0])
                for at, cell in enumerate(line)
            ]
            for line in lines
        ]
        body = "\n".join("| " + " | ".join(line) + " |" for line in [cells[0], rule, *cells[1:]])
        note = f"\n\n{self.note}" if self.note else ""
        return f"### {self.title}\n\n{body}{note}\n"


def write_results(name: str, *, machine: Machine, tables: Sequence[Table], raw: object) -> Path:
    """Write ``bench/results/<date>-<name>.md`` and ``.json``, and return the first.

    A second run on the same day replaces the first.

    :param raw: every trial, as JSON.
    """
    RESULTS.mkdir(exist_ok=True)
    stem = f"{machine['date'].split()[0]}-{name}"
    facts = "\n".join(f"- {key}: {value}" for key, value in machine.items())
    parts = [
        f"# {name}, {machine['date']}",
        f"    {_command()}",
        *(table.text().rstrip() for table in tables),
        f"## Machine\n\n{facts}",
    ]
    report = RESULTS / f"{stem}.md"
    report.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    stored = {"command": _command(), "machine": machine, "raw": raw}
    (RESULTS / f"{stem}.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return report


def _command() -> str:
    """Return the command that is running, without the DSN: that is this machine's."""
    words = ["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]
    for at, word in enumerate(words):
        if word == "--dsn":
            words[at + 1 : at + 2] = ["…"]
        elif word.startswith("--dsn="):
            words[at] = "--dsn=…"
    return " ".join(words)
